// R2 takes one write a second to a key, and answers 429 to more, "10058 TooManyRequests":
// https://developers.cloudflare.com/r2/platform/limits/ ("Concurrent writes to the same object name (key): 1 per
// second") and https://developers.cloudflare.com/r2/api/error-codes/. Conditional writes that are refused,
// deletions and completed multipart uploads are writes.
//
// Rule A is this. Rule B refuses a write only while another one to the key is under way.
import { now } from "./clock.mjs";

const SECOND = 1000;
const keys = new Map(); // when the last write ended, and how many are under way

export const reset = () => keys.clear();

// Throws if one of the keys may not be written now. Returns a function that ends the write.
export function write(rule, written, kind) {
  if (rule === "none") return () => {};
  for (const key of written) {
    const { active, last } = keys.get(key) ?? { active: 0, last: -Infinity };
    if (active === 0 && (rule === "B" || now() - last >= SECOND)) continue;
    throw new Error(`${kind}: Reduce your concurrent request rate for the same object. (10058)`);
  }
  for (const key of written) {
    const state = keys.get(key) ?? { last: -Infinity };
    keys.set(key, { ...state, active: (state.active ?? 0) + 1 });
  }
  return () => {
    for (const key of written) keys.set(key, { active: keys.get(key).active - 1, last: now() });
    if (keys.size > 50_000)
      for (const [key, { active, last }] of keys) if (!active && now() - last > SECOND) keys.delete(key);
  };
}
