/**
 * The page's own code without a page: node node.mjs MODEL_FOLDER < questions.json > answers.json
 *
 * The questions are {noise: [[seed, draw]], texts: [text], runs: [{prompts, settings}]}; the tests
 * compare the answers with what Python computes.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import * as ort from "onnxruntime-web/wasm";
import { conjure } from "./src/conjure.js";
import { drawValues } from "./src/distance.js";
import { decode, loadModel, tokenIds } from "./src/model.js";
import { noise } from "./src/random.js";
import { fault, reading } from "./src/reading.js";
import { clean, timesteps } from "./src/schedule.js";

const folder = process.argv[2];
const questions = JSON.parse(readFileSync(0, "utf8"));
const read = (name) => new Uint8Array(gunzipSync(readFileSync(join(folder, name))));
const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
const model = await loadModel(ort, read, "wasm");

/** One run: terms of each draw, their values, and the pictures of its first draw's last step. */
async function answer({ prompts, settings }) {
  const began = cpuSeconds();
  const times = timesteps(model.schedule, settings.steps);
  const terms = Array.from({ length: settings.draws }, () => []);
  let pictures = [];
  for await (const { draw, t, x, eps, term } of conjure(model, prompts, settings)) {
    terms[draw].push(term);
    if (draw > 0) continue;
    const views = x.flatMap((state, i) => [
      state,
      ...eps[i].map((e) => clean(model.schedule, state, e, t)),
    ]);
    pictures = await decode(model, views);
  }
  return {
    times,
    terms,
    values: terms.map((one) => drawValues(model.schedule, times, one)),
    pictures: pictures.map(({ pixels }) => Array.from(pixels)),
    seconds: cpuSeconds() - began,
  };
}

const answers = {
  noise: questions.noise.map(([seed, draw]) => Array.from(noise(model.size, seed, draw))),
  ids: questions.texts.map((text) => Array.from(tokenIds(model, text))),
  readings: questions.texts.map((text) => reading(model.reader, text)),
  faults: questions.texts.map(fault),
  runs: [],
};
for (const run of questions.runs) answers.runs.push(await answer(run));
process.stdout.write(JSON.stringify(answers));
