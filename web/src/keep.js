/** What a reader takes along: the shown pictures as one file, and the numbers as another. */

import { estimate } from "./distance.js";
import { interval } from "./student.js";

/** Offer a file for download. */
function offer(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** The six pictures of the shown step, with what they show and the distance below. */
export function keepPicture(root, shown, words) {
  const canvases = [...root.querySelectorAll(".conjure-stage canvas")];
  const side = canvases[0].width;
  const picture = document.createElement("canvas");
  [picture.width, picture.height] = [3 * side + 40, 2 * (side + 30) + 70];
  const context = picture.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, picture.width, picture.height);
  context.fillStyle = "#222";
  context.font = "13px sans-serif";
  canvases.forEach((canvas, i) => {
    const [x, y] = [10 + (i % 3) * (side + 10), 26 + Math.floor(i / 3) * (side + 30)];
    context.fillText(canvas.getAttribute("aria-label"), x, y - 6, side);
    context.drawImage(canvas, x, y);
  });
  const { steps, draws, guidance, seed } = shown.settings;
  const lines = [words, `${steps} steps, ${draws} draws, guidance ${guidance}, seed ${seed}`];
  lines.forEach((line, i) => context.fillText(line, 10, picture.height - 36 + 20 * i, picture.width - 20));
  picture.toBlob((blob) => offer(blob, "conjured.png"));
}

/** Everything that was computed, as JSON. */
export function keepNumbers(shown, version) {
  const of = (values) => ({ ...estimate(values), interval95: interval(values), by_draw: values });
  const { prompts, settings, values, adds, times, others, where } = shown;
  const content = {
    prompts,
    settings: { ...settings, sampler: "ddim", processor: where },
    version,
    finished: Boolean(shown.done),
    distance: Object.fromEntries(Object.entries(values).map(([name, v]) => [name, of(v)])),
    with_third: Object.fromEntries(Object.entries(others).map(([part, v]) => [part, of(v)])),
    timesteps: times,
    adds_nats: adds,
    address: location.href,
  };
  offer(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }), "conjured.json");
}
