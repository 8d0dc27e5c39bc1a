/**
 * The page: a form whose settings live in the address, a worker that conjures, and what it finds.
 * Whatever a reader types reaches the page as text only, never as HTML.
 */

import { format, settlingChart } from "./charts.js";
import { estimate } from "./distance.js";
import { element } from "./element.js";
import { paint } from "./pictures.js";
import { fault } from "./reading.js";

const COLOURS = ["#0072B2", "#D55E00"]; // of the first and the second prompt, as in the figures
const WEIGHTINGS = { sde: "nats", score: "", noise: "" };
const FIELDS = ["a", "b", "steps", "draws", "guidance", "seed"]; // what the address holds
const SAME = "are the same tokens to the model: it cannot tell them apart";
const PATIENCE = 5000; // milliseconds, for a worker that is asked to stop
const base = new URL(".", document.currentScript.src);
const root = document.getElementById("conjure");
const find = (name) => root.querySelector(`[data-part="${name}"]`);
const form = find("form");

let worker = null;
let loaded = false; // whether the run that goes on has its model
let shown = null; // what the page shows: {prompts, settings, values, steps, follow}

// -- the form and the address --------------------------------------------------------------

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  for (const name of FIELDS) {
    if (address.has(name)) form.elements[name].value = address.get(name); // ranges clamp it
  }
  showSettings();
}

function writeAddress() {
  const address = new URLSearchParams(FIELDS.map((name) => [name, form.elements[name].value]));
  history.replaceState(null, "", `#${address}`);
}

function showSettings() {
  for (const place of form.querySelectorAll("[data-of]")) {
    place.textContent = form.elements[place.dataset.of].value;
  }
}

function readSettings() {
  const number = (name) => Number(form.elements[name].value);
  return Object.fromEntries(FIELDS.slice(2).map((name) => [name, number(name)]));
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

function setBusy(busy) {
  const [on, off] = busy ? [find("cancel"), find("run")] : [find("run"), find("cancel")];
  on.disabled = false;
  if (document.activeElement === off) on.focus(); // a button that is switched off loses the focus
  off.disabled = true;
  find("progress").hidden = !busy;
  find("results").setAttribute("aria-busy", busy);
}

// -- a run ---------------------------------------------------------------------------------

function start(event) {
  event.preventDefault();
  const prompts = [form.elements.a.value, form.elements.b.value];
  find("warnings").replaceChildren();
  const faults = prompts.map((prompt, i) => [["first", "second"][i], fault(prompt)]);
  for (const [which, why] of faults) {
    if (why) warn(`The ${which} prompt ${why}.`);
  }
  if (faults.some(([, why]) => why)) return;
  writeAddress();
  const settings = readSettings();
  shown = { prompts, settings, steps: [], follow: true };
  shown.values = Object.fromEntries(Object.keys(WEIGHTINGS).map((name) => [name, []]));
  layOut();
  find("progress").value = 0;
  setBusy(true);
  loaded = false;
  say("Loading the model; only the first time takes long.");
  try {
    worker ??= openWorker();
    const processor = form.elements.processor.value;
    worker.postMessage({ type: "run", prompts, settings, processor });
  } catch (error) {
    answers.failed(error);
  }
}

/** Ask the worker to stop after its step; one that is loading, or that does not answer, is ended. */
function cancel() {
  const asked = worker;
  const end = () => {
    if (worker !== asked || find("cancel").disabled) return;
    closeWorker();
    answers.cancelled();
  };
  worker?.postMessage({ type: "cancel" });
  if (loaded) setTimeout(end, PATIENCE);
  else end();
}

function openWorker() {
  const opened = new Worker(new URL(`worker.js?${VERSION}`, base), { type: "module" });
  opened.onmessage = ({ data }) => answers[data.type](data);
  opened.onerror = () =>
    answers.failed({ message: "the worker that computes did not start, or has stopped" });
  return opened;
}

function closeWorker() {
  worker?.terminate();
  worker = null;
}

const answers = {
  loading({ share }) {
    find("progress").value += share;
  },
  ready({ processor }) {
    loaded = true;
    root.dataset.processor = processor;
    const where = processor === "webgpu" ? "graphics card" : "processor";
    say(`The model is loaded. Conjuring on the ${where}.`);
  },
  read({ readings, same }) {
    shown.same = same;
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
    find("progress").value = (step.draw * steps + step.index + 1) / (steps * draws);
    if (!step.halves) return;
    shown.steps.push(step);
    addToStrips(step);
    const slider = find("step");
    slider.max = shown.steps.length;
    if (shown.follow) slider.value = slider.max;
    showStep();
  },
  draw({ draw, values }) {
    for (const name of Object.keys(WEIGHTINGS)) shown.values[name].push(values[name]);
    showDistances();
    // at the end both texts see the same picture; on the way there they do not
    if (draw === 0 && shown.follow) choose(Math.ceil(shown.steps.length / 3));
    say(`Draw ${draw + 1} of ${shown.settings.draws}: ${inWords()}.`, draw === 0);
  },
  done({ seconds }) {
    setBusy(false);
    say(`Done in ${format(seconds, 2)} seconds: ${inWords()}.`);
  },
  cancelled() {
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

function inWords() {
  if (shown.same) return `the prompts differ, and ${SAME}`;
  const { value, stderr } = estimate(shown.values.sde);
  const error = Number.isFinite(stderr) ? ` ± ${format(stderr, 2)}` : "";
  return `a distance of ${format(value, 4)}${error} nats`;
}

// -- what was found ------------------------------------------------------------------------

/** Empty places for the results of a run. */
function layOut() {
  find("results").hidden = false;
  find("distances").replaceChildren();
  find("charts").replaceChildren();
  find("step").max = find("step").value = 1;
  find("step-text").textContent = find("read").textContent = "";
  find("paths").replaceChildren(...shown.prompts.map((_, i) => layOutPath(i)));
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
    canvas.addEventListener("click", () => choose(position)); // the slider does the same
    paint(canvas, step.halves[i].pictures[1 + i]);
    strip.append(canvas);
  });
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
  const text =
    `Step ${step.index + 1} of ${shown.settings.steps}, timestep ${step.t}; ` +
    `it adds ${format(step.adds, 3)} nats to the first draw`;
  find("step-text").textContent = text;
  find("step").setAttribute("aria-valuetext", text);
}

function showDistances() {
  const rows = Object.entries(WEIGHTINGS).map(([name, unit]) => {
    const { value, stderr } = estimate(shown.values[name]);
    const row = element("tr", {}, element("th", { scope: "row" }, name));
    const found = shown.same ? ["not told apart", "–", ""] : [format(value, 4), format(stderr, 2), unit];
    for (const text of found) {
      row.append(element("td", {}, text));
    }
    row.dataset.value = value;
    row.dataset.stderr = stderr;
    return row;
  });
  find("distances").replaceChildren(...rows);
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
  readAddress();
  form.addEventListener("input", showSettings);
  form.addEventListener("submit", start);
  addEventListener("hashchange", readAddress);
  find("cancel").addEventListener("click", cancel);
  find("share").addEventListener("click", copyAddress);
  find("step").addEventListener("input", () => choose(find("step").value));
  for (const button of root.querySelectorAll("[data-a]")) {
    button.addEventListener("click", () => {
      form.elements.a.value = button.dataset.a;
      form.elements.b.value = button.dataset.b;
    });
  }
}
