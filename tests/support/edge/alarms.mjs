// Alarms by the injected clock. One that fails is repeated after 2 s, and then after twice as long each time, at
// most 6 times; after that it is gone. An object runs one alarm at a time:
// https://developers.cloudflare.com/durable-objects/api/alarms/ ("at-least-once ... retries ... exponential
// backoff starting at a 2 second delay ... with up to 6 retries").
import { now, pause, real } from "./clock.mjs";
import { counters } from "./log.mjs";

const RETRIES = 6;
const FIRST_RETRY = 2000;
// The longest wait for an alarm that runs, in real milliseconds.
const LONGEST_WAIT = 10_000;
// Those that run, by object id: rung here, or by the runtime itself.
const running = new Set();
const pending = new Map(); // by object id: when it is due, and how often it failed

export const save = () => [...pending];
export function restore(saved) {
  for (const [id, alarm] of saved) pending.set(id, alarm);
}

// The end of a life may have cut off one that runs.
async function ended(isRunning) {
  for (let waited = 0; isRunning() && waited < LONGEST_WAIT; waited += 2) await pause(2);
}

// Resolves when no alarm runs: what one waits for would run out of time if the clock moved.
export const settled = () => ended(() => running.size > 0);

// The next alarm, and when it is due.
export const next = () => [...pending].map(([id, { due }]) => ({ id, due })).sort((a, b) => a.due - b.due)[0];

// The alarm of one object.
export function of(state) {
  const id = String(state.id);
  const set = (due, failures = 0) => {
    pending.set(id, { due, failures });
    // The runtime's alarm as well, for when nobody advances the clock.
    return state.storage.setAlarm(real(due));
  };
  const clear = () => {
    pending.delete(id);
    return state.storage.deleteAlarm();
  };
  return {
    set: (due) => set(due),
    clear,
    due: () => pending.get(id)?.due ?? null,
    async ring(run) {
      await ended(() => running.has(id));
      const { due, failures } = pending.get(id) ?? { due: 0, failures: 0 };
      if (due > now()) return set(due, failures);
      await clear();
      counters.alarms++;
      running.add(id);
      try {
        await run({ retryCount: failures, isRetry: failures > 0 });
      } catch (error) {
        if (pending.has(id)) return;
        if (failures < RETRIES) return set(now() + FIRST_RETRY * 2 ** failures, failures + 1);
        counters.lostAlarms++;
        console.error(`edge: an alarm failed for good: ${error}`);
      } finally {
        running.delete(id);
      }
    },
  };
}
