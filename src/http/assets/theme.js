// Applies the saved theme before the first paint.
(() => {
  try {
    const theme = localStorage.getItem("gearmand-theme");
    if (theme === "light" || theme === "dark") {
      document.documentElement.dataset.theme = theme;
    }
  } catch {
    // Without storage, the system's theme is used.
  }
})();
