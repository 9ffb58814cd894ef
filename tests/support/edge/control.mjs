// The control endpoint, which never reaches the registry. `PUT /v2/_edge` sets rules (see rules.mjs) and starts
// the counters and the log anew, `GET` answers the counters, with `?log` the log as well, `DELETE` resets the
// rules, and `POST ?advance=<seconds>` moves the clock and rings the alarms that are due. What is held goes on when rules
// are set.
import * as alarms from "./alarms.mjs";
import * as clock from "./clock.mjs";
import { holds, letGo } from "./faults.mjs";
import * as kv from "./kv.mjs";
import { counters, log, misuse, reset } from "./log.mjs";
import * as multipart from "./multipart.mjs";
import { ring } from "./objects.mjs";
import { rules, setRules } from "./rules.mjs";
import * as writes from "./write-limit.mjs";

export const PATH = "/v2/_edge";

const save = () => ({ clock: clock.save(), alarms: alarms.save(), multipart: multipart.save() });

function restore(saved) {
  clock.restore(saved.clock);
  alarms.restore(saved.alarms);
  multipart.restore(saved.multipart);
}

let isRestored = false;
// Takes over where the process before this one ended.
export function begin(text) {
  if (isRestored || !text) return;
  isRestored = true;
  const { state, rules } = JSON.parse(text);
  if (rules) apply(rules);
  if (state) restore(state);
}

function apply(given) {
  letGo();
  setRules(given);
  clock.setLeaps(rules.leaps);
  writes.reset();
  kv.reset();
  reset();
}

// Rings what is due, one by one: an alarm may set the next one.
export async function ringDue(env, until = clock.now()) {
  for (let alarm = alarms.next(); alarm && alarm.due <= until; alarm = alarms.next()) {
    await alarms.settled();
    if (alarm.due > clock.now()) clock.advance(alarm.due - clock.now());
    await ring(namespaceOf(env, alarm.id), alarm.id);
  }
}

function namespaceOf(env, id) {
  for (const binding of Object.values(env)) {
    if (binding?.constructor?.name !== "DurableObjectNamespace") continue;
    try {
      binding.idFromString(id);
      return binding;
    } catch {
      // Another namespace's.
    }
  }
  throw new Error(`edge: no namespace of ${id}`);
}

export async function control(request, env) {
  const { searchParams } = new URL(request.url);
  try {
    if (request.method === "PUT") apply(await request.json());
    if (request.method === "DELETE") apply({});
    if (request.method === "POST") {
      const until = clock.now() + Number(searchParams.get("advance")) * 1000;
      await ringDue(env, until);
      await alarms.settled();
      if (until > clock.now()) clock.advance(until - clock.now());
    }
  } catch (error) {
    return Response.json({ error: String(error.stack) }, { status: 400 });
  }
  const faults = rules.faults.map(({ seen, done }) => ({ seen, done }));
  const answer = { now: clock.now(), counters, faults, held: holds(), misuse: misuse(), state: save() };
  if (searchParams.has("log")) answer.log = log();
  return Response.json(answer);
}
