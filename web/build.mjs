/**
 * Bundle the scripts of the book: node build.mjs FOLDER VERSION
 *
 * FOLDER holds the files of the exported model and receives the live page's page.js, worker.js with
 * one chunk for each runtime, and the runtimes themselves, compressed; explorer.js; and the style
 * sheets of both. VERSION goes into every address that the scripts load, and book/live.py puts one into
 * the pages, so that no browser mixes files of two versions.
 */

import { copyFileSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const [folder, version] = process.argv.slice(2);
const runtimes = { wasm: "ort-wasm-simd-threaded", webgpu: "ort-wasm-simd-threaded.asyncify" };
const sizes = readdirSync(folder).map((file) => statSync(join(folder, file)).size);
const model = sizes.reduce((a, b) => a + b, 0);
const load = {}; // bytes that a first run loads, by runtime
for (const [name, file] of Object.entries(runtimes)) {
  const runtime = readFileSync(`node_modules/onnxruntime-web/dist/${file}.wasm`);
  const compressed = gzipSync(runtime, { level: 9 });
  writeFileSync(join(folder, `runtime-${name}`), compressed);
  load[name] = model + compressed.length;
}

const settings = {
  bundle: true,
  minify: true,
  legalComments: "linked",
  outdir: folder,
  logLevel: "warning",
  define: { VERSION: JSON.stringify(version), LOAD: JSON.stringify(load) },
};
const pages = ["src/page.js", "src/explorer.js"];
await build({ ...settings, entryPoints: pages, format: "iife" });
await build({ ...settings, entryPoints: ["src/worker.js"], format: "esm", splitting: true });
for (const sheet of ["live.css", "explorer.css"]) copyFileSync(`src/${sheet}`, join(folder, sheet));

mkdirSync(join(folder, "licences"), { recursive: true });
const licence = "node_modules/@huggingface/tokenizers/LICENSE";
copyFileSync(licence, join(folder, "licences", "huggingface-tokenizers.txt"));
