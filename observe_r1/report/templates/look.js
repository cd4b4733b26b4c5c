// The button between light and dark. The system decides until a reader does, and again once both agree.
"use strict";
{
  const KEPT = "observe-r1-look";
  const root = document.documentElement;
  const button = document.getElementById("look");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const ofSystem = () => (system.matches ? "dark" : "light");
  const shown = () => root.dataset.look || ofSystem();
  const other = () => (shown() === "dark" ? "light" : "dark");

  // Some browsers keep nothing for a page from the disk: the choice then ends with the page.
  const kept = () => {
    try {
      return localStorage.getItem(KEPT);
    } catch {
      return null;
    }
  };
  const keep = (look) => {
    try {
      if (look) localStorage.setItem(KEPT, look);
      else localStorage.removeItem(KEPT);
    } catch {}
  };

  const show = (look) => {
    if (look) root.dataset.look = look;
    else delete root.dataset.look;
    button.textContent = other() === "dark" ? "Dark" : "Light";
    button.title = `Show the page in ${other()} colours`;
    for (const source of document.querySelectorAll("picture source")) source.media = shown() === "dark" ? "all" : "not all";
  };

  const wanted = kept();
  show(wanted === "light" || wanted === "dark" ? wanted : null);
  button.hidden = false;
  button.addEventListener("click", () => {
    const chosen = other() === ofSystem() ? null : other();
    keep(chosen);
    show(chosen);
  });
  system.addEventListener("change", () => show(root.dataset.look));
  document.addEventListener("DOMContentLoaded", () => show(root.dataset.look)); // the pictures are there by then
}
