// Point at a work, or reach it with the keyboard, and its own edges stand out. Without this script all are shown alike.
(() => {
  "use strict";
  const graph = document.querySelector(".ee-graph");
  if (!graph) return;
  const edges = [...graph.querySelectorAll(".edge")];
  const nodes = new Map([...graph.querySelectorAll(".node")].map((node) => [node.dataset.key, node]));

  function focus(key) {
    graph.classList.toggle("is-focused", key !== null);
    for (const node of nodes.values()) node.classList.toggle("is-near", node.dataset.key === key);
    for (const edge of edges) {
      const { a, b } = edge.dataset;
      const isNear = (a === key || b === key) && getComputedStyle(edge).display !== "none";
      edge.classList.toggle("is-near", isNear);
      if (isNear) nodes.get(a === key ? b : a).classList.add("is-near");
    }
  }

  for (const [key, node] of nodes) {
    node.addEventListener("pointerenter", () => focus(key));
    node.addEventListener("pointerleave", () => focus(null));
    node.addEventListener("focus", () => focus(key));
    node.addEventListener("blur", () => focus(null));
  }
})();
