/**
 * The worker: loads the model once, and conjures in the background. It is told
 * {type: "run", id, prompts (two or three), settings, processor} or {type: "cancel"}, and answers
 * with messages of the types loading, ready, read, step, draw, done, cancelled and failed; all but
 * the first carry the id of their run, which another run may have taken the place of meanwhile.
 */

import { conjure } from "./conjure.js";
import { contributions, differenceMap, drawValues } from "./distance.js";
import { decode, loadModel, sameTokens } from "./model.js";
import { reading } from "./reading.js";
import { WEIGHTINGS, clean, timesteps } from "./schedule.js";

const SHOWN = 12; // so many steps of a trajectory are shown at most: a picture costs as much as ε
const models = {}; // by processor
let cardFails = false; // found out in "auto": then it is not tried at every run
let running = null; // the AbortController of the run that goes on

/** A file of the page, uncompressed; tells how many of `total` bytes have come with it. */
async function read(name, total) {
  const response = await fetch(`./${name}?${VERSION}`);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  const count = new TransformStream({
    transform(chunk, controller) {
      postMessage({ type: "loading", bytes: chunk.length, total });
      controller.enqueue(chunk);
    },
  });
  const stream = response.body.pipeThrough(count).pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Whether there is a graphics card behind WebGPU, and not a program that imitates one. */
async function graphicsCard() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !adapter.info?.isFallbackAdapter;
}

async function open(processor) {
  const { ort } =
    processor === "webgpu" ? await import("./webgpu.js") : await import("./wasm.js");
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
  ort.env.wasm.wasmBinary ??= await read(`runtime-${processor}`, LOAD[processor]);
  return loadModel(ort, (name) => read(name, LOAD[processor]), processor);
}

/** The model on the wanted processor ("auto", "wasm", "webgpu"), loaded where it is not yet. */
async function getModel(wanted) {
  const useCard = wanted === "webgpu" || (wanted === "auto" && !cardFails && (await graphicsCard()));
  let processor = useCard ? "webgpu" : "wasm";
  try {
    models[processor] ??= await open(processor);
  } catch (error) {
    if (processor === "wasm" || wanted !== "auto") throw error;
    cardFails = true; // it is there and does not compute what it should
    processor = "wasm";
    models.wasm ??= await open(processor);
  }
  return [models[processor], processor];
}

/** Which steps are shown: all, or so many evenly spread. */
function shownSteps(steps) {
  const n = Math.min(SHOWN, steps);
  const spread = (_, i) => Math.round((i * (steps - 1)) / Math.max(1, n - 1));
  return new Set(Array.from({ length: n }, spread));
}

/**
 * Both halves of a step as pictures: for each trajectory what the network saw, that denoised under
 * the first and under the second prompt, and where the two predictions differ.
 */
async function pictures(model, { t, x, eps }) {
  const views = x.flatMap((state, i) => [
    state,
    ...eps[i].map((e) => clean(model.schedule, state, e, t)),
  ]);
  const decoded = await decode(model, views);
  return [0, 1].map((i) => ({
    pictures: decoded.slice(3 * i, 3 * i + 3),
    difference: differenceMap(...eps[i], model.shape[0]),
  }));
}

/** The values of all draws so far, by weighting, and what each step adds to their mean in nats. */
function summary(model, times, draws) {
  const each = draws.map((terms) => drawValues(model.schedule, times, terms));
  const values = Object.fromEntries(WEIGHTINGS.map((name) => [name, each.map((one) => one[name])]));
  const mean = times.map((_, i) =>
    [0, 1].map((half) => draws.reduce((sum, terms) => sum + terms[i][half], 0) / draws.length),
  );
  return { values, adds: contributions(model.schedule, times, mean, "sde") };
}

/** The pairs of two prompts or of three; the first is the one that is shown in pictures. */
function pairsOf([first, second, third]) {
  return third ? [[first, second], [first, third], [second, third]] : [[first, second]];
}

async function run({ prompts, settings, processor }, signal, tell) {
  const [model, used] = await getModel(processor);
  signal.throwIfAborted();
  tell("ready", { processor: used });
  const readings = prompts.map((prompt) => reading(model.reader, prompt));
  const same = prompts[0] !== prompts[1] && sameTokens(model, prompts);
  const times = timesteps(model.schedule, settings.steps);
  tell("read", { readings, same, times });
  const began = performance.now();
  for (const [part, pair] of pairsOf(prompts).entries()) {
    await runPair(model, pair, part, times, settings, signal, tell);
  }
  tell("done", { seconds: (performance.now() - began) / 1000 });
}

async function runPair(model, pair, part, times, settings, signal, tell) {
  const shown = shownSteps(settings.steps);
  const draws = [];
  let terms = [];
  for await (const found of conjure(model, pair, settings)) {
    const { draw, index, t, term } = found;
    terms.push(term);
    const pictured = part === 0 && draw === 0 && shown.has(index);
    const halves = pictured ? await pictures(model, found) : null;
    tell("step", { part, draw, index, t, halves });
    if (terms.length === settings.steps) {
      draws.push(terms);
      tell("draw", { part, draw, ...summary(model, times, draws) });
      terms = [];
    }
    await new Promise((resume) => setTimeout(resume)); // lets a "cancel" in
    signal.throwIfAborted();
  }
}

let last = Promise.resolve(); // a run begins when the one before it has ended

onmessage = ({ data }) => {
  running?.abort(); // by "cancel", or by a run that takes its place
  if (data.type === "cancel") return;
  const control = (running = new AbortController());
  const tell = (type, content) => postMessage({ type, id: data.id, ...content });
  last = last.then(async () => {
    try {
      control.signal.throwIfAborted();
      await run(data, control.signal, tell);
    } catch (error) {
      const type = control.signal.aborted ? "cancelled" : "failed";
      tell(type, { message: String(error?.message ?? error) });
    }
  });
};
