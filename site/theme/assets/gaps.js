// The gap map for one way of training. Without this script the map shows all of them.
(() => {
  "use strict";
  const choice = document.getElementById("ee-gap-training");
  const block = document.getElementById("ee-gap-counts");
  if (!choice || !block) return;
  const counts = JSON.parse(block.textContent);
  const status = document.getElementById("ee-gap-status");
  const cells = [...document.querySelectorAll("[data-cell]")];
  const HEATS = [1, 2, 4, 8, 16];

  function span(name, text) {
    const made = document.createElement("span");
    made.className = name;
    made.textContent = text;
    return made;
  }

  function show() {
    const found = counts[choice.value] || {};
    for (const cell of cells) {
      const [works, runs] = found[cell.dataset.cell] || [0, 0];
      cell.className = `ee-heat-${HEATS.filter((least) => works >= least).length}`;
      if (!works) {
        cell.replaceChildren(span("ee-none", "none"));
        continue;
      }
      const [placement, policy] = cell.dataset.cell.split(" ");
      const link = document.createElement("a");
      const query = new URLSearchParams([["policy", policy], ["placement", placement]]);
      if (choice.value !== "all") query.append("training", choice.value);
      link.href = `../papers/index.html?${query}`;
      link.append(span("ee-sum", works));
      if (runs) link.append(" ", span("ee-ran", `${runs} run`));
      cell.replaceChildren(link);
    }
    const top = cells.filter((cell) => cell.closest("table") === cells[0].closest("table"));
    status.textContent = `${top.filter((cell) => cell.querySelector("a")).length} of ${top.length} combinations tried`;
    const asked = choice.value === "all" ? "" : `?training=${choice.value}`;
    try {
      if (location.search !== asked) history.replaceState(null, "", asked || location.pathname);
    } catch {
      // Opened from disk: some browsers forbid it there.
    }
  }

  const asked = new URLSearchParams(location.search).get("training");
  if (counts[asked]) choice.value = asked;
  choice.addEventListener("change", show);
  choice.closest("p").hidden = false;
  show();
})();
