// Light, dark, or as the system has it. No module: it runs before the first paint, so nothing flashes.
{
  const KEY = "lhier-theme";
  const ORDER = ["system", "light", "dark"];
  const set = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  let theme = ORDER.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "system";
  set(theme);

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const tell = () => {
      button.dataset.shows = theme;
      button.setAttribute("aria-label", `Colours: ${theme === "system" ? "as the system" : theme}`);
      button.title = button.getAttribute("aria-label");
    };
    tell();
    button.addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      localStorage.setItem(KEY, theme);
      set(theme);
      tell();
      dispatchEvent(new Event("themechange"));
    });
  });
}
