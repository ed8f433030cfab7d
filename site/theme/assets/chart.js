// Draws each figure's Vega-Lite description over its static picture, with a check-box per curve. Without this script, or
// without vega, the static picture and the table stay. `eelitChart` is what the compare page draws with.
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
      legend: { labelColor: text, labelFontSize: 12 },
      point: { opacity: 1 },
      range: { category: PALETTE.map(css) },
    };
  };

  // A tooltip of our own: vega's default one is the browser's, which the keyboard and touch never see.
  const tip = document.createElement("div");
  tip.className = "ee-tip";
  tip.hidden = true;
  document.body.append(tip);
  const showTip = (_handler, event, _item, value) => {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    tip.replaceChildren(
      ...Object.entries(value)
        .filter(([, said]) => said !== "")
        .map(([name, said]) => {
          const line = document.createElement("div");
          line.textContent = `${name}: ${said}`;
          return line;
        })
    );
    tip.style.left = `${Math.min(event.pageX + 14, document.documentElement.clientWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.pageY + 14}px`;
  };

  async function draw(target, spec, shown) {
    const values = spec.data.values.filter((row) => shown.has(row.curve));
    const width = Math.max(180, target.clientWidth - 70);
    const compiled = window.vegaLite.compile({ ...spec, data: { values }, width, autosize: { type: "fit-x", contains: "padding" } }, { config: look() }).spec;
    const view = new window.vega.View(window.vega.parse(compiled, null, { ast: true }), {
      renderer: "svg",
      container: target,
      hover: false,
      tooltip: showTip,
      expr: window.vegaInterpreter.expressionInterpreter,
    });
    await view.runAsync();
    return view;
  }

  // Returns {show(names)}; the figure is drawn anew when its width or the colour scheme changes.
  function chart(target, spec, names) {
    let shown = new Set(names);
    let view = null;
    let turn = 0;
    const redraw = async () => {
      const mine = ++turn;
      if (view) view.finalize();
      view = null;
      target.replaceChildren();
      const made = await draw(target, spec, shown);
      if (mine === turn) view = made;
      else made.finalize();
      target.dataset.drawn = String(mine);
    };
    let width = 0;
    new ResizeObserver(() => {
      if (Math.abs(target.clientWidth - width) < 2) return;
      width = target.clientWidth;
      redraw();
    }).observe(target);
    new MutationObserver(redraw).observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });
    return {
      show(wanted, replaced) {
        shown = new Set(wanted);
        if (replaced) spec = replaced;
        return redraw();
      },
    };
  }

  for (const figure of document.querySelectorAll(".ee-chart")) {
    const spec = JSON.parse(figure.querySelector(".ee-spec").textContent);
    const names = [...new Set(spec.data.values.map((row) => row.curve))];
    const target = document.createElement("div");
    target.className = "ee-vega";
    const picture = figure.querySelector(".ee-static");
    picture.before(target);
    picture.hidden = true;
    const made = chart(target, spec, names);
    if (names.length < 2) continue;
    const choice = document.createElement("fieldset");
    choice.className = "ee-choice";
    const legend = document.createElement("legend");
    legend.textContent = "Curves shown";
    choice.append(legend);
    names.forEach((name, i) => {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.value = name;
      const mark = document.createElement("span");
      mark.className = `ee-dot ee-dot-${i % PALETTE.length}`;
      label.append(box, mark, name);
      choice.append(label);
    });
    choice.addEventListener("change", () => made.show([...choice.querySelectorAll(":checked")].map((box) => box.value)));
    target.after(choice);
  }
  window.eelitChart = chart;
})();
