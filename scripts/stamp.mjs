// Prints two digests: of everything that build/ is made from, and of what is in it. Arguments count as sources: the
// versions of the tools, and what worker-build is called with.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";

const sources = ["Cargo.toml", "Cargo.lock", "package-lock.json", "build.rs", "scripts/env.sh", "scripts/build.sh"];
const results = ["build/index.js", "build/index_bg.wasm"];

function within(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const name = `${folder}/${entry.name}`;
    return entry.isDirectory() ? within(name) : [name];
  });
}

function digest(text) {
  return createHash("sha256").update(text).digest("hex");
}

function list(files) {
  return files.map((file) => `${file} ${digest(readFileSync(file))}\n`).join("");
}

console.log(digest(JSON.stringify(process.argv.slice(2)) + list([...sources, ...within("src").sort()])));
console.log(digest(list(results.filter(existsSync))));
