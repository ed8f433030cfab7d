// The graph to play with: look for a work, move among its neighbours by mouse or keyboard, read its card. Places are computed
// when the site is built. Without this script the static picture and the table stay.
(() => {
  "use strict";
  const data = window.eelitGraph;
  const root = document.querySelector(".ee-explorer");
  if (!data || !root || !window.cytoscape) return;
  const canvas = root.querySelector(".ee-canvas");
  const card = root.querySelector(".ee-card");
  const lost = root.querySelector(".ee-lost");
  const outside = root.querySelector(".ee-outside");
  const heading = root.querySelector(".ee-axis-years");
  const status = root.querySelector(".ee-status");
  const input = root.querySelector("input[role=combobox]");
  const list = root.querySelector("[role=listbox]");
  const facet = root.querySelector("select[name=colour]");
  const legend = root.querySelector(".ee-colours");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const nodes = new Map(data.nodes.map((node) => [node.key, node]));
  const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim().replace(/^(#[0-9a-f]{6})[0-9a-f]{2}$/i, "$1");
  let chosen = null;
  let way = 0;
  let ready = false; // until then nothing moves and the address stays
  root.hidden = false;
  document.querySelector(".ee-network").classList.add("ee-network--still");

  // The library would write a style element for its container, which the pages' policy forbids and the style sheet has.
  const known = document.createElement("template");
  known.id = "__________cytoscape_stylesheet";
  document.head.append(known);
  const cy = window.cytoscape({
    container: canvas,
    elements: [
      ...data.nodes.map((node) => ({ data: { id: node.key, label: node.label }, position: { x: node.at[0][0], y: node.at[0][1] } })),
      ...data.heads.map(([words, x, y]) => ({ data: { id: `head ${words}`, label: words }, position: { x, y }, classes: "head", selectable: false })),
      ...data.edges.map((edge, i) => ({ data: { id: `e${i}`, source: edge.a, target: edge.b, kind: edge.kind } })),
    ],
    layout: { name: "preset" },
    minZoom: 0.1,
    maxZoom: 3,
    autoungrabify: true,
    boxSelectionEnabled: false,
  });
  canvas.eelit = cy; // for those who test it

  // A kind of edge looks as the style sheet draws it in the legend.
  const boxes = [...root.querySelectorAll(".ee-kinds input")];
  function look(box) {
    const line = getComputedStyle(box.parentElement.querySelector("path"));
    const dashes = (line.strokeDasharray.match(/[\d.]+/g) || []).map(Number);
    const drawn = dashes.length ? { "line-style": "dashed", "line-dash-pattern": dashes } : { "line-style": "solid" };
    return { selector: `edge[kind = '${box.value}']`, style: { ...drawn, width: parseFloat(line.strokeWidth), "line-color": line.stroke, "target-arrow-color": line.stroke } };
  }

  // Labels smaller on the screen than this cannot be read; smaller than the least, they only stand in the way.
  const READABLE = 10.5;
  const LEAST = 6;
  const EDGE = 12;
  const NEAR = 120;

  const works = () => cy.nodes().not(".head");

  function paint() {
    const text = css("--md-default-fg-color") || "#222";
    const faint = css("--ee-grey");
    const colour = (node) => {
      const place = nodes.get(node.id())?.colour[facet.value] ?? null;
      return place === null ? faint : css(`--ee-plot-${place}`);
    };
    cy.style([
      { selector: "node", style: { width: data.mark, height: data.mark, shape: (n) => nodes.get(n.id())?.shape || "ellipse", "background-color": colour, "border-width": 1.5, "border-color": css("--md-default-bg-color"), label: "data(label)", "text-wrap": "wrap", "line-height": 1.1, "font-size": data.font, "font-family": getComputedStyle(document.body).fontFamily, color: text, "text-valign": "bottom", "text-margin-y": 2, "text-background-color": css("--md-default-bg-color"), "text-background-opacity": 0.7, "min-zoomed-font-size": data.many ? 9 : LEAST, "overlay-opacity": 0 } },
      { selector: "edge", style: { "target-arrow-shape": "triangle", "arrow-scale": 0.7, "curve-style": "bezier", opacity: 0.7, "overlay-opacity": 0 } },
      ...boxes.map(look),
      { selector: ".head", style: { width: 1, height: 1, "background-opacity": 0, "border-width": 0, events: "no", "font-weight": "bold", "text-valign": "center", "text-margin-y": 0, color: faint } },
      { selector: ".far", style: { opacity: 0.12 } },
      { selector: "edge.near", style: { opacity: 1, width: 2.4 } },
      { selector: ".out", style: { display: "none" } },
      { selector: "node.chosen", style: { "border-width": 4, "border-color": css("--md-accent-fg-color"), width: 1.4 * data.mark, height: 1.4 * data.mark, "font-weight": "bold" } },
    ]);
    legend.replaceChildren(
      ...[...data.colours[facet.value], "other"].map((name, i, all) => {
        const line = document.createElement("span");
        const dot = document.createElement("span");
        dot.className = `ee-dot ${i === all.length - 1 ? "ee-dot-none" : `ee-dot-${i}`}`;
        line.append(dot, name);
        return line;
      })
    );
  }

  function kinds() {
    const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    cy.batch(() => cy.edges().forEach((edge) => edge.toggleClass("out", !shown.has(edge.data("kind")))));
    if (chosen) focus(chosen);
    else remember();
  }

  function focus(key) {
    chosen = key;
    cy.batch(() => {
      cy.elements().removeClass("far near chosen");
      if (!key) return;
      const node = cy.getElementById(key);
      const shown = node.connectedEdges().not(".out");
      const near = shown.union(shown.connectedNodes()).union(node);
      const relatives = new Set([...nodes.get(key).prior, ...nodes.get(key).next].map(([other]) => other));
      cy.elements().not(near).not(".head").forEach((part) => { if (!relatives.has(part.id())) part.addClass("far"); });
      near.edges().addClass("near");
      node.addClass("chosen");
    });
    if (key) {
      const node = nodes.get(key);
      const count = cy.getElementById(key).connectedEdges().filter((edge) => !edge.hasClass("out")).length;
      status.textContent = `${node.name}, ${node.who}; ${count} edges shown; ${node.said}`;
    } else status.textContent = `${data.nodes.length} works; none chosen`;
    remember();
  }

  const least = READABLE / data.font;
  const level = () => Math.max(cy.zoom(), least);

  // Where the picture must lie for a place to be in the middle, or as near to it as leaves no strip beside the picture empty.
  function around(place, zoom) {
    const all = cy.nodes().not(".out").boundingBox();
    const along = (size, at, low, high) => {
      const ends = [size - EDGE - high * zoom, EDGE - low * zoom];
      return ends[0] > ends[1] ? (ends[0] + ends[1]) / 2 : Math.min(ends[1], Math.max(ends[0], size / 2 - at * zoom));
    };
    return { x: along(canvas.clientWidth, place.x, all.x1, all.x2), y: along(canvas.clientHeight, place.y, all.y1, all.y2) };
  }

  // A picture that still moves would overwrite the view that one asks for meanwhile. Whether it moves is told to the page.
  function halt() {
    cy.stop(true);
    delete canvas.dataset.moves;
  }
  function go(view) {
    halt();
    if (still || !ready) {
      cy.viewport(view);
      return;
    }
    canvas.dataset.moves = "";
    cy.animate({ ...view, duration: 200, complete: () => { delete canvas.dataset.moves; } });
  }

  // How much of what is to be seen a view cuts off at its edges: names that cannot be read from their start are worst.
  function cuts(boxes, { zoom, pan }, gone) {
    let sum = 0;
    for (const box of boxes) {
      const [x1, x2] = [box.x1 * zoom + pan.x, box.x2 * zoom + pan.x];
      const [y1, y2] = [box.y1 * zoom + pan.y, box.y2 * zoom + pan.y];
      const out = x2 < 0 || y2 < 0 || x1 > canvas.clientWidth || y1 > canvas.clientHeight;
      sum += out ? gone : 3 * (x1 < 0) + (x2 > canvas.clientWidth);
    }
    return sum;
  }

  // The view beside the given one, but not far from it, that cuts least; `gone` is what a part wholly outside counts.
  function settled({ zoom, pan }, parts, gone) {
    const boxes = parts.map((part) => part.boundingBox());
    const all = cy.nodes().not(".out").boundingBox();
    let best = { cost: Infinity, x: pan.x };
    for (let by = -NEAR; by <= NEAR; by += 6) {
      const x = pan.x + by;
      if (all.x1 * zoom + x > EDGE + 0.5 || all.x2 * zoom + x < canvas.clientWidth - EDGE - 0.5) continue;
      const cost = cuts(boxes, { zoom, pan: { x, y: pan.y } }, gone) + Math.abs(by) / NEAR;
      if (cost < best.cost) best = { cost, x };
    }
    return { zoom, pan: { x: best.x, y: pan.y } };
  }

  // Beside its card a work is shown with all that it leads to, if the names can be read then; else it is in the middle.
  function surround(node) {
    const box = works().not(".far").boundingBox();
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    const seen = cy.extent();
    if (cy.zoom() >= least && box.x1 >= seen.x1 && box.x2 <= seen.x2 && box.y1 >= seen.y1 && box.y2 <= seen.y2) return;
    const fits = Math.min((wide - 2 * EDGE) / box.w, (high - 2 * EDGE) / box.h);
    if (fits < least) go(settled({ zoom: least, pan: around(node.position(), least) }, works().not(".far"), 2));
    else {
      const zoom = Math.min(fits, level());
      go({ zoom, pan: around({ x: (box.x1 + box.x2) / 2, y: (box.y1 + box.y2) / 2 }, zoom) });
    }
  }

  function reach(key) {
    const node = cy.getElementById(key);
    if (!card.hidden) {
      surround(node);
      return;
    }
    const box = node.renderedPosition();
    const zoom = level();
    const inside = box.x > 40 && box.y > 30 && box.x < canvas.clientWidth - 40 && box.y < canvas.clientHeight - 40;
    if (!inside || zoom !== cy.zoom()) go({ zoom, pan: around(node.position(), zoom) });
  }

  const make = (kind, text, name) => {
    const made = document.createElement(kind);
    if (text) made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  const PRIOR = { built: () => "built upon", cited: () => "cited", shared: (n) => `cited together by ${n} works` };
  const NEXT = { built: () => "builds on it", cited: () => "cites it", shared: (n) => `both cite ${n} of the same works` };
  function relatives(title, found, words) {
    const part = make("div");
    if (!found.length) return part;
    part.append(make("h3", `${title} (${found.length})`));
    const items = make("ul");
    for (const [key, link, shared] of found) {
      const item = make("li");
      const button = make("button", nodes.get(key).name);
      button.type = "button";
      button.addEventListener("click", () => { open(key); reach(key); });
      item.append(button, `, ${words[link](shared)}`);
      items.append(item);
    }
    part.append(items);
    return part;
  }

  const SVG = "http://www.w3.org/2000/svg";
  function drawn(kind, set, text = "") {
    const part = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(set)) part.setAttribute(name, value);
    part.textContent = text;
    return part;
  }

  // The curve between its lowest and highest quality; the dashed line is the full model's cost.
  function curve({ quality, points }) {
    const [costs, found] = [points.map(([x]) => x), points.map(([, y]) => y)];
    const [low, high, most] = [Math.min(...found), Math.max(...found), Math.max(1, ...costs)];
    const x = (cost) => (38 + (178 * cost) / most).toFixed(1);
    const y = (reached) => (66 - (48 * (reached - low)) / (high - low || 1)).toFixed(1);
    const percent = (share) => `${Math.round(100 * share)} %`;
    const said = `${quality} from ${low.toFixed(3)} to ${high.toFixed(3)}, at ${percent(Math.min(...costs))} to ${percent(Math.max(...costs))} of the full model's cost`;
    const svg = drawn("svg", { viewBox: "0 0 232 92", class: "ee-mini", role: "img", "aria-label": said });
    svg.append(
      drawn("title", {}, said),
      drawn("path", { class: "axis", d: "M38 14V70H218" }),
      drawn("path", { class: "full", d: `M${x(1)} 14V70` }),
      drawn("path", { class: "line", d: `M${points.map(([cost, reached]) => `${x(cost)} ${y(reached)}`).join("L")}` }),
      drawn("text", { x: 34, y: Number(y(high)) + 4, "text-anchor": "end" }, high.toFixed(2)),
      ...(high > low ? [drawn("text", { x: 34, y: Number(y(low)) + 4, "text-anchor": "end" }, low.toFixed(2))] : []),
      drawn("text", { x: 0, y: 8 }, quality),
      drawn("text", { x: 38, y: 84, "text-anchor": "middle" }, "0"),
      drawn("text", { x: 120, y: 84, "text-anchor": "middle" }, "share of cost"),
      drawn("text", { x: x(1), y: 84, "text-anchor": "middle" }, "100 %")
    );
    return svg;
  }

  function open(key) {
    const node = nodes.get(key);
    focus(key);
    const close = make("button", "×", "ee-close");
    close.type = "button";
    close.setAttribute("aria-label", "Close the card");
    close.addEventListener("click", shut);
    const head = make("h2");
    const link = make("a", node.name);
    link.href = `papers/${key}.html`;
    head.append(link);
    const idea = make("p", node.idea);
    if (node.more) {
      const more = make("a", "more");
      more.href = `papers/${key}.html#idea`;
      more.setAttribute("aria-label", `More of the idea of ${node.name}`);
      idea.append(" ", more);
    }
    card.replaceChildren(close, head, make("p", `${node.title}. ${node.who}.`, "ee-muted"), idea, make("p", node.terms.join(" · "), "ee-muted"));
    const run = make("p");
    if (!node.runs) run.textContent = node.said;
    else {
      const method = make("a", "Method");
      method.href = `methods/${key}.html`;
      run.append(method, ` ${node.said}`);
    }
    card.append(run);
    if (node.curve && node.curve.points.length > 1) card.append(curve(node.curve));
    card.append(relatives("Prior works", node.prior, PRIOR), relatives("Derivative works", node.next, NEXT));
    if (card.hidden) {
      card.hidden = false;
      cy.resize();
    }
    card.scrollTop = 0;
  }

  function shut() {
    card.hidden = true;
    cy.resize();
    focus(null);
    canvas.focus();
  }

  // Arrows go to the nearest work in that direction.
  function step(dx, dy) {
    const from = chosen ? cy.getElementById(chosen).position() : { x: (cy.extent().x1 + cy.extent().x2) / 2, y: (cy.extent().y1 + cy.extent().y2) / 2 };
    let best = null;
    works().forEach((node) => {
      if (node.id() === chosen) return;
      const x = node.position().x - from.x;
      const y = node.position().y - from.y;
      const along = x * dx + y * dy;
      const aside = Math.abs(x * dy) + Math.abs(y * dx);
      if (along <= 1 || aside > 2.5 * along) return;
      const far = along + 2 * aside;
      if (!best || far < best.far) best = { far, id: node.id() };
    });
    if (!best && !chosen) best = { id: works()[0].id() };
    if (best) {
      if (card.hidden) focus(best.id);
      else open(best.id);
      reach(best.id);
    }
  }

  function zoom(factor) {
    halt();
    cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: canvas.clientWidth / 2, y: canvas.clientHeight / 2 } });
  }
  function fit() {
    halt();
    cy.fit(cy.nodes().not(".out"), EDGE);
  }

  // The topmost work of the year that has most.
  function top() {
    const counts = new Map();
    works().forEach((node) => { counts.set(node.position().x, (counts.get(node.position().x) || 0) + 1); });
    const most = Math.max(...counts.values());
    return works().filter((node) => counts.get(node.position().x) === most).min((node) => node.position().y).ele;
  }

  // All works if their names can be read then; else a part: around the chosen work, the year with most works, or the upper
  // left corner: among works that stand close together only the picture's own edge is one that cuts no name at its start,
  // and the picture is turned so that the work with most neighbours is near that corner.
  function begin() {
    fit();
    if (chosen && !card.hidden) {
      reach(chosen);
      return;
    }
    if (data.many || cy.zoom() * data.font >= READABLE - 0.5) return;
    const all = cy.nodes().not(".out").boundingBox();
    const corner = { x: all.x1, y: all.y1 };
    const middle = chosen ? cy.getElementById(chosen).position() : way ? top().position() : corner;
    const view = { zoom: least, pan: around(middle, least) };
    cy.viewport(way && !chosen ? settled(view, cy.nodes().not(".out"), 0) : view);
  }

  // The years keep above their columns, whatever part of these is in view; where they would touch, some are left out.
  function years() {
    let end = -Infinity;
    for (const year of heading.children) {
      const x = Number(year.dataset.x) * cy.zoom() + cy.pan().x;
      const half = year.offsetWidth / 2;
      const at = Math.min(Math.max(x, half), canvas.clientWidth - half);
      const shown = x >= 0 && x <= canvas.clientWidth && at - half >= end;
      year.style.left = `${at - half}px`;
      year.style.visibility = shown ? "visible" : "hidden";
      if (shown) end = at + half + 6;
    }
  }

  // Says that more lies outside of the view, and where.
  const coarse = matchMedia("(pointer: coarse)").matches;
  function told() {
    const seen = cy.extent();
    const places = works().map((node) => node.position());
    const arrows = { "←": ({ x }) => x < seen.x1, "→": ({ x }) => x > seen.x2, "↑": ({ y }) => y < seen.y1, "↓": ({ y }) => y > seen.y2 };
    const count = places.filter((place) => Object.values(arrows).some((lies) => lies(place))).length;
    const sides = Object.keys(arrows).filter((arrow) => places.some(arrows[arrow]));
    const words = [];
    if (count) words.push(`${sides.join(" ")} ${count} ${count > 1 ? "works lie" : "work lies"} outside: ${coarse ? "move with two fingers" : "drag to see more"}`);
    if (!data.many && cy.zoom() * data.font < LEAST) words.push("zoom in to read the names");
    outside.textContent = words.join("; ") || "\u00a0";
  }

  let asked = 0;
  function follow() {
    if (asked) return;
    asked = requestAnimationFrame(() => {
      asked = 0;
      if (way) years();
      told();
    });
  }
  cy.on("viewport resize", follow);

  const KEYS = {
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    Enter: () => chosen && open(chosen), Escape: shut, "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit,
  };
  canvas.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });
  cy.on("tapstart", halt);
  cy.on("tap", "node", (event) => { open(event.target.id()); reach(event.target.id()); });
  cy.on("tap", (event) => { if (event.target === cy && !card.hidden) shut(); });
  card.addEventListener("keydown", (event) => { if (event.key === "Escape") shut(); });

  // The page keeps the wheel and one finger, to scroll; the library would take both, so it must not see them.
  const stage = canvas.parentElement;
  stage.addEventListener("wheel", (event) => { if (event.ctrlKey || event.metaKey) halt(); else event.stopPropagation(); }, { capture: true, passive: true });

  // Two fingers move and zoom the picture; a finger that moves is no tap.
  let touch = null;
  function fingers(event) {
    const box = canvas.getBoundingClientRect();
    const [one, other = one] = event.touches;
    const middle = { x: (one.clientX + other.clientX) / 2 - box.left, y: (one.clientY + other.clientY) / 2 - box.top };
    return { ...middle, count: event.touches.length, apart: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) };
  }
  function slide(event) {
    event.stopPropagation();
    const now = fingers(event);
    if (!touch || touch.count !== now.count) touch = now;
    if (now.count === 1) {
      if (!touch.left && Math.hypot(now.x - touch.x, now.y - touch.y) > 10) {
        touch.left = true;
        dispatchEvent(new Event("touchcancel"));
      }
      return;
    }
    if (event.cancelable) event.preventDefault();
    halt();
    cy.panBy({ x: now.x - touch.x, y: now.y - touch.y });
    cy.zoom({ level: (cy.zoom() * now.apart) / (touch.apart || now.apart || 1), renderedPosition: { x: now.x, y: now.y } });
    touch = now;
  }
  canvas.addEventListener("touchstart", (event) => { touch = fingers(event); }, { capture: true, passive: true });
  canvas.addEventListener("touchmove", slide, { capture: true, passive: false });

  // Search: a combobox with a list of names.
  let options = [];
  let active = -1;
  function suggest() {
    const asked = input.value.trim().toLowerCase();
    options = asked ? data.nodes.filter((node) => `${node.name} ${node.key} ${node.title}`.toLowerCase().includes(asked)).slice(0, 8) : [];
    active = options.length ? 0 : -1;
    list.replaceChildren(
      ...options.map((node, i) => {
        const option = make("li", `${node.name}, ${node.who}`);
        option.id = `ee-option-${i}`;
        option.setAttribute("role", "option");
        option.addEventListener("pointerdown", (event) => { event.preventDefault(); choose(i); });
        return option;
      })
    );
    mark();
  }
  function mark() {
    list.hidden = !options.length;
    input.setAttribute("aria-expanded", String(options.length > 0));
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === active)));
    if (active >= 0) input.setAttribute("aria-activedescendant", `ee-option-${active}`);
    else input.removeAttribute("aria-activedescendant");
  }
  function choose(i) {
    const node = options[i];
    options = [];
    mark();
    input.value = node.name;
    open(node.key);
    reach(node.key);
  }
  input.addEventListener("input", suggest);
  input.addEventListener("blur", () => { options = []; mark(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (!options.length) return suggest();
      active = (active + (event.key === "ArrowDown" ? 1 : -1) + options.length) % options.length;
      mark();
      event.preventDefault();
    } else if (event.key === "Enter" && active >= 0 && options.length) {
      event.preventDefault();
      choose(active);
    } else if (event.key === "Escape") {
      options = [];
      mark();
    }
    event.stopPropagation();
  });

  const ways = [...root.querySelectorAll("[data-layout]")];
  const notes = [...root.querySelectorAll("[data-note]")];
  heading.append(
    ...data.years.map(([words, x]) => {
      const year = make("span", words);
      year.dataset.x = x;
      return year;
    })
  );
  function lay(number) {
    way = number;
    ways.forEach((button, i) => button.setAttribute("aria-pressed", String(i === number)));
    cy.batch(() => works().forEach((node) => node.position({ x: nodes.get(node.id()).at[number][0], y: nodes.get(node.id()).at[number][1] })));
    cy.nodes(".head").toggleClass("out", number !== 0);
    heading.hidden = number === 0;
    notes.forEach((note) => { note.hidden = Number(note.dataset.note) !== number; });
    begin();
    follow();
    remember();
  }

  const KINDS = boxes.map((box) => box.value);
  const USUAL = boxes.filter((box) => box.checked).map((box) => box.value).join();
  function remember() {
    if (!ready) return;
    lost.hidden = true;
    const query = new URLSearchParams();
    if (way) query.set("layout", "years");
    if (facet.value !== "policy") query.set("colour", facet.value);
    const drawn = boxes.filter((box) => box.checked).map((box) => box.value);
    if (drawn.join() !== USUAL) for (const kind of drawn.length ? drawn : ["none"]) query.append("edges", kind);
    if (chosen) query.set("work", chosen);
    try {
      history.replaceState(null, "", query.toString() ? `?${query}` : location.pathname);
    } catch {
      // Opened from disk: some browsers forbid it there, and only the address misses the state.
    }
  }

  ways.forEach((button, i) => button.addEventListener("click", () => lay(i)));
  facet.addEventListener("change", () => { paint(); remember(); });
  boxes.forEach((box) => box.addEventListener("change", kinds));
  root.querySelector("[data-act=in]").addEventListener("click", () => zoom(1.25));
  root.querySelector("[data-act=out]").addEventListener("click", () => zoom(0.8));
  root.querySelector("[data-act=fit]").addEventListener("click", fit);
  new MutationObserver(paint).observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });

  // On a narrow screen the legends would take all of the first view.
  const legends = root.querySelector(".ee-keys");
  const wide = matchMedia("(min-width: 45em)");
  const fold = () => { legends.open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();

  // What the address asks for and is not there is named, and left out.
  function recall() {
    const query = new URLSearchParams(location.search);
    const known = {
      layout: { is: (value) => ways.some((button) => button.dataset.layout === value), words: "layout of the graph" },
      colour: { is: (value) => Object.hasOwn(data.colours, value), words: "facet to colour by" },
      edges: { is: (value) => value === "none" || KINDS.includes(value), words: "kind of edge" },
      work: { is: (value) => nodes.has(value), words: "work of the collection" },
    };
    const wrong = [];
    const found = {};
    for (const [name, { is, words }] of Object.entries(known)) {
      const values = query.getAll(name).filter((value) => value);
      found[name] = values.filter(is);
      wrong.push(...values.filter((value) => !is(value)).map((value) => `${value} is no ${words}`));
    }
    if (found.colour.length) facet.value = found.colour[0];
    if (found.edges.length) for (const box of boxes) box.checked = found.edges.includes(box.value);
    paint();
    kinds();
    lay(found.layout[0] === "years" ? 1 : 0);
    focus(null);
    if (found.work.length) { open(found.work[0]); reach(found.work[0]); }
    lost.textContent = wrong.length ? `The address asks for what is not here: ${wrong.join("; ")}.` : "";
    lost.hidden = !wrong.length;
  }

  recall();
  ready = true;
})();
