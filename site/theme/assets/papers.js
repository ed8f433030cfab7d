// Filters, counts and sorting for the table of papers. Without this script the table is complete and plain.
(() => {
  "use strict";
  const table = document.getElementById("paper-table");
  const form = document.querySelector(".ee-filters");
  const status = document.querySelector(".ee-status");
  if (!table || !form || !status) return;
  const body = table.tBodies[0];
  const FACETS = ["policy", "placement", "training", "domain", "role", "fidelity"];
  const box = document.querySelector(".ee-filterbox");
  const active = document.querySelector(".ee-active");
  const exporting = document.querySelector(".ee-export");

  // The rule of `eelit find --text`: words without case, accents and endings, and what is left may go on in the text.
  const plain = { ł: "l", ø: "o", đ: "d", ı: "i", ß: "ss" };
  const words = (text) =>
    text.toLowerCase().replace(/[łøđıß]/g, (letter) => plain[letter]).normalize("NFKD").toLowerCase().replace(/\p{M}/gu, "").split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  // SQLite leaves short, very long and non-ASCII words as they are.
  const stem = (word) => (window.eelitStemmer && word.length > 2 && word.length < 64 && /^[a-z0-9]+$/.test(word) ? window.eelitStemmer.stemmer(word) : word);

  // A slow processor takes long to read what thousands of rows say; it is read when somebody asks for it.
  const rows = Array.from(body.rows, (row, order) => ({ row, order, fits: true, hidden: false, whole: false, terms: null, words: null }));
  function read() {
    if (!rows.length || rows[0].terms) return;
    for (const entry of rows) {
      const { row } = entry;
      entry.terms = {};
      for (const facet of FACETS) {
        const said = row.getAttribute(`data-${facet}`);
        entry.terms[facet] = said ? said.split(" ") : [];
      }
      entry.year = Number(row.getAttribute("data-year"));
      entry.runs = row.getAttribute("data-runs") === "yes";
    }
  }
  function readWords() {
    if (!rows.length || rows[0].words) return;
    const known = window.eelitWords || [];
    for (const entry of rows) entry.words = (known[entry.order] || "").split(" ");
  }

  const boxes = [...form.querySelectorAll('.ee-facet input[type="checkbox"], [name="runnable"]')];
  const number = (name) => (form.elements[name].value === "" ? null : Number(form.elements[name].value));

  function question() {
    const facets = Object.fromEntries(FACETS.map((facet) => [facet, []]));
    for (const box of boxes) if (box.checked && facets[box.name]) facets[box.name].push(box.value);
    const text = words(form.elements.text.value);
    const asked = { facets, text, from: number("from"), to: number("to"), runnable: form.elements.runnable.checked };
    asked.nothing = !text.length && asked.from === null && asked.to === null && !asked.runnable && FACETS.every((facet) => !facets[facet].length);
    return asked;
  }

  // A work that fits but for one facet counts there: it says what choosing another term of that facet would give.
  function failing(entry, asked) {
    if (asked.from !== null && entry.year < asked.from) return null;
    if (asked.to !== null && entry.year > asked.to) return null;
    if (asked.runnable && !entry.runs) return null;
    let only = "";
    for (const facet of FACETS) {
      const wanted = asked.facets[facet];
      if (!wanted.length || wanted.some((term) => entry.terms[facet].includes(term))) continue;
      if (only) return null;
      only = facet;
    }
    return asked.text.every((start) => entry.words.some((word) => word.startsWith(start))) ? only : null;
  }

  // Where nothing is asked, the counts are those that stand in the page.
  const counters = boxes.map((input) => {
    const label = input.closest("label");
    const count = label.querySelector(".ee-count");
    return { input, label, count, whole: Number(count.textContent) };
  });
  function show(counts) {
    for (const { input, label, count, whole } of counters) {
      const works = counts ? counts[input.name].get(input.value) || 0 : whole;
      if (count.textContent !== String(works)) count.textContent = works;
      label.classList.toggle("is-empty", works === 0 && !input.checked);
    }
  }

  const sorts = {
    name: (entry) => entry.row.dataset.name,
    year: (entry) => entry.year,
    runs: (entry) => (entry.runs ? 0 : 1),
  };
  // A separator below all letters: `a` stands before `a, b`, and both before `ab`.
  for (const facet of ["policy", "placement", "training", "domain"]) {
    const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.dataset.sort === facet);
    sorts[facet] = (entry) => [...entry.row.cells[column].querySelectorAll(".ee-chip")].map((chip) => chip.textContent.trim().toLowerCase()).join("\u0001");
  }
  let sorted = { name: "year", descending: true };
  let ordered = rows;
  let unknown = [];

  function sort(name, descending) {
    sorted = { name, descending };
    read();
    const values = rows.map(sorts[name]);
    // Works without a term come last, whichever way.
    const compare = (a, b) => (a === "") - (b === "") || (a < b ? -1 : a > b ? 1 : 0) * (descending ? -1 : 1);
    ordered = [...rows].sort((a, b) => compare(values[a.order], values[b.order]) || a.order - b.order);
    body.append(...ordered.map((entry) => entry.row));
    for (const cell of table.tHead.rows[0].cells) {
      if (cell.dataset.sort === name) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  // One removable mark per filter in force.
  function mark() {
    const items = [];
    const add = (said, undo) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${said} ×`;
      button.setAttribute("aria-label", `Remove the filter ${said}`);
      button.addEventListener("click", () => {
        undo();
        changed();
        (active.querySelector("button") || status).focus();
      });
      item.append(button);
      items.push(item);
    };
    for (const field of form.elements) {
      if (field.type === "checkbox" && field.checked) {
        const said = field.closest("label").firstChild.nextSibling.textContent.trim();
        add(said, () => { field.checked = false; });
      } else if (field.name && field.type !== "checkbox" && field.value !== "") {
        const said = { text: "words", from: "from", to: "to" }[field.name];
        add(`${said} ${field.value}`, () => { field.value = ""; });
      }
    }
    active.replaceChildren(...items);
    active.hidden = items.length === 0;
  }

  // The records are loaded when somebody wants them; a script, since a page opened from disk may fetch nothing.
  let loading = null;
  const records = () =>
    (loading ||= new Promise((loaded, failed) => {
      const script = document.createElement("script");
      script.src = new URL("papers-records.js", location.href).href;
      script.onload = () => loaded(window.eelitRecords);
      script.onerror = failed;
      document.head.append(script);
    }));
  async function give(format, ending) {
    const { header, works } = await records();
    const shown = ordered.filter((entry) => entry.fits).map((entry) => works[entry.order][format]);
    const text = format === "csl-json" ? `[\n${shown.join(",\n")}\n]\n` : format === "csv" ? header + shown.join("") : shown.join(format === "ris" ? "\r\n" : "\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
    link.download = `eelit-${shown.length}-works.${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    status.textContent = `${shown.length} records written to ${link.download}`;
  }
  for (const button of exporting.querySelectorAll("button")) button.addEventListener("click", () => give(button.dataset.format, button.dataset.file));

  function remember(step) {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value) query.append(name, value);
    if (sorted.name !== "year" || !sorted.descending) query.set("sort", (sorted.descending ? "-" : "") + sorted.name);
    const asked = query.toString();
    try {
      if (location.search !== (asked ? "?" + asked : "")) history[step ? "pushState" : "replaceState"](null, "", asked ? "?" + asked : location.pathname);
    } catch {
      // Opened from disk: some browsers forbid it there, and only the address misses the state.
    }
  }

  // Terms in the address that no box stands for, in words; they are dropped as soon as one asks anew.
  function strangers(query) {
    const offered = (name) => boxes.filter((box) => box.name === name).map((box) => box.value);
    return [...FACETS, "runnable"].flatMap((name) => query.getAll(name).filter((term) => term && !offered(name).includes(term)).map((term) => `${term} is no ${name === "runnable" ? "answer to" : "term of"} ${name}`));
  }

  function recall() {
    const query = new URLSearchParams(location.search);
    unknown = strangers(query);
    for (const field of form.elements) {
      if (field.type === "checkbox") field.checked = query.getAll(field.name).includes(field.value);
      else if (field.name) field.value = query.get(field.name) || "";
    }
    for (const facet of form.querySelectorAll(".ee-facet")) if (facet.querySelector(":checked")) facet.open = true;
    const name = (query.get("sort") || "-year").replace(/^-/, "");
    if (sorts[name] && (name !== sorted.name || (query.get("sort") || "-year").startsWith("-") !== sorted.descending)) sort(name, (query.get("sort") || "-year").startsWith("-"));
  }

  // A browser takes long to lay out thousands of rows: the first ones are shown until one asks for the rest.
  const MOST = 200;
  const more = document.querySelector(".ee-more");
  more.addEventListener("click", () => {
    update(Infinity);
    status.focus();
  });

  // Of rows that come into the table those in sight are laid out at once, the others when there is time for it (see the
  // style sheet): a browser does not read out what it has not laid out.
  const SLICE = 40;
  const idle = window.requestIdleCallback || setTimeout;
  let finishing = false;
  function finish() {
    if (finishing || document.readyState !== "complete") return;
    finishing = true;
    idle(() => {
      finishing = false;
      const some = ordered.filter((entry) => !entry.hidden && !entry.whole).slice(0, SLICE);
      for (const entry of some) entry.row.classList.toggle("is-whole", (entry.whole = true));
      if (some.length) finish();
    });
  }
  function place(entry, hidden) {
    if (entry.hidden === hidden) return;
    entry.row.hidden = entry.hidden = hidden;
    if (hidden && entry.whole) entry.row.classList.toggle("is-whole", (entry.whole = false));
  }

  function update(most = MOST) {
    const asked = question();
    if (asked.text.length) {
      if (!window.eelitWords && document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", () => update(most), { once: true }); // then the words are there
        return;
      }
      asked.text = asked.text.map(stem);
      readWords();
    }
    if (!asked.nothing) read();
    const counts = asked.nothing ? null : Object.fromEntries([...FACETS, "runnable"].map((name) => [name, new Map()]));
    let shown = 0;
    for (const entry of ordered) {
      const only = asked.nothing ? "" : failing(entry, asked);
      entry.fits = only === "";
      shown += entry.fits;
      place(entry, !entry.fits || shown > most);
      if (only === null || !counts) continue;
      for (const facet of only ? [only] : FACETS) {
        const own = counts[facet];
        for (const term of entry.terms[facet]) own.set(term, (own.get(term) || 0) + 1);
      }
      if (entry.fits && entry.runs) counts.runnable.set("yes", (counts.runnable.get("yes") || 0) + 1);
    }
    more.hidden = shown <= most;
    more.textContent = `Show all ${shown}`;
    status.textContent = [...unknown, (shown === rows.length ? `showing all ${shown}` : `showing ${shown} of ${rows.length}`) + (more.hidden ? "" : `, the first ${most} of them here`), ...(shown ? [] : ["no work fits; take away a filter"])].join("; ");
    status.classList.toggle("is-warning", unknown.length > 0 || shown === 0);
    for (const button of exporting.querySelectorAll("button")) button.disabled = shown === 0;
    show(counts);
    mark();
    finish();
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
      update();
      remember(true);
    });
  }
  function changed() {
    unknown = [];
    update();
    remember(true);
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  // A box is a step that the back button undoes; typing is not.
  form.addEventListener("input", (event) => { unknown = []; update(); remember(event.target.type === "checkbox"); });
  form.addEventListener("reset", () => setTimeout(changed));
  window.addEventListener("popstate", () => { recall(); update(); });
  box.hidden = false;
  exporting.hidden = false;
  status.tabIndex = -1;
  if (matchMedia("(max-width: 59.9375em)").matches) {
    for (const facet of form.querySelectorAll(".ee-facet")) facet.open = false;
    box.open = false;
  }
  recall();
  update();
  window.addEventListener("load", finish);
})();
