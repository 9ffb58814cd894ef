// Throws if the worker exports a class that the entry point of the edge does not wrap.
export function complete(worker, exported) {
  const missing = Object.keys(worker).filter((name) => !exported.includes(name));
  if (missing.length > 0) throw new Error(`edge: ${missing} must be exported by tests/support/edge/entry.mjs too`);
}
