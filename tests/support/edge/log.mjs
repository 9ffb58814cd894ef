// Who calls what, and when. Each invocation (a request, a call to an object, an alarm, a job) is one entry with
// its calls. The current one is found by asynchronous context: the registry keeps bindings from its first
// request on, so that these cannot tell.
import { AsyncLocalStorage } from "node:async_hooks";
import { now, touch } from "./clock.mjs";
import { rules } from "./rules.mjs";
import { Waiting } from "./waiting.mjs";

const LIMIT = 20_000; // entries kept

const storage = new AsyncLocalStorage();
const calls = new Map(); // calls to objects under way, by number
let order = 0;
let entries = [];
export let counters;

// What no worker may do, since the process began: `Registry.stop` fails if it was done.
const misused = { unknown: [], orphans: [], overloadedRetries: 0 };
export const misuse = () => ({
  unknown: [...misused.unknown, ...counters.unknown],
  orphans: [...misused.orphans, ...counters.orphans],
  overloadedRetries: misused.overloadedRetries + counters.overloadedRetries,
});

export function reset() {
  if (counters) Object.assign(misused, misuse());
  entries = [];
  counters = {
    calls: {}, // by class and kind
    refused: 0, // calls that a limit refused
    faults: 0, // calls that a fault hit
    highest: 0, // most calls of one invocation that waited at once
    alarms: 0,
    lostAlarms: 0, // failed too often
    overloadedRetries: 0, // commands repeated although the object was overloaded
    unknown: [], // members of bindings that the edge does not know
    orphans: [], // calls outside of any invocation
  };
}
reset();

export const log = () => entries;

// Runs an invocation. `parent` is the call of another one that this belongs to; `own` are its rules, and its
// `waitUntil`.
export async function invoke(about, own, use, parent) {
  const entry = { ...about, id: ++order, start: now(), calls: [], sleeps: [] };
  const invocation = { rules: parent?.rules ?? rules, ...own, entry, parent, waiting: new Waiting() };
  entries.push(entry);
  if (entries.length > LIMIT) entries.shift();
  touch();
  try {
    return await storage.run(invocation, () => use(invocation));
  } finally {
    entry.answered = ++order;
    entry.end = now();
    touch();
  }
}

// A timer of the worker's own that has fired, for instance between two attempts.
export function slept(from, to, began) {
  const invocation = storage.getStore();
  if (!invocation) return;
  const sleep = [from, to, began, ++order];
  invocation.entry.sleeps.push(sleep);
  if (invocation.parent) (invocation.parent.call.sleeps ??= []).push(sleep);
}

// The invocation that is running. A call outside of any is recorded, and fails the tests.
export function current() {
  const invocation = storage.getStore();
  if (invocation) return invocation;
  const entry = { kind: "orphan", line: "", id: ++order, start: now(), calls: [], sleeps: [] };
  entries.push(entry);
  return { rules, entry, waiting: new Waiting(), isOrphan: true };
}

export function begin(invocation, about) {
  const from = ["object", "alarm"].includes(invocation.entry.kind) ? "object" : "request";
  const call = { ...about, from, number: ++order, began: order, start: now(), spans: [] };
  // Nobody waits for what an object does after its answer.
  if (from === "object" && invocation.entry.answered !== undefined) call.isLate = true;
  if (invocation.isOrphan) counters.orphans.push(`${about.class}.${about.kind}`);
  invocation.entry.calls.push(call);
  // What an object does for a request is that request's as well.
  if (invocation.parent) (invocation.parent.call.inner ??= []).push(call);
  const name = `${from === "object" ? "object:" : ""}${about.class}.${about.kind}`;
  counters.calls[name] = (counters.calls[name] ?? 0) + 1;
  return call;
}

export function end(invocation, call, outcome) {
  call.ended = ++order;
  call.end = now();
  call.outcome = outcome;
  call.background = invocation.entry.answered !== undefined;
}

// A call to an object is found again, from the other side, by its number.
export const open = (call, rules) => calls.set(call.number, { call, rules });
export const close = (call) => calls.delete(call.number);
export const opened = (number) => calls.get(Number(number));

export const event = () => ++order;
