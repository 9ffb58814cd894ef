// The way of every call through the edge: logged, queued, as far away as its profile says, failing as told.
import { now, wait, work } from "./clock.mjs";
import { distance } from "./distances.mjs";
import { ERRORS, faultOf, hold } from "./faults.mjs";
import { begin, counters, current, end, event } from "./log.mjs";
import { chance } from "./rules.mjs";

// `about`: class, kind and key. `far`: the name of its distance; `more`: milliseconds on top. `limit` is asked
// before the call is carried out, may throw to refuse it, and returns what to do after. `operation` carries it
// out. `copy` makes the operation repeatable for one that lands late.
//
// A call ends even if its invocation ends before it: the platform's part does not hear that nobody waits any more.
export function call(about, options) {
  const invocation = current();
  const done = carryOut(about, options, invocation);
  invocation.waitUntil?.(done.catch(() => {}));
  return done;
}

async function carryOut(about, { far, more = 0, limit, operation, copy, fail }, invocation) {
  const { rules } = invocation;
  const entry = begin(invocation, about);
  let outcome = "ok";
  counters.highest = Math.max(counters.highest, await invocation.waiting.take(rules.waiting));
  entry.went = event();
  try {
    const way = (distance(rules.profile, far, entry.from === "object") + more) / 2;
    const fault = faultOf(entry, rules.faults, chance);
    if (fault) counters.faults++;
    let after;
    try {
      after = limit?.(rules);
    } catch (error) {
      counters.refused++;
      outcome = "refused";
      await travel(entry, 2 * way);
      throw error;
    }
    try {
      await travel(entry, way);
      const result = fault
        ? await failing(fault, about, invocation, { operation, copy, fail }, entry)
        : await working(operation, entry);
      await travel(entry, way);
      return result;
    } finally {
      after?.();
    }
  } catch (error) {
    if (outcome === "ok") outcome = String(error?.message ?? error);
    throw error;
  } finally {
    invocation.waiting.give();
    end(invocation, entry, outcome);
  }
}

// The time that distance takes is logged apart from what the operation takes in the simulator, and as asked: a busy
// machine's timers are late.
async function travel(entry, milliseconds) {
  const from = now();
  await wait(milliseconds);
  entry.spans.push([from, from + milliseconds]);
}

// No timer may leap over a call under way. An object waits by timers of its own.
async function working(operation, entry) {
  if (["object", "metrics"].includes(entry.class)) return operation(entry);
  const done = work();
  try {
    return await operation(entry);
  } finally {
    done();
  }
}

async function failing(fault, about, invocation, { operation, copy, fail }, entry) {
  const name = about.kind;
  if (fail) {
    const failed = await fail(fault, entry);
    if (failed) throw failed;
  }
  if (fault.kind === "hold") {
    if (fault.when === "after") {
      const result = await working(operation, entry);
      await hold(fault);
      return result;
    }
    await hold(fault);
    return working(operation, entry);
  }
  if (fault.kind === "late") {
    await copy?.();
    const landing = wait(fault.delay ?? 5000).then(() => working(operation, entry));
    invocation.waitUntil?.(landing.catch(() => {}));
    throw ERRORS.lost(name);
  }
  if (fault.kind === "lost") await working(operation, entry);
  throw ERRORS[fault.kind](name);
}
