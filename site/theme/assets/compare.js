// Choose methods: their curves in one picture per kind of data, their figures and claims side by side, the choice in the
// address. Without this script the whole tables and the pictures of all methods stay.
(() => {
  "use strict";
  const words = document.querySelector(".ee-names");
  if (!words) return;
  const meant = new Map(Object.entries(JSON.parse(words.textContent)));
  const keyOf = (id) => id.split(":")[0];
  const tracks = [...document.querySelectorAll(".ee-track")].map(track);
  const described = [...document.querySelectorAll(".ee-described > [data-key]")];
  const parts = [...new Set([...document.querySelectorAll(".ee-described [data-part]")].map((part) => part.dataset.part))];
  const partOf = (key, part) => described.find((method) => method.dataset.key === key)?.querySelector(`[data-part="${part}"]`);
  let lost = []; // what was asked for in the address and cannot be shown, in words

  // One track: its form, its pictures, its table and its claims.
  function track(section) {
    const form = section.querySelector(".ee-pick");
    const whole = section.querySelector(".ee-compare-table");
    const status = section.querySelector(".ee-status");
    const claims = section.querySelector(".ee-claimed");
    const heads = [...whole.tHead.rows[0].cells].map((cell) => cell.textContent);
    const rows = new Map([...whole.tBodies[0].rows].filter((row) => row.dataset.id).map((row) => [row.dataset.id, row]));
    const name = (id) => rows.get(id).cells[0].textContent;
    const figures = [...section.querySelectorAll(".ee-compared")].map((figure) => ({ figure, made: null }));

    const beside = document.createElement("table");
    beside.className = "ee-table ee-named ee-beside";
    const frame = document.createElement("div");
    frame.className = "ee-scroll";
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", `Side by side: ${whole.caption.textContent}`);
    frame.append(beside);
    whole.closest(".ee-scroll").before(frame);

    function cell(kind, content, scope) {
      const made = document.createElement(kind);
      if (scope) made.scope = scope;
      made.append(...content);
      return made;
    }
    const copies = (source) => [...source.childNodes].map((node) => node.cloneNode(true));

    // One column per method: what it does, then the whole table's own cells, turned.
    function turn(ids) {
      const head = document.createElement("thead");
      head.insertRow().append(cell("td", []), ...ids.map((id) => cell("th", copies(rows.get(id).cells[0]), "col")));
      const body = document.createElement("tbody");
      for (const part of parts) {
        const said = ids.map((id) => partOf(keyOf(id), part));
        if (said.some(Boolean)) body.insertRow().append(cell("th", [part], "row"), ...said.map((source) => cell("td", source ? copies(source) : [])));
      }
      for (let i = 1; i < heads.length; i++) {
        body.insertRow().append(cell("th", [heads[i]], "row"), ...ids.map((id) => cell("td", copies(rows.get(id).cells[i]))));
      }
      beside.replaceChildren(head, body);
    }

    const picked = () => [...form.querySelectorAll("input:checked")].map((box) => box.value).filter((id) => rows.has(id));

    function drawCurves(ids) {
      for (const entry of figures) {
        const { figure } = entry;
        const inside = ids.filter((id) => rows.get(id).dataset.group === figure.dataset.group).map(name);
        figure.hidden = ids.length > 0 && inside.length === 0;
        for (const part of figure.querySelectorAll("[data-curve]")) part.hidden = inside.length > 0 && !inside.includes(part.dataset.curve);
        if (!window.eelitChart || (!inside.length && !entry.made)) continue;
        entry.made ||= window.eelitChart(figure, true);
        entry.made.show(inside);
      }
    }

    function update() {
      const ids = picked();
      const groups = new Set(ids.map((id) => rows.get(id).dataset.group));
      const keys = new Set(ids.map(keyOf));
      drawCurves(ids);
      frame.hidden = ids.length === 0;
      whole.closest(".ee-scroll").hidden = ids.length > 0;
      if (ids.length) turn(ids);
      for (const body of claims.querySelectorAll("tbody[data-key]")) body.hidden = ids.length > 0 && !keys.has(body.dataset.key);
      const shown = ids.length
        ? `comparing ${ids.length} of ${rows.size}` + (groups.size > 1 ? "; they were measured on different data or by different quality, so there is one picture for each kind" : "")
        : rows.size ? `all ${rows.size} shown; choose some to compare them side by side` : "nothing was measured on this track yet";
      status.textContent = [...lost, shown].join("; ");
      status.classList.toggle("is-warning", lost.length > 0);
    }

    function choose(ids) {
      for (const box of form.querySelectorAll("input[name=m]")) box.checked = ids.has(box.value);
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", changed);
    form.addEventListener("reset", () => setTimeout(changed));
    form.hidden = false;
    return { rows, picked, choose, update, open: () => { claims.open = picked().length > 0; } };
  }

  function changed() {
    lost = [];
    const ids = new Set(tracks.flatMap((each) => each.picked()));
    const query = new URLSearchParams([...ids].map((id) => ["m", id])).toString();
    try {
      history.replaceState(null, "", query ? `?${query}` : location.pathname);
    } catch {
      // Opened from disk: some browsers forbid it there, and only the address misses the choice.
    }
    for (const each of tracks) each.update();
  }

  // As the command line compares names: without case and accents.
  const plain = { ł: "l", ø: "o", đ: "d", ı: "i", ß: "ss" };
  const fold = (text) => text.trim().toLowerCase().replace(/[łøđıß]/g, (letter) => plain[letter]).normalize("NFKD").toLowerCase().replace(/\p{M}/gu, "");

  // Returns the rows that a name in the address means, on any track, or says why there are none.
  function find(wanted) {
    const [said, variant] = meant.has(fold(wanted)) || !wanted.includes(":") ? [wanted, null] : wanted.split(/:(.*)/s);
    const keys = meant.get(fold(said)) || [];
    if (keys.length !== 1) {
      lost.push(keys.length ? `${said} is the name of several works (${keys.join(", ")})` : `no work is called ${said}`);
      return [];
    }
    const found = tracks.flatMap((each) => [...each.rows.keys()])
      .filter((id) => keyOf(id) === keys[0] && (variant === null || fold(id.slice(keys[0].length + 1)) === fold(variant)));
    if (!found.length) lost.push(`no result of ${wanted} on any track`);
    return found;
  }

  function recall() {
    lost = [];
    const found = new Set(new URLSearchParams(location.search).getAll("m").filter((asked) => asked.trim()).flatMap(find));
    for (const each of tracks) {
      each.choose(found);
      each.update();
    }
  }

  window.addEventListener("popstate", recall);
  recall();
  for (const each of tracks) each.open();
})();
