// Fails if the worker in build/ exceeds its budget, compressed as `wrangler deploy` reports it.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

// In KiB, of 1,024 bytes. Workers Free takes 3 MB, Workers Paid 10.
const BUDGET = 1450;

const files = ["build/index_bg.wasm", "build/index.js"].map((file) => readFileSync(file));
const size = gzipSync(Buffer.concat(files)).length / 1024;
console.log(`The worker: ${size.toFixed(1)} KiB compressed with gzip, budget ${BUDGET} KiB`);
process.exitCode = size > BUDGET ? 1 : 0;
