// Applies the theme: light, dark, or the system's. A classic script, so that it runs before the first paint.
(() => {
  "use strict";
  const THEMES = ["auto", "light", "dark"];
  const read = () => {
    try {
      const stored = localStorage.getItem("clara-theme");
      return THEMES.includes(stored) ? stored : "auto";
    } catch {
      return "auto"; // storage is disabled
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
        // storage is disabled: the theme lasts until the page is closed
      }
      apply(next);
    });
  });
})();
