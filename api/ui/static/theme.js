// Before anything is painted: light, dark, or as the system has it. A classic script, so that nothing flashes.
(() => {
  const root = document.documentElement;
  const set = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  try { set(localStorage.getItem("dalang-theme")); } catch { /* storage is switched off */ }
  window.dalangTheme = set;
})();
