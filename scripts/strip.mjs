// Removes the names of functions from a WebAssembly file: a twentieth of the compressed worker. Not by Cargo's `strip`, which
// also removes what wasm-bindgen needs to know.
import { readFileSync, writeFileSync } from "node:fs";

const [, , file] = process.argv;
const bytes = readFileSync(file);

// An unsigned LEB128 number at an offset: its value, and the offset after it.
function number(at) {
  let value = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++];
    value += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) return [value, at];
  }
}

const kept = [bytes.subarray(0, 8)];
for (let at = 8; at < bytes.length;) {
  const [size, start] = number(at + 1);
  const end = start + size;
  const isCustom = bytes[at] === 0;
  const [length, text] = isCustom ? number(start) : [0, start];
  if (bytes.toString("utf8", text, text + length) !== "name") kept.push(bytes.subarray(at, end));
  at = end;
}
writeFileSync(file, Buffer.concat(kept));
