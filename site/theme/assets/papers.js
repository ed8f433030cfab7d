// Filters, counts and sorting for the table of papers. Without this script the table is complete and plain.
(() => {
  "use strict";
  const table = document.getElementById("paper-table");
  const form = document.querySelector(".ee-filters");
  const status = document.querySelector(".ee-status");
  if (!table || !form || !status) return;
  const body = table.tBodies[0];
  const FACETS = ["policy", "placement", "training", "domain", "role"];

  // Words are compared without case and accents; a word of the question may leave off the end of a word of the text.
  const words = (text) =>
    text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);

  const rows = [...body.rows].map((row, order) => {
    const terms = {};
    for (const facet of FACETS) terms[facet] = new Set((row.dataset[facet] || "").split(" ").filter(Boolean));
    return { row, order, terms, year: Number(row.dataset.year), runs: row.dataset.runs === "yes", words: words(row.dataset.text) };
  });

  const checked = (name) => [...form.querySelectorAll(`input[name="${name}"]:checked`)].map((box) => box.value);
  const number = (name) => (form.elements[name].value === "" ? null : Number(form.elements[name].value));

  function question() {
    const facets = {};
    for (const facet of FACETS) facets[facet] = checked(facet);
    return { facets, text: words(form.elements.text.value), from: number("from"), to: number("to"), runnable: form.elements.runnable.checked };
  }

  // `without` leaves one facet out: its own counts say what choosing another of its terms would give.
  function matches(entry, asked, without) {
    if (asked.from !== null && entry.year < asked.from) return false;
    if (asked.to !== null && entry.year > asked.to) return false;
    if (asked.runnable && without !== "runnable" && !entry.runs) return false;
    for (const facet of FACETS) {
      const wanted = asked.facets[facet];
      if (facet !== without && wanted.length && !wanted.some((term) => entry.terms[facet].has(term))) return false;
    }
    return asked.text.every((start) => entry.words.some((word) => word.startsWith(start)));
  }

  function count(asked) {
    for (const facet of FACETS) {
      const possible = rows.filter((entry) => matches(entry, asked, facet));
      for (const box of form.querySelectorAll(`input[name="${facet}"]`)) {
        show(box, possible.filter((entry) => entry.terms[facet].has(box.value)).length);
      }
    }
    const box = form.elements.runnable;
    show(box, rows.filter((entry) => entry.runs && matches(entry, asked, "runnable")).length);
  }

  function show(box, works) {
    const label = box.closest("label");
    label.querySelector(".ee-count").textContent = works;
    label.classList.toggle("is-empty", works === 0 && !box.checked);
  }

  const sorts = {
    name: (entry) => entry.row.dataset.name,
    year: (entry) => entry.year,
    runs: (entry) => (entry.runs ? 0 : 1),
  };
  for (const facet of ["policy", "placement", "training", "domain"]) {
    const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.dataset.sort === facet);
    sorts[facet] = (entry) => entry.row.cells[column].textContent.trim().toLowerCase() || "\uffff";
  }
  let sorted = { name: "year", descending: true };

  function sort(name, descending) {
    sorted = { name, descending };
    const value = sorts[name];
    const compare = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (descending ? -1 : 1);
    body.append(...[...rows].sort((a, b) => compare(a, b) || a.order - b.order).map((entry) => entry.row));
    for (const cell of table.tHead.rows[0].cells) {
      if (cell.dataset.sort === name) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  function remember() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value) query.append(name, value);
    if (sorted.name !== "year" || !sorted.descending) query.set("sort", (sorted.descending ? "-" : "") + sorted.name);
    const asked = query.toString();
    try {
      history.replaceState(null, "", asked ? "?" + asked : location.pathname);
    } catch {
      // Opened from disk: some browsers forbid it there, and only the address misses the state.
    }
  }

  function recall() {
    const query = new URLSearchParams(location.search);
    for (const field of form.elements) {
      if (field.type === "checkbox") field.checked = query.getAll(field.name).includes(field.value);
      else if (field.name) field.value = query.get(field.name) || "";
    }
    for (const facet of form.querySelectorAll(".ee-facet")) if (facet.querySelector(":checked")) facet.open = true;
    const name = (query.get("sort") || "-year").replace(/^-/, "");
    if (sorts[name]) sort(name, (query.get("sort") || "-year").startsWith("-"));
  }

  function update() {
    const asked = question();
    let shown = 0;
    for (const entry of rows) {
      const fits = matches(entry, asked, null);
      entry.row.hidden = !fits;
      shown += fits;
    }
    status.textContent = shown === rows.length ? `showing all ${shown}` : `showing ${shown} of ${rows.length}`;
    count(asked);
  }

  for (const cell of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "ee-sort";
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const name = cell.dataset.sort;
      sort(name, sorted.name === name ? !sorted.descending : name === "year");
      remember();
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { update(); remember(); });
  form.addEventListener("reset", () => setTimeout(() => { update(); remember(); }));
  window.addEventListener("popstate", () => { recall(); update(); });
  form.hidden = false;
  document.getElementById("browse").classList.add("ee-browse--live");
  if (matchMedia("(max-width: 59.9375em)").matches) for (const facet of form.querySelectorAll(".ee-facet")) facet.open = false;
  recall();
  update();
})();
