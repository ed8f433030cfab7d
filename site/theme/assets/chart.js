// Draws each figure's Vega-Lite description over its static picture, with a check-box per curve, and lets the keyboard
// walk along the points. Without this script, or without vega, the static picture and the tables stay. `eelitChart` is
// what the compare page draws with.
(() => {
  "use strict";
  if (!window.vega || !window.vegaLite || !window.vegaInterpreter) return;
  const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
  const PALETTE = Array.from({ length: 12 }, (_, i) => `--ee-plot-${i}`);

  const look = () => {
    const text = css("--md-default-fg-color--light") || "#555";
    const grid = css("--md-default-fg-color--lightest") || "#ddd";
    return {
      background: null,
      font: getComputedStyle(document.body).fontFamily,
      axis: { labelColor: text, titleColor: text, gridColor: grid, domainColor: text, tickColor: text, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      view: { stroke: null },
      rule: { color: text },
      point: { opacity: 1 },
      range: { category: PALETTE.map(css) },
    };
  };

  function element(kind, className, attributes = {}) {
    const made = document.createElement(kind);
    made.className = className;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // A tooltip of our own: vega's default one is the browser's, which the keyboard and touch never see.
  const tip = element("div", "ee-tip");
  tip.hidden = true;
  document.body.append(tip);
  function tell(value, x, y) {
    tip.hidden = !value;
    if (!value) return;
    tip.replaceChildren(
      ...Object.entries(value).map(([name, said]) => {
        const line = document.createElement("div");
        line.textContent = `${name}: ${said}`;
        return line;
      })
    );
    tip.style.left = `${Math.max(8, Math.min(x + 14, document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${y + 14}px`;
  }

  // The spec with the looks given out in this order: a look is a curve's place in the domain.
  const styled = (spec, order) => JSON.parse(JSON.stringify(spec), (name, value) => (name === "scale" && value.domain ? { ...value, domain: order } : value));

  async function draw(target, spec, shown, order) {
    const among = (values) => values.filter((row) => shown.has(row.curve));
    const layer = spec.layer.map((part) => (part.data ? { ...part, data: { values: among(part.data.values) } } : part));
    const width = Math.max(180, target.clientWidth);
    const compiled = window.vegaLite.compile({ ...styled({ ...spec, layer }, order), data: { values: among(spec.data.values) }, width, autosize: { type: "fit-x", contains: "padding" } }, { config: look() }).spec;
    const view = new window.vega.View(window.vega.parse(compiled, null, { ast: true }), {
      renderer: "svg",
      container: target,
      hover: false,
      tooltip: (_handler, event, _item, value) => (value && event ? tell(value, event.pageX, event.pageY) : tell(null)),
      expr: window.vegaInterpreter.expressionInterpreter,
    });
    await view.runAsync();
    return view;
  }

  // Where a key leads from a point: left and right along the curve, up and down to the nearest point of another one.
  function step(key, place, curves) {
    const at = curves.findIndex((points) => points.includes(place));
    if (at < 0) return curves[0][0];
    const points = curves[at];
    const along = { ArrowLeft: points.indexOf(place) - 1, ArrowRight: points.indexOf(place) + 1, Home: 0, End: points.length - 1 }[key];
    if (along !== undefined) return points[Math.min(Math.max(along, 0), points.length - 1)];
    const other = curves[(at + (key === "ArrowUp" ? -1 : 1) + curves.length) % curves.length];
    return other.reduce((best, point) => (Math.abs(point.share - place.share) < Math.abs(best.share - place.share) ? point : best));
  }

  // Makes the frame a stop of the Tab key, in which the arrow keys walk; returns what forgets the place.
  function walk(frame, said, spec, state) {
    const ring = element("div", "ee-ring");
    ring.hidden = true;
    frame.append(ring);
    const quality = spec.layer.find((layer) => layer.encoding.tooltip).encoding.tooltip.find((told) => told.field === "quality").title;
    let place = null;
    function leave() {
      ring.hidden = tip.hidden = true;
    }
    function show() {
      const [left, top] = state.view.origin();
      const { left: besides = 0, top: above = 0 } = state.view.padding();
      const x = left + besides + state.view.scale("x")(place.share);
      const y = top + above + state.view.scale("y")(place.quality);
      ring.hidden = false;
      ring.style.left = `${x}px`;
      ring.style.top = `${y}px`;
      const box = frame.getBoundingClientRect();
      const told = { curve: place.curve, setting: place.knob, [quality]: place.quality.toFixed(4).replace("-", "\u2212"), cost: `${(100 * place.share).toFixed(1)}%` };
      tell(told, box.left + window.scrollX + x, box.top + window.scrollY + y);
      said.classList.remove("is-hint");
      said.textContent = Object.entries(told).map(([name, value]) => (name === "curve" || name === "setting" ? value : `${name} ${value}`)).join(", ");
    }
    frame.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return leave();
      if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key) || event.ctrlKey || event.altKey || event.metaKey) return undefined;
      if (!state.view || !state.shown.size) return undefined;
      event.preventDefault();
      const curves = [...state.shown].map((name) => spec.data.values.filter((row) => row.curve === name));
      place = step(event.key, place, curves);
      return show();
    });
    frame.addEventListener("blur", leave);
    return () => {
      leave();
      place = null;
    };
  }

  // Puts a picture to play with over a figure's static one. Returns {names, show(names), below}: the static picture is
  // back when no curve is shown; the figure is drawn anew when its width or the colour scheme changes. With `anew`, few
  // curves of many take the first looks, which differ most, and their samples in the legend and the table do as well.
  const FEW = 6;
  function chart(figure, anew = false) {
    const spec = JSON.parse(figure.querySelector(".ee-spec").textContent);
    const names = [...new Set(spec.data.values.map((row) => row.curve))];
    const picture = figure.querySelector(".ee-static");
    const title = picture.querySelector("title").textContent;
    const frame = element("div", "ee-walk", { role: "group", tabindex: "0", "aria-label": `${title.split(":")[0]}. The arrow keys walk along the points.` });
    const target = element("div", "ee-vega");
    const said = element("p", "ee-said", { "aria-live": "polite" });
    frame.append(target);
    picture.before(frame, said);
    const state = { view: null, shown: new Set(names) };
    const order = () => (anew && state.shown.size && state.shown.size <= FEW ? [...state.shown] : names);
    const parts = [...figure.querySelectorAll("[data-curve]")];
    const samples = names.map((name) => parts.find((part) => part.dataset.curve === name).querySelector(".ee-swatch").cloneNode(true));
    function sample() {
      for (const part of figure.querySelectorAll("[data-curve]")) {
        const place = order().indexOf(part.dataset.curve);
        if (place >= 0) part.querySelector(".ee-swatch").replaceWith(samples[place].cloneNode(true));
      }
    }
    const forget = walk(frame, said, spec, state);
    let turn = 0;
    const scheme = () => document.body.dataset.mdColorScheme;
    let width = 0; // for which it was drawn last
    let colours = "";

    async function redraw() {
      const mine = ++turn;
      if (state.view) state.view.finalize();
      state.view = null;
      forget();
      target.replaceChildren();
      [width, colours] = [target.clientWidth, scheme()];
      frame.ariaBusy = String(state.shown.size > 0 && width > 0);
      if (frame.ariaBusy === "false") return;
      const made = await draw(target, spec, state.shown, order());
      if (mine !== turn) {
        made.finalize();
        return;
      }
      state.view = made;
      frame.ariaBusy = "false";
    }
    function show(wanted) {
      state.shown = new Set(names.filter((name) => wanted.includes(name)));
      if (anew) sample();
      said.classList.add("is-hint");
      said.textContent = "With the keyboard, the arrow keys walk from point to point.";
      frame.hidden = said.hidden = state.shown.size === 0;
      picture.hidden = state.shown.size > 0;
      return redraw();
    }
    // Both are told of more than changes: of the first width, and of the scheme that the theme sets anew when it starts.
    const renew = () => { if (Math.abs(target.clientWidth - width) >= 2 || colours !== scheme()) redraw(); };
    new ResizeObserver(renew).observe(target);
    new MutationObserver(renew).observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });
    return { names, show, below: said };
  }

  function choiceOf(figure, name) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.value = name;
    const swatch = [...figure.querySelectorAll("[data-curve]")].find((row) => row.dataset.curve === name).querySelector(".ee-swatch");
    label.append(box, swatch.cloneNode(true), name);
    label.dataset.curve = name;
    return label;
  }

  // Check-boxes of curves, in order; a chart whose curves have kinds gets a button for all, for none and for each kind,
  // and its single curves are folded away. Curves of no kind, the baselines, stay in such a picture.
  function choose(figure, made) {
    const items = [...figure.querySelectorAll(".ee-lines [data-curve]")];
    const kinds = new Map(items.filter((item) => item.dataset.kind).map((item) => [item.dataset.curve, item.dataset.kind]));
    const fixed = kinds.size ? made.names.filter((name) => !kinds.has(name)) : [];
    const choice = element("fieldset", "ee-choice");
    const legend = document.createElement("legend");
    legend.textContent = "Curves shown";
    choice.append(legend, ...made.names.filter((name) => !fixed.includes(name)).map((name) => choiceOf(figure, name)));
    const boxes = [...choice.querySelectorAll("input")];
    function update() {
      const shown = [...fixed, ...boxes.filter((box) => box.checked).map((box) => box.value)];
      if (kinds.size) for (const item of items) item.hidden = !shown.includes(item.dataset.curve);
      made.show(shown);
    }
    if (!kinds.size) {
      choice.addEventListener("change", update);
      made.below.after(choice);
      return;
    }
    const row = element("div", "ee-kinds-of", { role: "group", "aria-label": "Curves shown, by kind of exit policy" });
    const note = element("p", "ee-muted ee-always");
    note.textContent = `Always shown: ${fixed.join("; ")}.`;
    figure.classList.add("ee-by-kind"); // the legend stays, as single curves are folded away
    const buttons = [];
    const add = (said, members, wanted) => {
      const button = element("button", "", { type: "button" });
      button.textContent = said;
      button.addEventListener("click", () => {
        const checked = wanted ?? !members.every((box) => box.checked);
        for (const box of members) box.checked = checked;
        changed();
      });
      buttons.push({ button, members, isKind: wanted === undefined });
      row.append(button);
    };
    add("all", boxes, true);
    add("none", boxes, false);
    for (const kind of [...new Set(kinds.values())].sort()) {
      const members = boxes.filter((box) => kinds.get(box.value) === kind);
      add(`${kind} (${members.length})`, members);
    }
    function changed() {
      for (const { button, members, isKind } of buttons) {
        if (!isKind) continue;
        const count = members.filter((box) => box.checked).length;
        button.ariaPressed = count === 0 ? "false" : count === members.length ? "true" : "mixed";
      }
      update();
    }
    const single = element("details", "ee-fold");
    const summary = document.createElement("summary");
    summary.textContent = "Choose single curves";
    single.append(summary, choice);
    choice.addEventListener("change", changed);
    made.below.after(row, note, single);
    changed();
  }

  for (const figure of document.querySelectorAll(".ee-chart")) {
    const hasKinds = figure.querySelector(".ee-lines [data-kind]") !== null;
    const made = chart(figure, hasKinds);
    made.show(made.names);
    if (made.names.length > 1) choose(figure, made);
  }
  window.eelitChart = chart;
})();
