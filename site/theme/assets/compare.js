// Choose methods: their curves in one picture per kind of data, their figures side by side, the choice in the address.
// Without this script the whole table and the pictures of all methods stay.
(() => {
  "use strict";
  const form = document.querySelector(".ee-pick");
  const whole = document.querySelector(".ee-compare-table");
  if (!form || !whole) return;
  const status = document.querySelector(".ee-pick ~ .ee-status");
  const heads = [...whole.tHead.rows[0].cells].map((cell) => cell.textContent);
  const rows = new Map([...whole.tBodies[0].rows].filter((row) => row.dataset.id).map((row) => [row.dataset.id, row]));
  const name = (id) => rows.get(id).cells[0].textContent;

  const figures = [...document.querySelectorAll(".ee-compared")].map((figure) => {
    const spec = JSON.parse(figure.querySelector(".ee-spec").textContent);
    const target = document.createElement("div");
    target.className = "ee-vega";
    const picture = figure.querySelector(".ee-static");
    if (window.eelitChart) picture.before(target);
    return { figure, picture, target, spec, made: null };
  });

  const beside = document.createElement("table");
  beside.className = "ee-table ee-beside";
  const frame = document.createElement("div");
  frame.className = "ee-scroll";
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Side by side");
  frame.append(beside);
  whole.closest(".ee-scroll").before(frame);

  function cell(kind, text, scope) {
    const made = document.createElement(kind);
    if (scope) made.scope = scope;
    made.textContent = text;
    return made;
  }

  // One column per method: the whole table's own cells, turned.
  function turn(ids) {
    const head = document.createElement("thead");
    const top = head.insertRow();
    top.append(cell("td", ""));
    for (const id of ids) {
      const column = cell("th", "", "col");
      column.append(rows.get(id).cells[0].querySelector("a").cloneNode(true));
      top.append(column);
    }
    const body = document.createElement("tbody");
    for (let i = 1; i < heads.length; i++) {
      const line = body.insertRow();
      line.append(cell("th", heads[i], "row"), ...ids.map((id) => cell("td", rows.get(id).cells[i].textContent)));
    }
    beside.replaceChildren(head, body);
  }

  const picked = () => [...form.querySelectorAll("input:checked")].map((box) => box.value).filter((id) => rows.has(id));

  function update() {
    const ids = picked();
    const groups = new Set(ids.map((id) => rows.get(id).dataset.group));
    for (const { figure, picture, target, spec, ...rest } of figures) {
      const inside = ids.filter((id) => rows.get(id).dataset.group === figure.dataset.group).map(name);
      figure.hidden = ids.length > 0 && inside.length === 0;
      if (!window.eelitChart) continue;
      picture.hidden = inside.length > 0;
      target.hidden = inside.length === 0;
      const entry = figures.find((one) => one.figure === figure);
      if (!inside.length) continue;
      const scaled = structuredClone(spec);
      for (const layer of scaled.layer) if (layer.encoding.color) layer.encoding.color = { ...layer.encoding.color, scale: { domain: inside }, legend: { orient: "bottom", columns: target.clientWidth < 560 ? 1 : 2, labelLimit: 260 } };
      if (entry.made) entry.made.show(inside, scaled);
      else entry.made = window.eelitChart(target, scaled, inside);
    }
    frame.hidden = ids.length === 0;
    whole.closest(".ee-scroll").hidden = ids.length > 0;
    if (ids.length) turn(ids);
    status.textContent = ids.length
      ? `comparing ${ids.length} of ${rows.size}` + (groups.size > 1 ? "; they were measured on different data or by different quality, so there is one picture for each kind" : "")
      : `all ${rows.size} shown; choose some to compare them side by side`;
  }

  function remember() {
    const query = new URLSearchParams(picked().map((id) => ["m", id])).toString();
    try {
      history.replaceState(null, "", query ? `?${query}` : location.pathname);
    } catch {
      // Opened from disk: some browsers forbid it there, and only the address misses the choice.
    }
  }

  function recall() {
    const asked = new URLSearchParams(location.search).getAll("m").map((id) => id.toLowerCase());
    for (const box of form.querySelectorAll("input[name=m]")) {
      const id = box.value.toLowerCase();
      box.checked = asked.some((wanted) => wanted === id || id.startsWith(`${wanted}:`));
    }
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => { update(); remember(); });
  form.addEventListener("reset", () => setTimeout(() => { update(); remember(); }));
  window.addEventListener("popstate", () => { recall(); update(); });
  form.hidden = false;
  recall();
  update();
})();
