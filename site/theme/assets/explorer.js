// The graph to play with: look for a work, move among its neighbours by mouse or keyboard, read its card. Places are computed
// when the site is built. Without this script the static picture and the table stay.
(() => {
  "use strict";
  const data = window.eelitGraph;
  const root = document.querySelector(".ee-explorer");
  if (!data || !root || !window.cytoscape) return;
  const canvas = root.querySelector(".ee-canvas");
  const card = root.querySelector(".ee-card");
  const status = root.querySelector(".ee-status");
  const input = root.querySelector("input[role=combobox]");
  const list = root.querySelector("[role=listbox]");
  const facet = root.querySelector("select[name=colour]");
  const legend = root.querySelector(".ee-colours");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const nodes = new Map(data.nodes.map((node) => [node.key, node]));
  const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim().replace(/^(#[0-9a-f]{6})[0-9a-f]{2}$/i, "$1");
  const SHAPES = { none: "ellipse", "passed-now": "star", unchanged: "star", "failed-now": "triangle", "earlier-failed": "triangle" };
  const shape = (run) => SHAPES[run] || "diamond";
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
      ...data.years.map(([year, x, y]) => ({ data: { id: `y${year}`, label: String(year) }, position: { x, y }, classes: "year out", selectable: false, grabbable: false })),
      ...data.edges.map((edge, i) => ({ data: { id: `e${i}`, source: edge.a, target: edge.b, kind: edge.kind } })),
    ],
    layout: { name: "preset" },
    minZoom: 0.1,
    maxZoom: 3,
    autoungrabify: true,
    boxSelectionEnabled: false,
  });
  canvas.eelit = cy; // for those who test it

  const works = () => cy.nodes().not(".year");

  function paint() {
    const text = css("--md-default-fg-color") || "#222";
    const faint = css("--ee-grey");
    const colour = (node) => {
      const place = nodes.get(node.id())?.colour[facet.value] ?? null;
      return place === null ? faint : css(`--ee-plot-${place}`);
    };
    cy.style([
      { selector: "node", style: { width: 18, height: 18, shape: (n) => shape(nodes.get(n.id())?.run), "background-color": colour, "border-width": 1.5, "border-color": css("--md-default-bg-color"), label: "data(label)", "font-size": 13, "font-family": getComputedStyle(document.body).fontFamily, color: text, "text-valign": "bottom", "text-margin-y": 4, "min-zoomed-font-size": data.many ? 9 : 0, "overlay-opacity": 0 } },
      { selector: "edge", style: { width: 1.1, "line-color": css("--ee-calm"), "target-arrow-color": css("--ee-calm"), "target-arrow-shape": "triangle", "arrow-scale": 0.7, "curve-style": "bezier", opacity: 0.4, "overlay-opacity": 0 } },
      { selector: "edge[kind = 'builds']", style: { "line-color": css("--ee-good"), "target-arrow-color": css("--ee-good"), width: 1.8 } },
      { selector: "edge[kind = 'compares']", style: { "line-color": css("--ee-second"), "target-arrow-color": css("--ee-second"), "line-style": "dashed" } },
      { selector: "edge[kind = 'other']", style: { "line-style": "dashed", "line-dash-pattern": [2, 4] } },
      { selector: "edge[kind = 'unverified']", style: { "line-style": "dotted", "line-color": faint, "target-arrow-color": faint } },
      { selector: ".year", style: { "background-opacity": 0, "border-width": 0, events: "no", "font-size": 16, "text-valign": "center", color: faint } },
      { selector: ".far", style: { opacity: 0.12 } },
      { selector: "edge.near", style: { opacity: 0.95, width: 2.2 } },
      { selector: ".out", style: { display: "none" } },
      { selector: "node.chosen", style: { "border-width": 4, "border-color": css("--md-accent-fg-color"), width: 24, height: 24, "font-weight": "bold" } },
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

  const boxes = [...document.querySelectorAll(".ee-kinds input")];
  function kinds() {
    const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    cy.batch(() => cy.edges().forEach((edge) => edge.toggleClass("out", !shown.has(edge.data("kind")))));
    if (chosen) focus(chosen);
  }

  let chosen = null;
  function focus(key) {
    chosen = key;
    cy.batch(() => {
      cy.elements().removeClass("far near chosen");
      if (!key) return;
      const node = cy.getElementById(key);
      const near = node.closedNeighborhood().filter((part) => !part.hasClass("out"));
      const relatives = new Set([...nodes.get(key).prior, ...nodes.get(key).next].map(([other]) => other));
      cy.elements().not(near).not(".year").forEach((part) => { if (!relatives.has(part.id())) part.addClass("far"); });
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

  function reach(key) {
    const node = cy.getElementById(key);
    const box = node.renderedPosition();
    const inside = box.x > 40 && box.y > 30 && box.x < canvas.clientWidth - 40 && box.y < canvas.clientHeight - 40;
    if (!inside) {
      if (still) cy.center(node);
      else cy.animate({ center: { eles: node }, duration: 200 });
    }
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
    part.append(make("h4", title));
    const items = make("ul");
    for (const [key, link, shared] of found.slice(0, 6)) {
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

  function curve(points) {
    const ns = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(ns, "svg");
    svg.setAttribute("viewBox", "0 0 120 50");
    svg.setAttribute("class", "ee-mini");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "Quality against cost as measured on the track");
    const ys = points.map(([, y]) => y);
    const low = Math.min(...ys);
    const high = Math.max(...ys);
    const path = document.createElementNS(ns, "path");
    path.setAttribute("d", "M" + points.map(([x, y]) => `${(4 + 112 * Math.min(x, 1.1) / 1.1).toFixed(1)} ${(45 - 40 * (y - low) / (high - low || 1)).toFixed(1)}`).join("L"));
    svg.append(path);
    return svg;
  }

  function open(key) {
    const node = nodes.get(key);
    focus(key);
    const close = make("button", "×", "ee-close");
    close.type = "button";
    close.setAttribute("aria-label", "Close the card");
    close.addEventListener("click", shut);
    const head = make("h3");
    const link = make("a", node.name);
    link.href = `papers/${key}.html`;
    head.append(link);
    card.replaceChildren(close, head, make("p", `${node.title}. ${node.who}.`, "ee-muted"), make("p", node.idea), make("p", node.terms.join(" · "), "ee-muted"));
    const run = make("p");
    if (node.run === "none") run.textContent = node.said;
    else {
      const method = make("a", "Method");
      method.href = `methods/${key}.html`;
      run.append(method, ` ${node.said}`);
    }
    card.append(run);
    if (node.curve.length > 1) card.append(curve(node.curve));
    card.append(relatives("Prior works", node.prior, PRIOR), relatives("Derivative works", node.next, NEXT));
    if (card.hidden) {
      card.hidden = false;
      cy.resize();
    }
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

  const zoom = (factor) => cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: canvas.clientWidth / 2, y: canvas.clientHeight / 2 } });
  const fit = () => cy.fit(cy.nodes().not(".out"), 24);
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
  cy.on("tap", "node", (event) => open(event.target.id()));
  cy.on("tap", (event) => { if (event.target === cy && !card.hidden) shut(); });
  card.addEventListener("keydown", (event) => { if (event.key === "Escape") shut(); });

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
  let way = 0;
  function lay(number) {
    way = number;
    ways.forEach((button, i) => button.setAttribute("aria-pressed", String(i === number)));
    cy.batch(() => works().forEach((node) => node.position({ x: nodes.get(node.id()).at[number][0], y: nodes.get(node.id()).at[number][1] })));
    cy.nodes(".year").toggleClass("out", number === 0);
    fit();
    remember();
  }

  let ready = false;
  function remember() {
    if (!ready) return;
    const query = new URLSearchParams();
    if (way) query.set("layout", "years");
    if (facet.value !== "policy") query.set("colour", facet.value);
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

  const asked = new URLSearchParams(location.search);
  if (data.colours[asked.get("colour")]) facet.value = asked.get("colour");
  paint();
  kinds();
  lay(asked.get("layout") === "years" ? 1 : 0);
  focus(null);
  if (nodes.has(asked.get("work"))) { open(asked.get("work")); reach(asked.get("work")); }
  ready = true;
})();
