// The theme opens its drawer (the navigation on narrow screens) by labels, which no key reaches; here they are reached.
(() => {
  "use strict";
  const toggle = document.getElementById("__drawer");
  const label = document.querySelector('.md-header__button[for="__drawer"]');
  const drawer = document.querySelector(".md-sidebar--primary");
  if (!toggle || !label || !drawer) return;

  const button = document.createElement("button");
  button.type = "button";
  button.className = `${label.className} ee-drawer`;
  button.setAttribute("aria-label", "Navigation");
  button.append(...label.childNodes);
  label.replaceWith(button);

  function show(open) {
    if (toggle.checked !== open) toggle.click();
  }
  const tell = () => button.setAttribute("aria-expanded", String(toggle.checked));
  const isModal = () => button.checkVisibility();

  button.addEventListener("click", () => {
    show(!toggle.checked);
    if (toggle.checked) drawer.querySelector(".md-nav__list a").focus();
  });
  toggle.addEventListener("change", tell);
  tell();

  // The titles of inner levels lead back to the outer one.
  for (const title of drawer.querySelectorAll("label.md-nav__title[for]")) {
    if (title.htmlFor !== "__drawer") title.tabIndex = 0;
  }
  drawer.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !toggle.checked || !isModal()) return;
    show(false);
    button.focus();
  });
  // Whoever leaves the open drawer with the Tab key shall see where they are.
  drawer.addEventListener("focusout", (event) => {
    const next = event.relatedTarget;
    if (next && next !== button && !drawer.contains(next) && toggle.checked && isModal()) show(false);
  });
})();
