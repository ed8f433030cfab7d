// The theme asks for the search index with every page; here the request waits until somebody turns to the search.
(() => {
  "use strict";
  const form = document.forms.namedItem("search");
  const toggle = document.getElementById("__search");
  if (location.protocol === "file:" || !form || !toggle) return; // from disk the index is a script, and close at hand

  const { open, send } = XMLHttpRequest.prototype;
  const indices = new WeakSet();
  const waiting = [];
  let wanted = toggle.checked || new URLSearchParams(location.search).has("q");

  const want = () => {
    wanted = true;
    for (const request of waiting.splice(0)) send.call(request);
  };
  for (const kind of ["focusin", "pointerenter"]) form.addEventListener(kind, want, { once: true });
  toggle.addEventListener("change", want, { once: true });

  XMLHttpRequest.prototype.open = function (method, address, ...rest) {
    if (String(address).endsWith("/search/search_index.json")) indices.add(this);
    return open.call(this, method, address, ...rest);
  };
  XMLHttpRequest.prototype.send = function (...body) {
    if (wanted || !indices.has(this)) return send.apply(this, body);
    waiting.push(this);
  };
})();
