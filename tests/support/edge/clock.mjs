// The injected clock: `Date`, `setTimeout` and `scheduler.wait` of the isolate. The registry's WebAssembly looks these
// globals up whenever it calls them.
//
// Time runs as fast as real time while anything works, and leaps to the next timer while everything waits, so
// that a second between two writes costs a few milliseconds. `advance` moves it at once.
//
// Only a timer itself makes the leap: the runtime resolves a promise reliably only in the request that made it.
const RealDate = Date;
const realSetTimeout = setTimeout;

// Real milliseconds without activity after which everything is taken to wait, and between two looks at that.
const GRACE = 4;
// The longest wait that is leapt over, in milliseconds. Longer timers are time limits of work that goes on
// elsewhere, for instance of a client that sends slowly.
const LONGEST_LEAP = 10_000;
// A timer that has not looked for this long belongs to a request that has ended.
const LOST = 500;

let offset = 0; // virtual minus real time, in milliseconds
let leaps = true;
let activity = 0;
const working = new Map(); // calls under way and when they began, in real time
const timers = new Map();
let lastTimer = 0;
// When the offset changed: [real time, offset before it]. For the dates of objects stored earlier.
let history = [];

export const now = () => RealDate.now() + offset;

function move(milliseconds) {
  const last = history.at(-1);
  // Dates of objects need no better than ten seconds.
  if (!last || milliseconds > 10_000 || offset - last[1] > 10_000) history.push([RealDate.now(), offset]);
  offset += milliseconds;
}

// The virtual time of a real time in the past.
export function virtual(real) {
  const before = history.find(([until]) => real < until);
  return real + (before ? before[1] : offset);
}

// The real time at which the clock shows `time` if nothing leaps.
export const real = (time) => time - offset;

export const advance = (milliseconds) => move(milliseconds);

// Something happened: nothing leaps for a moment.
export const touch = () => activity++;

// Whether to leap. Timing tables turn it off.
export const setLeaps = (value) => (leaps = value);

export const save = () => ({ offset, history: history.slice(-200) });
export function restore(saved) {
  offset = saved.offset;
  history = saved.history;
}

// Marks work that no timer may leap over. Returns a function that ends it.
export function work() {
  const token = ++activity;
  working.set(token, RealDate.now());
  return () => {
    activity++;
    working.delete(token);
  };
}

function isIdle(timer) {
  const real = RealDate.now();
  for (const [token, began] of working) if (real - began > 20_000) working.delete(token);
  for (const [id, other] of timers) if (real - other.looked > LOST) timers.delete(id);
  if (working.size > 0 || timer.activity !== activity) return false;
  for (const other of timers.values()) if (other.due < timer.due) return false;
  return true;
}

function arm(timer) {
  const left = Math.max(0, timer.due - now());
  const look = leaps ? Math.min(left, GRACE) : left;
  timer.looked = RealDate.now() + look;
  timer.activity = activity;
  timer.real = realSetTimeout(() => {
    if (timer.isCleared) return;
    const left = timer.due - now();
    if (left > 0 && !(leaps && left <= LONGEST_LEAP && isIdle(timer))) return arm(timer);
    if (left > 0) move(left);
    timers.delete(timer.id);
    activity++;
    timer.run();
  }, look);
}

function virtualSetTimeout(run, milliseconds) {
  const timer = { id: ++lastTimer, due: now() + Math.max(0, Number(milliseconds) || 0), run };
  timers.set(timer.id, timer);
  arm(timer);
  return timer.id;
}

function virtualClearTimeout(id) {
  const timer = timers.get(id);
  if (!timer) return;
  timer.isCleared = true;
  timers.delete(id);
}

// Waits in real time.
export const pause = (milliseconds) => new Promise((resolve) => realSetTimeout(resolve, milliseconds));

export const wait = (milliseconds) =>
  milliseconds > 0 ? new Promise((resolve) => virtualSetTimeout(resolve, milliseconds)) : Promise.resolve();

class VirtualDate extends RealDate {
  constructor(...values) {
    if (values.length === 0) super(now());
    else super(...values);
  }

  static now() {
    return now();
  }
}

// `slept` hears of every timer of the worker's own that fires, with the number that `event` gave its start.
export function install(slept, event) {
  globalThis.Date = VirtualDate;
  globalThis.setTimeout = (run, milliseconds, ...values) => {
    const [from, began] = [now(), event()];
    const fire = () => (slept(from, Math.min(now(), from + milliseconds), began), run(...values));
    return virtualSetTimeout(fire, milliseconds);
  };
  globalThis.clearTimeout = virtualClearTimeout;
  globalThis.scheduler.wait = wait;
}
