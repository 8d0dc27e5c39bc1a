/**
 * The explorer: tells what lies under the pointer in a picture of recorded results.
 *
 * An element of class "explorer" names its picture and holds its numbers as JSON: {sheet: the
 * pictures of the texts in one file, columns of them, texts, scores: what the numbers are called,
 * side: of a mark as a share of the picture (0: a dot), choose: whether any two texts make a pair,
 * marks: [text, text, x, y, ...scores] in the order of distance}. Texts reach the page as text only.
 */

import { element } from "./element.js";

const TILE = 64; // pixels of a picture's side in the sheet
const REACH = 24; // pixels between the pointer and what it means, at most
const base = new URL(".", document.currentScript.src);
let names = 0; // of fields that have a label

/** A field with its label. */
function labelled(text, field) {
  field.id = `explorer-field-${(names += 1)}`;
  return element("div", {}, element("label", { for: field.id }, text), field);
}

function explore(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const picture = document.querySelector(`#${root.dataset.figure} img`);
  const sheet = new Image();
  const marker = element("div", { class: "explorer-marker", hidden: "" });
  const floating = element("div", { class: "explorer-card explorer-floating", hidden: "" });
  const card = element("div", { class: "explorer-card", hidden: "" });
  const frame = element("div", { class: "explorer-frame" });
  const slider = element("input", { type: "range", min: 1, max: data.marks.length, value: 1 });
  const choices = data.choose ? [0, 1].map(() => choice(data.texts)) : [];
  const filter = element("input", { type: "search", autocomplete: "off" });
  const found = element("output", { class: "explorer-found" });
  let last = null; // where the pointer was
  let at = 0; // the mark that the slider shows
  marker.classList.toggle("explorer-dot", !data.side);
  if (data.side) marker.style.width = marker.style.height = `${100 * data.side}%`;

  /** Whether a mark has a text with the word of the filter. */
  function matches(index) {
    const word = filter.value.trim().toLowerCase();
    return data.marks[index].slice(0, 2).some((text) => data.texts[text].toLowerCase().includes(word));
  }

  /** The mark that matches, from one on and in one way, or else the other. */
  function nearestMatch(index, way) {
    for (const step of [way, -way]) {
      for (let i = index; data.marks[i]; i += step) if (matches(i)) return i;
    }
    return index;
  }

  /** What the slider says of a mark: its texts and its first score. */
  function describe(index) {
    const [first, second, , , value] = data.marks[index];
    const words = `${data.texts[first]} and ${data.texts[second]}, ${data.scores[0]} ${value}`;
    slider.setAttribute("aria-valuetext", words);
  }

  /** Show a mark, beside the pointer of a mouse or else below the figure. */
  function show(index, beside = false) {
    const [first, second, x, y, ...values] = data.marks[index];
    slider.value = index + 1;
    describe(index);
    const pair = [first, second]; // a reader who chose them the other way round keeps that order
    if (Number(choices[0]?.value) === second) pair.reverse();
    choices.forEach((field, i) => (field.value = pair[i]));
    for (const part of [marker, floating]) {
      part.style.setProperty("--x", x);
      part.style.setProperty("--y", y);
    }
    marker.hidden = false;
    floating.hidden = !beside;
    floating.classList.toggle("explorer-left", x > 0.5);
    floating.classList.toggle("explorer-above", y > 0.5);
    if (!beside) card.hidden = false; // from then on it stays, so that nothing jumps
    fill(beside ? floating : card, [first, second], values);
  }

  function fill(place, texts, values) {
    const pictures = texts.map((text) => {
      const canvas = element("canvas", { width: TILE, height: TILE, "aria-hidden": "true" });
      paint(canvas, text);
      const caption = element("figcaption", { class: "explorer-text" }, data.texts[text]);
      return element("figure", {}, canvas, caption);
    });
    const words = texts.map((text) => data.texts[text]);
    const asked = new URLSearchParams({ a: words[0], b: words[1] });
    const link = element("a", { href: `live.html#${asked}` }, "Conjure this pair in the browser");
    const rows = data.scores.map((name, i) =>
      element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, values[i])),
    );
    place.replaceChildren(
      element("div", { class: "explorer-pictures" }, ...pictures),
      element("table", {}, element("tbody", {}, ...rows)),
      ...(place === floating ? [] : [link]), // which a pointer that leaves would take away
    );
  }

  async function paint(canvas, text) {
    sheet.src ||= new URL(data.sheet, base); // not before somebody explores
    try {
      await sheet.decode();
    } catch {
      return; // the card shows words and numbers alone
    }
    const [column, row] = [text % data.columns, Math.floor(text / data.columns)];
    const from = [column * TILE, row * TILE, TILE, TILE];
    canvas.getContext("2d").drawImage(sheet, ...from, 0, 0, TILE, TILE);
  }

  function point({ clientX, clientY, pointerType }) {
    const { left, top, width, height } = picture.getBoundingClientRect();
    const away = ([, , x, y]) => Math.hypot(left + x * width - clientX, top + y * height - clientY);
    const gaps = data.marks.map(away);
    const nearest = gaps.reduce((best, gap, i) => (gap < gaps[best] ? i : best), 0);
    if (gaps[nearest] <= REACH) show(nearest, pointerType === "mouse");
  }

  /** The pair of both chosen texts, in either order; a text has no distance from itself. */
  function choose() {
    card.setAttribute("aria-live", "polite"); // the slider speaks for itself
    const chosen = choices.map((field) => Number(field.value));
    const index = data.marks.findIndex(([a, b]) => chosen.includes(a) && chosen.includes(b));
    if (chosen[0] !== chosen[1]) {
      show(index);
      return;
    }
    card.replaceChildren(element("p", {}, "Choose two different texts: one is at 0 from itself."));
    card.hidden = false;
    marker.hidden = true;
  }

  picture.replaceWith(frame);
  frame.append(picture, marker, floating);
  frame.after(card);
  frame.addEventListener("pointermove", (event) => {
    const at = `${event.clientX} ${event.clientY}`;
    if (at !== last) point(event); // else the page moved under a pointer that rests
    last = at;
  });
  frame.addEventListener("pointerdown", point);
  frame.addEventListener("pointerleave", () => (floating.hidden = true));
  slider.addEventListener("input", () => {
    card.setAttribute("aria-live", "off");
    const asked = Number(slider.value) - 1;
    const way = asked >= at ? 1 : -1;
    at = nearestMatch(asked, way);
    show(at);
  });
  filter.addEventListener("input", () => {
    card.setAttribute("aria-live", "polite");
    const count = data.marks.filter((_, i) => matches(i)).length;
    filter.setCustomValidity(count ? "" : "No text has this word.");
    found.textContent = filter.value.trim() ? `${count} of ${data.marks.length} pairs` : "";
    if (count) show((at = nearestMatch(0, 1)));
  });
  for (const field of choices) field.addEventListener("change", choose);
  root.append(
    labelled("Pairs in the order of their distance", slider),
    labelled("Only pairs with the word", filter),
    found,
    ...choices.map((field, i) => labelled(["One text", "and another"][i], field)),
  );
  describe(0);
  choices.forEach((field, i) => (field.value = data.marks[0][i]));
  root.hidden = false;
}

/** A field to choose a text with; its values are the numbers of the texts. */
function choice(texts) {
  const options = texts.map((text, i) => element("option", { value: i }, text));
  const sorted = options.sort((a, b) => a.text.localeCompare(b.text));
  return element("select", {}, ...sorted);
}

document.querySelectorAll(".explorer").forEach(explore);
