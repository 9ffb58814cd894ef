// The rules in force: those of the control endpoint, and over them those of a request's `x-edge` header.
import { random } from "./random.mjs";
import { prepare } from "./faults.mjs";

export const DEFAULTS = {
  profile: "near",
  rule: "A", // limit on writes to a key: "A", "B" or "none"
  seed: 1,
  faults: [],
  waiting: 6, // calls that may wait at once
  listing: "short", // pages are short, some empty; or "full"
  kv: "stale", // or "exact"
  cache: "on", // or "off", as on workers.dev
  cacheLimit: 512 * 1024 * 1024, // bodies the Cache API takes, in bytes
  frontDoor: 100 * 1000 * 1000, // bodies the front door lets through, in bytes
  cut: null, // bytes of its body after which the client is cut off
  leaps: true, // whether the clock leaps over waits
};

export let rules;
export let chance;

export function setRules(given) {
  const unknown = Object.keys(given).filter((name) => !(name in DEFAULTS));
  if (unknown.length > 0) throw new Error(`edge: no rule ${unknown}`);
  rules = { ...DEFAULTS, ...given };
  rules.faults = rules.faults.map(prepare);
  chance = random(rules.seed);
}

// The rules of one request, from its header. `tag` and `slot` only mark it in the log, and `lastByte` notes when
// its body ended.
export function rulesOf(header) {
  const { tag, slot, lastByte, ...given } = header ? JSON.parse(header) : {};
  const unknown = Object.keys(given).filter((name) => !(name in DEFAULTS));
  if (unknown.length > 0) throw new Error(`edge: no rule ${unknown}`);
  const own = { ...rules, ...given };
  if (given.faults) own.faults = [...given.faults.map(prepare), ...rules.faults];
  return { rules: own, marks: { tag, slot, lastByte } };
}

setRules({});
