// Light, dark, or as the system has it: set before anything is painted. A classic script, for that reason.
(() => {
  "use strict";
  const THEMES = ["auto", "light", "dark"];
  const read = () => {
    try {
      const kept = localStorage.getItem("clara-theme");
      return THEMES.includes(kept) ? kept : "auto";
    } catch {
      return "auto"; // no storage: the system's
    }
  };
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" }[theme];
  };
  apply(read());
  document.addEventListener("DOMContentLoaded", () => {
    apply(read());
    document.getElementById("theme").addEventListener("click", () => {
      const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
      try {
        localStorage.setItem("clara-theme", next);
      } catch {
        // it holds until the page is left
      }
      apply(next);
    });
  });
})();
