/**
 * The page: a form whose settings live in the address, a worker that conjures, and what it finds.
 * Whatever a reader types reaches the page as text only, never as HTML.
 */

import { contributionBars, farther, format, ruler, settlingChart, triangle } from "./charts.js";
import { estimate } from "./distance.js";
import { element } from "./element.js";
import { keepNumbers, keepPicture } from "./keep.js";
import { paint } from "./pictures.js";
import { fault } from "./reading.js";
import { interval } from "./student.js";

const COLOURS = ["#0072B2", "#D55E00", "#009E73"]; // of the prompts, as in the figures
const WEIGHTINGS = { sde: "nats", score: "", noise: "" };
const TEXTS = ["a", "b", "c"];
const NUMBERS = ["steps", "draws", "guidance", "seed"];
const FIELDS = [...TEXTS, ...NUMBERS]; // what the address holds
const FRAME = 500; // milliseconds of a step that plays
const SAME = "are the same tokens to the model: it cannot tell them apart";
const PATIENCE = 5000; // milliseconds, for a worker that is asked to stop
const base = new URL(".", document.currentScript.src);
const root = document.getElementById("conjure");
const find = (name) => root.querySelector(`[data-part="${name}"]`);
const form = find("form");

const recorded = JSON.parse(find("recorded")?.textContent ?? "null"); // pairs to measure by

let worker = null;
let ready = false; // whether the worker has its model
let busy = false;
let runs = 0; // so many were begun: a message of another than the last is late
let ending = null; // the timer of a worker that is asked to stop
let playing = null; // the timer of the steps that play
let loading = { bytes: 0, since: 0 };
let shown = null; // what the page shows: {prompts, settings, values, adds, times, steps, others}

// -- the form and the address --------------------------------------------------------------

/** Fill the form from the address; what is no number there is left as it is. */
function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  for (const name of TEXTS.filter((one) => address.has(one))) {
    const { maxLength } = form.elements[name];
    form.elements[name].value = address.get(name).slice(0, maxLength);
  }
  for (const name of NUMBERS) {
    const text = address.get(name)?.trim();
    if (text && Number.isFinite(Number(text))) form.elements[name].value = text; // ranges clamp it
  }
  showSettings();
  return address.has("a") && address.has("b");
}

/** Put the form into the address; a run gets a place of its own among those to go back to. */
function writeAddress(lasting = false) {
  const filled = FIELDS.filter((name) => name !== "c" || form.elements.c.value);
  const address = `#${new URLSearchParams(filled.map((name) => [name, form.elements[name].value]))}`;
  if (address === location.hash) return;
  history[lasting && location.hash ? "pushState" : "replaceState"](null, "", address);
}

function showSettings() {
  for (const place of form.querySelectorAll("[data-of]")) {
    place.textContent = form.elements[place.dataset.of].value;
  }
  markStale();
}

function readSettings() {
  return Object.fromEntries(NUMBERS.map((name) => [name, Number(form.elements[name].value)]));
}

function readPrompts() {
  return TEXTS.map((name) => form.elements[name].value).filter((text, i) => text || i < 2);
}

/** Say so where the form asks for something else than what the page shows. */
function markStale() {
  const asked = JSON.stringify([readPrompts(), readSettings()]);
  const same = !shown || asked === JSON.stringify([shown.prompts, shown.settings]);
  find("stale").hidden = same;
  find("results").classList.toggle("conjure-old", !same);
}

/** A shared link runs at once, except where the reader saves data and would load much. */
function openAddress() {
  if (readAddress() && (ready || !navigator.connection?.saveData)) start();
}

async function copyAddress() {
  writeAddress();
  try {
    await navigator.clipboard.writeText(location.href);
    say("The address of this page with your prompts and settings is copied.");
  } catch {
    say("Copy the address of this page: it holds your prompts and settings.");
  }
}

// -- talking to the reader -----------------------------------------------------------------

/** Show how far the run is; aloud, for a screen reader too, where that is news. */
function say(text, aloud = true) {
  find("status").textContent = text;
  if (aloud) find("spoken").textContent = text;
}

function warn(text) {
  find("warnings").append(element("p", {}, text));
}

function setBusy(now) {
  busy = now;
  const [on, off] = busy ? [find("cancel"), find("run")] : [find("run"), find("cancel")];
  on.disabled = false;
  if (document.activeElement === off) on.focus(); // a button that is switched off loses the focus
  off.disabled = true;
  find("progress").hidden = !busy;
  find("results").setAttribute("aria-busy", busy);
  find("waiting").hidden = !busy || ready;
}

// -- a run ---------------------------------------------------------------------------------

function start(event) {
  event?.preventDefault();
  const prompts = readPrompts();
  find("warnings").replaceChildren();
  const faults = prompts.map((prompt, i) => [["first", "second", "third"][i], fault(prompt)]);
  for (const [which, why] of faults) {
    if (why) warn(`The ${which} prompt ${why}.`);
  }
  if (faults.some(([, why]) => why)) return;
  writeAddress(true);
  clearTimeout(ending); // of a run that this one takes the place of
  stopPlaying();
  const settings = readSettings();
  shown = { prompts, settings, steps: [], adds: [], times: [], others: {}, follow: true };
  shown.values = Object.fromEntries(Object.keys(WEIGHTINGS).map((name) => [name, []]));
  layOut();
  markStale();
  find("progress").value = 0;
  setBusy(true);
  if (!ready) find("waiting").scrollIntoView({ block: "nearest" });
  say(ready ? "Conjuring." : "Loading the model; only the first time takes long.");
  try {
    worker ??= openWorker();
    const processor = form.elements.processor.value;
    worker.postMessage({ type: "run", id: (runs += 1), prompts, settings, processor });
  } catch (error) {
    answers.failed(error);
  }
}

/** Ask the worker to stop after its step; one that is loading, or that does not answer, is ended. */
function cancel() {
  const asked = runs;
  const end = () => {
    if (runs !== asked || !busy) return;
    closeWorker();
    answers.cancelled();
  };
  worker?.postMessage({ type: "cancel" });
  clearTimeout(ending);
  if (ready) ending = setTimeout(end, PATIENCE);
  else end();
}

function openWorker() {
  const opened = new Worker(new URL(`worker.js?${VERSION}`, base), { type: "module" });
  loading = { bytes: 0, since: performance.now() };
  opened.onmessage = ({ data }) => {
    if (data.id === undefined || data.id === runs) answers[data.type](data);
  };
  opened.onerror = () => {
    const why = navigator.onLine ? "" : "; this machine is offline";
    answers.failed({ message: `the worker that computes did not start, or has stopped${why}` });
  };
  return opened;
}

function closeWorker() {
  worker?.terminate();
  worker = null;
  ready = false;
}

const answers = {
  loading({ bytes, total }) {
    loading.bytes += bytes;
    find("progress").value = Math.min(1, loading.bytes / total);
    const megabytes = (count) => (count / 1e6).toFixed(count < 1e7 ? 1 : 0);
    const seconds = (performance.now() - loading.since) / 1000;
    const left = Math.ceil(((total - loading.bytes) * seconds) / loading.bytes);
    const time = seconds > 1 && left > 0 ? `, about ${left} s left` : "";
    const text = `Loading the model: ${megabytes(loading.bytes)} of ${megabytes(total)} MB${time}.`;
    if (busy && !ready) say(text, false);
  },
  ready({ processor }) {
    ready = true;
    clearTimeout(ending);
    find("waiting").hidden = true;
    root.dataset.processor = processor;
    shown.began = performance.now();
    shown.where = processor === "webgpu" ? "graphics card" : "processor";
    nameResults();
    say(`The model is loaded. Conjuring on the ${shown.where}.`);
  },
  read({ readings, same, times }) {
    shown.same = same;
    shown.times = times;
    const read = readings.map(({ read, written }) => `${read} of ${written}`).join(" and ");
    const folded = new Set(readings.flatMap((one) => one.folded));
    find("read").textContent = [`Tokens read: ${read}`, ...folded].join("; ") + ".";
    readings.forEach(({ lost }, i) => {
      for (const sentence of lost) warn(`“${shown.prompts[i]}”: ${sentence}.`);
    });
    if (same) warn(`The two prompts differ, and ${SAME}.`);
  },
  step(step) {
    const { steps, draws } = shown.settings;
    const parts = shown.prompts.length === 3 ? 3 : 1;
    const done = (step.part * draws + step.draw) * steps + step.index + 1;
    find("progress").value = done / (parts * steps * draws);
    if (step.part || step.draw) sayLeft(done, parts * steps * draws);
    if (!step.halves) return;
    shown.steps.push(step);
    addToStrips(step);
    const slider = find("step");
    slider.max = shown.steps.length;
    if (shown.follow) slider.value = slider.max;
    showStep();
  },
  draw({ part, draw, values, adds }) {
    if (part) {
      shown.others[part] = values.sde;
      showMap();
      return;
    }
    shown.values = values;
    shown.adds = adds;
    showBars();
    showDistances();
    // at the end both texts see the same picture; on the way there they do not
    if (draw === 0 && shown.follow) choose(telling());
    else showStep();
    say(`Draw ${draw + 1} of ${shown.settings.draws}: ${inWords()}.`, draw === 0);
  },
  done({ seconds }) {
    setBusy(false);
    shown.done = true;
    say(`Done in ${format(seconds, 2)} seconds: ${inWords()}.`);
  },
  cancelled() {
    clearTimeout(ending);
    setBusy(false);
    say("Cancelled.");
  },
  failed({ message }) {
    closeWorker(); // a runtime that has failed once may fail for ever; the next run starts anew
    setBusy(false);
    say("");
    warn(`The model could not be run: ${message}. The recorded examples below show what it does.`);
  },
};

/** How long the rest of a long run takes. */
function sayLeft(done, all) {
  const left = ((performance.now() - shown.began) / 1000 / done) * (all - done);
  if (left > 5) find("left").textContent = `About ${Math.ceil(left)} s left.`;
  else find("left").textContent = "";
}

function inWords() {
  if (shown.same) return `the prompts differ, and ${SAME}`;
  const { value, stderr } = estimate(shown.values.sde);
  const ends = interval(shown.values.sde);
  const error = ends ? ` ± ${format(stderr, 2)}` : "";
  const range = ends ? `, 95 % interval ${ends.map((end) => format(end, 3)).join(" to ")}` : "";
  return `a distance of ${format(value, 4)}${error} nats${range}`;
}

// -- what was found ------------------------------------------------------------------------

/** Empty places for the results of a run. */
function layOut() {
  find("results").hidden = false;
  find("distances").replaceChildren();
  find("charts").replaceChildren();
  find("step").max = find("step").value = 1;
  find("step-text").textContent = find("read").textContent = "";
  find("left").textContent = find("place").textContent = "";
  for (const name of ["bars", "ruler", "map"]) find(name).replaceChildren();
  find("paths").replaceChildren(...[0, 1].map((i) => layOutPath(i)));
  nameResults();
}

/** Say what the results are results of. */
function nameResults() {
  const { prompts, settings, where } = shown;
  const { steps, draws, guidance, seed } = settings;
  find("of").textContent = prompts.map((prompt) => `“${prompt}”`).join(" and ");
  const counted = `${steps} steps, ${draws} ${draws === 1 ? "draw" : "draws"}`;
  const computed = where ? `, computed on the ${where}` : "";
  find("with").textContent = `${counted}, guidance ${guidance}, seed ${seed}${computed}`;
}

/** The position of the step at which the pictures that either text expects differ most. */
function telling() {
  const apart = ({ halves }) =>
    halves.reduce((sum, { pictures: [, first, second] }) => {
      return sum + first.pixels.reduce((all, value, i) => all + (value - second.pixels[i]) ** 2, 0);
    }, 0);
  const all = shown.steps.map(apart);
  return 1 + all.indexOf(Math.max(...all));
}

function showBars() {
  const { adds, times } = shown;
  find("bars").replaceChildren(...contributionBars(adds, times, (i) => pick(positionOf(i))));
}

/** The position of the shown step that is nearest to step `index`: of many, some have pictures. */
function positionOf(index) {
  const gaps = shown.steps.map((step) => Math.abs(step.index - index));
  return 1 + gaps.indexOf(Math.min(...gaps));
}

/** Play the steps from the shown one on, or from the first where that is the last. */
function play() {
  if (playing) {
    stopPlaying();
    return;
  }
  const slider = find("step");
  if (slider.value === slider.max) choose(1);
  find("play").textContent = "Pause";
  playing = setInterval(() => {
    if (slider.value === slider.max) stopPlaying();
    else choose(Number(slider.value) + 1);
  }, FRAME);
}

function stopPlaying() {
  clearInterval(playing);
  playing = null;
  find("play").textContent = "Play";
}

/** Where the distance lies among recorded ones, if these have the same settings. */
function showRuler() {
  if (!recorded || shown.same) return;
  const { value } = estimate(shown.values.sde);
  if (["steps", "guidance"].some((name) => recorded[name] !== shown.settings[name])) {
    find("place").textContent =
      `Recorded pairs to compare with have ${recorded.steps} steps and guidance ${recorded.guidance}.`;
    return;
  }
  const share = farther(value, recorded.quantiles);
  const [near, middle, far] = recorded.named;
  const name = ([a, b, nats]) => `“${a}” and “${b}” (${format(nats, 3)})`;
  find("place").textContent =
    `Nearer than ${share} % of ${recorded.pairs} recorded pairs of words, whose nearest are ` +
    `${name(near)}, the middle ${name(middle)}, the farthest ${name(far)}.`;
  find("ruler").replaceChildren(ruler(value, recorded.quantiles, find("place").textContent));
}

/** The three texts as a triangle, once each pair has a draw. */
function showMap() {
  const all = [shown.values.sde, shown.others[1], shown.others[2]];
  if (!all.every((values) => values?.length)) return;
  const distances = all.map((values) => estimate(values).value);
  const [a, b, c] = shown.prompts;
  const pairs = [[a, b], [a, c], [b, c]];
  const text = pairs.map(([one, other], i) => {
    const { stderr } = estimate(all[i]);
    const error = Number.isFinite(stderr) ? ` ± ${format(stderr, 2)}` : "";
    return `“${one}” and “${other}” ${format(distances[i], 4)}${error} nats`;
  });
  const caption = element("figcaption", {}, `A map of three texts: ${text.join("; ")}. The sides are the square roots of the distances.`);
  const chart = triangle(shown.prompts, distances, COLOURS, text.join("; "));
  find("map").replaceChildren(element("figure", {}, chart, caption));
}

/** The path of prompt i: three pictures of one step side by side, and a strip of all steps. */
function layOutPath(i) {
  const [a, b] = shown.prompts;
  const captions = [`seen by “${a}”`, `the path of “${shown.prompts[i]}”`, `seen by “${b}”`];
  const figures = captions.map((caption) =>
    element(
      "figure",
      {},
      element("canvas", { role: "img", "aria-label": caption, width: 1, height: 1 }),
      element("figcaption", {}, caption),
    ),
  );
  const label = `All steps of the path of “${shown.prompts[i]}”, denoised under this prompt`;
  const strip = element("div", { class: "conjure-strip", role: "img", "aria-label": label });
  const stage = element("div", { class: "conjure-stage" }, ...figures);
  const path = element("div", { class: "conjure-path" }, stage, strip);
  path.style.setProperty("--prompt-colour", COLOURS[i]);
  return path;
}

function addToStrips(step) {
  const position = shown.steps.length;
  root.querySelectorAll(".conjure-strip").forEach((strip, i) => {
    const canvas = element("canvas");
    canvas.addEventListener("click", () => pick(position)); // the slider does the same
    paint(canvas, step.halves[i].pictures[1 + i]);
    strip.append(canvas);
  });
}

/** A reader's choice, which ends what plays. */
function pick(position) {
  stopPlaying();
  choose(position);
}

function choose(position) {
  shown.follow = false;
  find("step").value = position;
  showStep();
}

function showStep() {
  const step = shown.steps[find("step").value - 1];
  if (!step) return;
  root.querySelectorAll(".conjure-path").forEach((path, i) => {
    const { pictures, difference } = step.halves[i];
    const [state, first, second] = pictures;
    const outline = { map: difference, colour: COLOURS[i] };
    const [left, middle, right] = path.querySelectorAll(".conjure-stage canvas");
    paint(left, first, outline);
    paint(middle, state);
    paint(right, second, outline);
    path.querySelectorAll(".conjure-strip canvas").forEach((canvas, position) => {
      canvas.classList.toggle("conjure-chosen", shown.steps[position] === step);
    });
  });
  [...find("bars").children].forEach((bar, i) =>
    bar.classList.toggle("conjure-chosen", i === step.index),
  );
  const adds = shown.adds[step.index];
  const part = adds === undefined ? "" : `; it adds ${format(adds, 3)} nats`;
  const text = `Step ${step.index + 1} of ${shown.settings.steps}, timestep ${step.t}${part}`;
  find("step-text").textContent = text;
  find("step").setAttribute("aria-valuetext", text);
}

function showDistances() {
  const rows = Object.entries(WEIGHTINGS).map(([name, unit]) => {
    const { value, stderr } = estimate(shown.values[name]);
    const row = element("tr", {}, element("th", { scope: "row" }, name));
    const ends = interval(shown.values[name]);
    const range = ends ? ends.map((end) => format(end, 3)).join(" to ") : "–";
    const found = shown.same
      ? ["not told apart", "–", "–", ""]
      : [format(value, 4), format(stderr, 2), range, unit];
    for (const text of found) {
      row.append(element("td", {}, text));
    }
    row.dataset.value = value;
    row.dataset.stderr = stderr;
    return row;
  });
  find("distances").replaceChildren(...rows);
  showRuler();
  const charts = Object.entries(shown.values).map(([name, values]) => {
    const label = `Weighting ${name}: the running mean after each of ${values.length} draws`;
    const caption = element("figcaption", {}, `weighting ${name}`);
    return element("figure", {}, settlingChart(values, shown.settings.draws, label), caption);
  });
  find("charts").replaceChildren(...charts);
}

// -- begin ---------------------------------------------------------------------------------

/** Why the model cannot run here; null where it can. */
function obstacle() {
  if (location.protocol === "file:") {
    return "This page was opened as a file, and browsers start no workers there. Serve the book's folder instead, for example with: python -m http.server.";
  }
  if (typeof WebAssembly !== "object") return "This browser has no WebAssembly.";
  if (typeof DecompressionStream !== "function") return "This browser is too old for the model.";
  return null;
}

find("absent").remove();
const reason = obstacle();
if (reason) {
  warn(`${reason} The recorded examples below show what it computes.`); // the form stays hidden
} else {
  form.hidden = false;
  form.addEventListener("input", showSettings);
  form.addEventListener("submit", start);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && busy && TEXTS.includes(event.target.name)) start(event);
  });
  addEventListener("hashchange", openAddress);
  find("cancel").addEventListener("click", cancel);
  find("share").addEventListener("click", copyAddress);
  find("play").addEventListener("click", play);
  find("step").addEventListener("input", () => pick(find("step").value));
  find("keep-picture").addEventListener("click", () => keepPicture(root, shown, inWords()));
  find("keep-numbers").addEventListener("click", () => keepNumbers(shown, VERSION));
  for (const button of root.querySelectorAll("[data-a]")) {
    button.addEventListener("click", () => {
      for (const name of TEXTS) form.elements[name].value = button.dataset[name] ?? "";
      start();
    });
  }
  openAddress();
}
