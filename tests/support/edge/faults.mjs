// Calls that fail. A fault of the rules names the calls it is for and what happens to them:
//
//   call         "r2.put", or a class: "r2", "object", "kv", "cache", "s3"; missing: any
//   key          a regular expression on the key
//   from         "request" or "object"
//   at           only the n-th of these calls, counted from 0
//   probability  instead: each with this probability
//   kind         see below
//   delay        for `late`: milliseconds until the call takes effect
//
// Kinds. `when: "after"` lets a `restart` follow the command's effect.
//   busy        no effect, R2's text for too many requests
//   error       no effect, an error that is not transient
//   internal    no effect, R2's transient error 10001
//   zero        no effect, "Unspecified error (0)"
//   lost        takes effect, the answer is lost
//   late        the answer is lost and the call takes effect later
//   vanished    R2's error for a multipart upload that is no more
//   restart     the object restarts and loses its memory
//   overloaded  the object refuses: must not be repeated
//
// R2's errors: https://developers.cloudflare.com/r2/api/error-codes/. Those of objects:
// https://developers.cloudflare.com/durable-objects/best-practices/error-handling/ and
// https://developers.cloudflare.com/durable-objects/observability/troubleshooting/.
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
const KINDS = [...Object.keys(ERRORS), "late"];

export function prepare(fault) {
  if (!KINDS.includes(fault.kind)) throw new Error(`edge: no fault ${fault.kind}`);
  return { ...fault, pattern: fault.key === undefined ? null : new RegExp(fault.key), seen: 0, done: 0 };
}

function matches(fault, call) {
  const isCalled = !fault.call || fault.call === call.class || fault.call === `${call.class}.${call.kind}`;
  return isCalled && (!fault.from || fault.from === call.from) && (!fault.pattern || fault.pattern.test(call.key));
}

// The fault that this call meets, if any. Counts the call for every fault that is for it.
export function faultOf(call, faults, chance) {
  let found = null;
  for (const fault of faults) {
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
