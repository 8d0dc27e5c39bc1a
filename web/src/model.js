/**
 * The embedded model in ONNX Runtime: text encoder, U-Net, decoder and tokenizer, loaded from the
 * files that book/export_onnx.py writes.
 *
 * A network is a graph, NAME.onnx, and its weights, NAME.weights: the half-precision numbers of the
 * checkpoint, all low bytes first and then all high bytes, which compresses well.
 */

import { Tokenizer } from "@huggingface/tokenizers";
import { squaredDistance } from "./distance.js";
import { small } from "./reading.js";

const TOLERANCE = 3e-5; // of a noise prediction; a difference of two close ones is hit harder
// what BERT's tokenizer sets apart, each by itself
const HAN =
  /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;
const text = (bytes) => new TextDecoder().decode(bytes);

/** All 65,536 half-precision numbers, by their bits. */
function halfPrecision() {
  return Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits >>> 15 ? -1 : 1;
    const exponent = (bits >>> 10) & 31;
    const fraction = (bits & 1023) / 1024;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  });
}

/** Weights as float32, from the two planes of bytes. */
export function unpack(planes, half = halfPrecision()) {
  const n = planes.length / 2;
  const weights = new Float32Array(n);
  for (let i = 0; i < n; i++) weights[i] = half[planes[i] | (planes[n + i] << 8)];
  return weights;
}

/**
 * Load the model.
 *
 * @param ort the onnxruntime-web module.
 * @param read a file's name to its bytes, uncompressed (a promise).
 * @param provider "wasm" or "webgpu": what U-Net and decoder run on.
 */
export async function loadModel(ort, read, provider) {
  const manifest = JSON.parse(text(await read("model.json")));
  const open = async (name, provider) => {
    const data = unpack(await read(`${name}.weights`));
    return ort.InferenceSession.create(await read(`${name}.onnx`), {
      executionProviders: [provider],
      externalData: [{ path: `${name}.weights`, data: new Uint8Array(data.buffer) }],
    });
  };
  const model = {
    schedule: { alphaBar: Float32Array.from(manifest.alphas_cumprod), offset: manifest.offset },
    shape: manifest.latent_shape,
    size: manifest.latent_shape.reduce((a, b) => a * b),
    reader: openReader(JSON.parse(text(await read("tokenizer.json"))), manifest.tokens),
    textEncoder: await open("text_encoder", "wasm"),
    unet: await open("unet", provider),
    decoder: await open("decoder", provider),
    Tensor: ort.Tensor,
  };
  await check(model, manifest.check);
  return model;
}

/** The tokenizer of a tokenizer.json, with what the text encoder adds to its tokens. */
export function openReader(json, tokens) {
  const tokenizer = new Tokenizer(json, {});
  // the package's own takes a character beyond 16 bits for two, and a Σ at the end of a word for ς
  const bert = tokenizer.normalizer.normalizers.at(-1);
  bert.normalize = (prompt) => bert.strip_accents(small(bert.clean_text(prompt).replace(HAN, " $& ")));
  const special = new Set(json.added_tokens.map(({ content }) => content));
  const literal = (token) => token.replace(/[[\]]/g, "\\$&");
  const between = new RegExp(`(${[...special].map(literal).join("|")})`);
  const words = (prompt) =>
    prompt
      .split(between)
      .flatMap((part) =>
        special.has(part) ? [part] : tokenizer.pre_tokenizer(tokenizer.normalizer(part)),
      );
  const tokenize = (prompt) => tokenizer.encode(prompt, { add_special_tokens: false });
  return { tokenize, words, special, ...tokens, room: tokens.length - 2 };
}

/** Token ids of a prompt, as the text encoder takes them: cut and filled up to its length. */
export function tokenIds({ reader }, prompt) {
  const ids = reader.tokenize(prompt).ids.slice(0, reader.room);
  const padded = new Int32Array(reader.length).fill(reader.pad);
  padded.set([reader.first, ...ids, reader.last]);
  return padded;
}

/** Whether two prompts are one to the text encoder. */
export function sameTokens(model, [first, second]) {
  return tokenIds(model, first).join() === tokenIds(model, second).join();
}

/** The conditioning of some prompts: one array each. The empty prompt is the unconditional one. */
export async function encode(model, prompts) {
  const ids = prompts.map((prompt) => tokenIds(model, prompt));
  return run(model, model.textEncoder, { ids: [ids, [model.reader.length]] });
}

/** Noise predictions ε(x, t|y) of some rows: states x and conditionings y, one array each. */
export async function predict(model, x, t, y) {
  const width = y[0].length / model.reader.length;
  return run(model, model.unet, {
    x: [x, model.shape],
    t: [x.map(() => Float32Array.of(t)), []],
    y: [y, [model.reader.length, width]],
  });
}

/** Pictures of some latents: {pixels: RGB in 0 … 1, row by row, size: height and width}. */
export async function decode(model, latents) {
  const pixels = await run(model, model.decoder, { z: [latents, model.shape] });
  return pixels.map((picture) => ({ pixels: picture, size: Math.sqrt(picture.length / 3) }));
}

/** Run a session on named inputs, [rows, shape of a row]; the rows of its output. */
async function run({ Tensor }, session, inputs) {
  const feeds = {};
  let n = 0;
  for (const [name, [rows, shape]] of Object.entries(inputs)) {
    n = rows.length;
    const all = new rows[0].constructor(n * rows[0].length);
    rows.forEach((row, i) => all.set(row, i * row.length));
    feeds[name] = new Tensor(all instanceof Int32Array ? "int32" : "float32", all, [n, ...shape]);
  }
  const { output } = await session.run(feeds);
  const data = await output.getData();
  const length = data.length / n;
  return Array.from({ length: n }, (_, i) => data.slice(i * length, (i + 1) * length));
}

/** Predict what the exporter saw Python predict, and refuse to run where another number comes. */
async function check(model, { prompt, t, x, eps }) {
  const [y] = await encode(model, [prompt]);
  const [found] = await predict(model, [Float32Array.from(x)], t, [y]);
  const error = Math.sqrt(squaredDistance(found, eps) / squaredDistance(eps, eps.map(() => 0)));
  if (!(error < TOLERANCE)) throw new Error(`the model computes wrong numbers here (${error})`);
}
