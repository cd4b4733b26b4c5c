// A page that is served looks for news, and waits while somebody is typing.
"use strict";
const { version } = document.body.dataset;
const looking = setInterval(async () => {
  if (document.hidden || document.activeElement.closest("form")) return;
  try {
    const answer = await fetch("version", { cache: "no-store" });
    if (answer.ok && (await answer.text()) !== version) location.reload();
  } catch {
    clearInterval(looking);
    document.getElementById("live").textContent = "The server has ended: this is the last it showed.";
  }
}, 2000);
