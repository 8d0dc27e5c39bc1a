/**
 * The worker: loads the model once, and conjures in the background. It is told
 * {type: "run", prompts, settings, processor} or {type: "cancel"}, and answers with messages of
 * the types loading, ready, read, step, draw, done, cancelled and failed.
 */

import { conjure } from "./conjure.js";
import { contributions, differenceMap, drawValues } from "./distance.js";
import { decode, loadModel, sameTokens } from "./model.js";
import { reading } from "./reading.js";
import { clean, timesteps } from "./schedule.js";

const SHOWN = 12; // so many steps of a trajectory are shown at most: a picture costs as much as ε
const models = {}; // by processor
let cardFails = false; // found out in "auto": then it is not tried at every run
let running = null; // the AbortController of the run that goes on

/** A file of the page, uncompressed; tells which share of `total` bytes has come with it. */
async function read(name, total, signal) {
  const response = await fetch(`./${name}?${VERSION}`, { signal });
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  const count = new TransformStream({
    transform(chunk, controller) {
      postMessage({ type: "loading", share: chunk.length / total });
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

async function open(processor, signal) {
  const { ort } =
    processor === "webgpu" ? await import("./webgpu.js") : await import("./wasm.js");
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
  ort.env.wasm.wasmBinary ??= await read(`runtime-${processor}`, LOAD[processor], signal);
  return loadModel(ort, (name) => read(name, LOAD[processor], signal), processor);
}

/** The model on the wanted processor ("auto", "wasm", "webgpu"), loaded where it is not yet. */
async function getModel(wanted, signal) {
  const useCard = wanted === "webgpu" || (wanted === "auto" && !cardFails && (await graphicsCard()));
  let processor = useCard ? "webgpu" : "wasm";
  try {
    models[processor] ??= await open(processor, signal);
  } catch (error) {
    if (processor === "wasm" || wanted !== "auto" || signal.aborted) throw error;
    cardFails = true; // it is there and does not compute what it should
    processor = "wasm";
    models.wasm ??= await open(processor, signal);
  }
  postMessage({ type: "ready", processor });
  return models[processor];
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

async function run({ prompts, settings, processor }, signal) {
  const model = await getModel(processor, signal);
  const readings = prompts.map((prompt) => reading(model.reader, prompt));
  const same = prompts[0] !== prompts[1] && sameTokens(model, prompts);
  postMessage({ type: "read", readings, same });
  const began = performance.now();
  const times = timesteps(model.schedule, settings.steps);
  const shown = shownSteps(settings.steps);
  let terms = [];
  for await (const found of conjure(model, prompts, settings)) {
    const { draw, index, t, term } = found;
    terms.push(term);
    const halves = draw === 0 && shown.has(index) ? await pictures(model, found) : null;
    const adds = contributions(model.schedule, times, terms, "sde").at(-1);
    postMessage({ type: "step", draw, index, t, adds, halves });
    if (terms.length === settings.steps) {
      postMessage({ type: "draw", draw, values: drawValues(model.schedule, times, terms) });
      terms = [];
    }
    await new Promise((resume) => setTimeout(resume)); // lets a "cancel" in
    signal.throwIfAborted();
  }
  postMessage({ type: "done", seconds: (performance.now() - began) / 1000 });
}

onmessage = async ({ data }) => {
  if (data.type === "cancel") {
    running?.abort();
    return;
  }
  const control = (running = new AbortController());
  try {
    await run(data, control.signal);
  } catch (error) {
    const type = control.signal.aborted ? "cancelled" : "failed";
    postMessage({ type, message: String(error?.message ?? error) });
  }
};
