"use strict";
const search = document.querySelector("[data-search]");
if (search) {
  const field = search.querySelector("input");
  const status = search.querySelector("[data-status]");
  const cards = Array.from(document.querySelectorAll("[data-text]"));
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const text = card.getAttribute("data-text");
      card.hidden = !words.every((word) => text.includes(word));
      shown += card.hidden ? 0 : 1;
    }
    status.textContent = words.length ? `${shown} of ${cards.length} images` : "";
  };
  field.addEventListener("input", filter);
  search.hidden = false;
  filter();
}
for (const button of document.querySelectorAll("[data-copy]")) {
  const code = button.parentElement.querySelector("code");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  button.hidden = false;
}
