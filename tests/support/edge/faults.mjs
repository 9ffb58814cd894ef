// Calls that fail. A fault of the rules names the calls it is for and what happens to them:
//
//   call         "r2.put", or a class: "r2", "object", "kv", "queue", "cache", "s3"; missing: any
//   key          a regular expression on the key
//   from         "request" or "object"
//   at           only the n-th of these calls, counted from 0
//   probability  instead: each with this probability
//   kind         see below
//   delay        for `late`: milliseconds until the call takes effect
//   name         for `hold`: what the control endpoint calls it
//   freezes      for `hold`: a regular expression. As soon as a call is held, so are those that begin later with such
//                a key, before they take effect
//
// Kinds. `when: "after"` lets a `restart` or `hold` follow the effect.
//   busy        no effect, R2's text for too many requests
//   error       no effect, an error that is not transient
//   internal    no effect, R2's transient error 10001
//   zero        no effect, "Unspecified error (0)"
//   lost        takes effect, the answer is lost
//   late        the answer is lost and the call takes effect later
//   vanished    R2's error for a multipart upload that is no more
//   restart     the object restarts and loses its memory
//   overloaded  the object refuses: must not be repeated
//   hold        waits, until the control endpoint lets go or the process is killed
//
// R2's errors: https://developers.cloudflare.com/r2/api/error-codes/. Those of objects:
// https://developers.cloudflare.com/durable-objects/best-practices/error-handling/ and
// https://developers.cloudflare.com/durable-objects/observability/troubleshooting/.
import { pause, work } from "./clock.mjs";

const failure = (message, flags = {}) => Object.assign(new Error(message), flags);

export const ERRORS = {
  busy: (name) => failure(`${name}: Reduce your concurrent request rate for the same object. (10058)`),
  error: (name) => failure(`${name}: we are out of disks (10999)`),
  internal: (name) => failure(`${name}: We encountered an internal error. Please try again. (10001)`),
  zero: (name) => failure(`${name}: Unspecified error (0)`),
  lost: () => failure("Network connection lost.", { retryable: true }),
  vanished: (name) => failure(`${name}: The specified multipart upload does not exist. (10024)`),
  restart: () => failure("Durable Object reset because its code was updated.", { retryable: true }),
  // The documents' own example retries only what is retryable and not overloaded: both flags may be set.
  overloaded: () =>
    failure("Durable Object is overloaded. Too many requests queued.", { retryable: true, overloaded: true }),
};
const KINDS = [...Object.keys(ERRORS), "late", "hold"];

// The calls that are held, by the name of their fault, until the next rules are set.
let held = {};
export const holds = () => held;
export const letGo = () => (held = {});

// Waits in real time. A promise of one request cannot be resolved in another: see clock.mjs.
export async function hold({ name }) {
  const mine = held;
  mine[name] = (mine[name] ?? 0) + 1;
  const done = work();
  const isHeld = () => held === mine;
  while (isHeld()) await pause(10);
  done();
}

const pattern = (text) => (text === undefined ? null : new RegExp(text));

export function prepare(fault) {
  if (!KINDS.includes(fault.kind)) throw new Error(`edge: no fault ${fault.kind}`);
  return { ...fault, pattern: pattern(fault.key), frozen: pattern(fault.freezes), seen: 0, done: 0 };
}

// A deletion of several keys is one call.
const isOf = (pattern, { key, keys = [key] }) => keys.some((key) => pattern.test(key));

function matches(fault, call) {
  const isCalled = !fault.call || fault.call === call.class || fault.call === `${call.class}.${call.kind}`;
  return isCalled && (!fault.from || fault.from === call.from) && (!fault.pattern || isOf(fault.pattern, call));
}

// The fault that this call meets, if any. Counts the call for every fault that is for it.
export function faultOf(call, faults, chance) {
  let found = null;
  for (const fault of faults) {
    if (fault.frozen && held[fault.name] && isOf(fault.frozen, call)) found ??= { ...fault, when: "before" };
    if (!matches(fault, call)) continue;
    const seen = fault.seen++;
    const isDue =
      fault.probability === undefined ? fault.at === undefined || fault.at === seen : chance() < fault.probability;
    if (!isDue || found) continue;
    fault.done++;
    found = fault;
  }
  return found;
}
