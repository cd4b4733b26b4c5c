// The gallery: cards are made from the data in the page, always as text, never as HTML.
"use strict";
const PAGE_SIZE = 12;
const FILTERS = ["run", "part", "verdict", "from", "to", "easiest", "hardest", "bonus", "search"];
const data = JSON.parse(document.getElementById("gallery-data").textContent);
const form = document.getElementById("filters");
const list = document.getElementById("cards");
const more = document.getElementById("more");
const count = document.getElementById("count");
let found = [];

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value, digits = 2) {
  return value === null ? "–" : String(Number(value.toFixed(digits)));
}

function signed(value) {
  const shown = number(value);
  return value > 0 ? "+" + shown : shown.replace("-", "−");
}

// A response, with what is inside <observe>, <think> and <answer> in colours of their own.
function coloured(text) {
  const shown = element("p", "text response-text");
  const open = [];
  for (const piece of text.split(/(<\/?(?:observe|think|answer)>)/)) {
    const tag = /^<(\/?)(observe|think|answer)>$/.exec(piece);
    if (tag && tag[1] && open[open.length - 1] === tag[2]) {
      shown.append(element("span", "tag " + open.pop(), piece));
    } else if (tag && !tag[1]) {
      open.push(tag[2]);
      shown.append(element("span", "tag " + tag[2], piece));
    } else if (piece) {
      shown.append(element("span", open[open.length - 1] || "", piece));
    }
  }
  return shown;
}

function shownResponse(response) {
  const made = element("div", "response " + (response.correct ? "right" : "wrong"));
  const head = element("p", "meta");
  head.append(element("b", "verdict", response.correct ? "✓ right" : "✗ wrong"), " " + response.by);
  const chips = element("p", "chips");
  for (const [name, value] of Object.entries(response.parts || {})) {
    chips.append(element("span", "chip", name + " " + number(value)));
  }
  if (response.bonus) chips.append(element("span", "chip bonus", "bonus " + signed(response.bonus)));
  if (typeof response.advantage === "number") {
    const side = response.advantage > 0 ? " up" : response.advantage < 0 ? " down" : "";
    chips.append(element("span", "chip advantage" + side, "advantage " + signed(response.advantage)));
  }
  chips.append(element("span", "chip", response.tokens + " tokens" + (response.cut ? ", cut off at the limit" : "")));
  made.append(head, coloured(response.text), chips);
  return made;
}

function shownImages(card) {
  const made = element("div", "images");
  for (const place of card.images) {
    if (typeof place === "string") {
      made.append(element("p", "missing", place));
      continue;
    }
    const image = element("img", data.images[place].small ? "small" : "");
    Object.assign(image, data.images[place], { alt: "image of the question", decoding: "async" });
    made.append(image);
  }
  return made;
}

function shownCard([card, responses]) {
  const made = element("article", card.images.length ? "box group" : "box group bare");
  const facts = [];
  if (data.runs.length > 1) facts.push(data.runs[card.run]);
  if (card.part === "training") facts.push("step " + card.step);
  else facts.push(card.part);
  if (card.difficulty !== null) facts.push("difficulty " + number(card.difficulty, 3));
  if (card.of > 1) facts.push(card.right + " of " + card.of + " right");
  if (card.weight !== undefined && card.weight !== null) facts.push("weight " + number(card.weight));
  const side = element("div");
  side.append(element("p", "meta", facts.join(" · ")));
  if (card.question) side.append(element("p", "text question", card.question));
  if (card.answer) {
    const gold = element("p", "text");
    gold.append("Answer: ", element("span", "gold", card.answer));
    side.append(gold);
  }
  const ranked = [...responses].sort((one, other) => (other.advantage || 0) - (one.advantage || 0));
  const brief = responses.length > 3 ? [ranked[0], ranked[ranked.length - 1]] : responses; // the best and the worst
  const shown = element("div", "responses");
  shown.append(...brief.map(shownResponse));
  side.append(shown);
  if (brief.length < responses.length) {
    const button = element("button", "all", "All " + responses.length + " responses");
    button.type = "button";
    button.addEventListener("click", () => {
      shown.replaceChildren(...responses.map(shownResponse));
      button.remove();
    });
    side.append(button);
  }
  if (card.images.length) made.append(shownImages(card));
  made.append(side);
  return made;
}

function showMore() {
  list.append(...found.slice(list.children.length, list.children.length + PAGE_SIZE).map(shownCard));
  more.hidden = list.children.length >= found.length;
}

function within(value, low, high) {
  return (low === "" || (value !== null && value >= Number(low))) && (high === "" || (value !== null && value <= Number(high)));
}

// The responses of a card that the filters let through.
function matching(card, wanted) {
  if (wanted.run && card.run !== Number(wanted.run)) return [];
  if (wanted.part && card.part !== wanted.part) return [];
  if (!within(card.step, wanted.from, wanted.to)) return [];
  if (!within(card.difficulty, wanted.easiest, wanted.hardest)) return [];
  const words = wanted.search.toLowerCase();
  const asked = [card.question, card.answer, card.id].some((text) => text.toLowerCase().includes(words));
  return card.responses.filter((response) =>
    (!wanted.verdict || response.correct === (wanted.verdict === "right")) &&
    (!wanted.bonus || response.bonus > 0) &&
    (asked || response.text.toLowerCase().includes(words)));
}

function show() {
  const fields = new FormData(form);
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, (fields.get(name) || "").trim()]));
  found = data.cards.map((card) => [card, matching(card, wanted)]).filter(([, responses]) => responses.length > 0);
  const responses = found.reduce((sum, [, matched]) => sum + matched.length, 0);
  count.textContent = found.length.toLocaleString("en") + (found.length === 1 ? " question, " : " questions, ") +
    responses.toLocaleString("en") + (responses === 1 ? " response" : " responses");
  list.replaceChildren();
  showMore();
  const kept = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value !== ""));
  history.replaceState(null, "", kept.size ? "#" + kept : location.pathname + location.search);
}

// The filters are in the address, so that a reload or a link keeps them.
for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
  const field = FILTERS.includes(name) ? form.elements[name] : null;
  if (field && field.type === "checkbox") field.checked = true;
  else if (field) field.value = value;
}
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", show);
document.getElementById("clear").addEventListener("click", () => {
  form.reset();
  show();
});
more.addEventListener("click", showMore);
show();
