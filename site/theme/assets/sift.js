// Sorts tables by the heads of their columns, and filters rows by what the form above them asks. An address that leads
// to a row opens what it is folded into. Without this script all rows stay, in the order in which they were written.
(() => {
  "use strict";
  const tables = [...document.querySelectorAll(".ee-sorted")].map(sortable);
  const form = document.querySelector(".ee-sift");
  const status = document.querySelector(".ee-sifted");

  // What a cell is sorted by; null stands for a cell that says nothing, which comes last in any order.
  function valueOf(row, index, isNumber) {
    const cell = row.cells[index];
    const said = cell.dataset.value ?? cell.textContent.trim();
    if (!isNumber) return said === "" ? null : said.toLowerCase();
    const number = parseFloat(said);
    return Number.isNaN(number) ? null : number;
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const written = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    // On a phone the heads of some tables are out of sight; their buttons would be out of sight, too.
    const isSeen = matchMedia("(min-width: 45em)");
    const hides = table.classList.contains("ee-methods");

    function sort(name, isDescending) {
      const index = heads.findIndex((cell) => cell.dataset.sort === name);
      for (const cell of heads) cell.removeAttribute("aria-sort");
      if (index < 0) {
        body.append(...written);
        return;
      }
      heads[index].setAttribute("aria-sort", isDescending ? "descending" : "ascending");
      const isNumber = heads[index].classList.contains("num");
      const values = new Map(written.map((row) => [row, valueOf(row, index, isNumber)]));
      const sign = isDescending ? -1 : 1;
      body.append(
        ...[...written].sort((one, two) => {
          const [a, b] = [values.get(one), values.get(two)];
          return (a === null) - (b === null) || (a < b ? -sign : a > b ? sign : 0);
        })
      );
    }

    // The form says by what the rows are sorted, in an option of its own if it has none for it.
    function told(cell, isDescending) {
      const { sort: choice } = form.elements;
      const wanted = (isDescending ? "-" : "") + cell.dataset.sort;
      if (![...choice.options].some((option) => option.value === wanted)) choice.add(new Option(`${cell.textContent}, ${isDescending ? "descending" : "ascending"}`, wanted));
      choice.value = wanted;
      form.dispatchEvent(new Event("input"));
    }

    function label() {
      for (const cell of heads) {
        if (!cell.dataset.sort) continue;
        const hasButton = cell.querySelector(".ee-sort") !== null;
        const wanted = isSeen.matches || !hides;
        if (wanted && !hasButton) {
          const button = document.createElement("button");
          button.type = "button";
          button.className = "ee-sort";
          button.append(...cell.childNodes);
          button.addEventListener("click", () => {
            const before = cell.getAttribute("aria-sort");
            const isDescending = before ? before === "ascending" : cell.classList.contains("num");
            sort(cell.dataset.sort, isDescending);
            if (form && form.elements.sort) told(cell, isDescending);
          });
          cell.append(button);
        } else if (!wanted && hasButton) {
          cell.replaceChildren(...cell.querySelector(".ee-sort").childNodes);
        }
      }
    }
    label();
    isSeen.addEventListener("change", label);
    return { table, rows: written, sort };
  }

  if (form) {
    const sifted = tables.filter(({ rows }) => rows.some((row) => row.dataset.name !== undefined));
    const fields = [...form.elements].filter((field) => field.name && field.name !== "sort");

    function fits(row) {
      return fields.every((field) => {
        const wanted = field.value.trim().toLowerCase();
        if (!wanted) return true;
        const said = row.getAttribute(`data-${field.name}`);
        return field.name === "name" ? wanted.split(/\s+/).every((word) => said.includes(word)) : said.split(" ").includes(field.value);
      });
    }

    function show() {
      let shown = 0;
      let all = 0;
      for (const { table, rows } of sifted) {
        let here = 0;
        for (const row of rows) {
          row.hidden = !fits(row);
          here += !row.hidden;
        }
        shown += here;
        all += rows.length;
        // A kind of data of which no row is left is out of the way, with its heading.
        const part = table.closest(".ee-group");
        if (part) part.hidden = document.getElementById(part.dataset.heading).hidden = here === 0;
      }
      status.textContent = shown === all ? `showing all ${all} ${form.dataset.what}` : `showing ${shown} of ${all} ${form.dataset.what}` + (shown ? "" : "; none fits: take away a filter");
      status.classList.toggle("is-warning", shown === 0);
    }

    function remember() {
      const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value)).toString();
      try {
        if (location.search !== (query ? `?${query}` : "")) history.replaceState(null, "", (query ? `?${query}` : location.pathname) + location.hash);
      } catch {
        // Opened from disk: some browsers forbid it there, and only the address misses the state.
      }
    }

    function order() {
      const wanted = form.elements.sort ? form.elements.sort.value : "";
      if (form.elements.sort) for (const { sort } of sifted) sort(wanted.replace(/^-/, ""), wanted.startsWith("-"));
    }

    function recall() {
      const query = new URLSearchParams(location.search);
      for (const field of form.elements) {
        if (!field.name) continue;
        const asked = query.get(field.name) || "";
        field.value = field.options && ![...field.options].some((option) => option.value === asked) ? "" : asked;
      }
    }

    // A row that an address leads to is shown, whatever is asked for or folded.
    function arrive() {
      let name = "";
      try {
        name = decodeURIComponent(location.hash.slice(1));
      } catch {
        return; // no address of ours
      }
      const target = name && document.getElementById(name);
      if (!target) return;
      let moved = target.closest("[hidden]") !== null;
      if (moved) {
        form.reset();
        show();
      }
      for (let part = target; part; part = part.parentElement) {
        if (part.localName === "details" && !part.open) moved = part.open = true;
      }
      if (moved) target.scrollIntoView();
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      if (event.target.name === "sort") order();
      else show();
      remember();
    });
    form.addEventListener("reset", () =>
      setTimeout(() => {
        order();
        show();
        remember();
      })
    );
    form.hidden = status.hidden = false;
    recall();
    order();
    show();
    window.addEventListener("hashchange", arrive);
    arrive();
  }
})();
