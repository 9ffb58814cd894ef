// The KV binding. https://developers.cloudflare.com/kv/concepts/how-kv-works/: a location keeps what it has read,
// also that a key is absent, for at least 60 seconds ("Changes ... may take up to 60 seconds or more to be
// visible in other global network locations", "negative lookups ... are also cached").
// https://developers.cloudflare.com/kv/platform/limits/: one write a second to a key, then "429 Too Many Requests".
import { call } from "./call.mjs";
import { now } from "./clock.mjs";
import { current } from "./log.mjs";
import { distance } from "./distances.mjs";
import { wrap } from "./members.mjs";

const TTL = 60_000;
const SECOND = 1000;
const seen = new Map(); // by key and way of asking: when it was read, and what
const written = new Map();

export function reset() {
  seen.clear();
  written.clear();
}

const copy = (result) =>
  result?.value instanceof ArrayBuffer ? { ...result, value: result.value.slice(0) } : structuredClone(result);

function limit(key) {
  return ({ rule }) => {
    if (rule === "none") return;
    if (now() - (written.get(key) ?? -Infinity) < SECOND) {
      throw new Error("KV PUT failed: 429 Too Many Requests");
    }
    written.set(key, now());
  };
}

export function wrapKv(kv) {
  const get = (kind, key, options, operation) => {
    const { rules } = current();
    const name = `${key} ${kind} ${JSON.stringify(options ?? null)}`;
    const last = seen.get(name);
    const isHot = last && now() - last.at < TTL;
    const more = isHot ? 0 : distance(rules.profile, "kvCold") - distance(rules.profile, "kvHot");
    return call(
      { class: "kv", kind, key },
      {
        far: "kvHot",
        more,
        operation: async () => {
          if (rules.kv === "stale" && isHot) return copy(last.result);
          const result = await operation();
          // Streams cannot be kept.
          if (!(result?.value instanceof ReadableStream) && !(result instanceof ReadableStream)) {
            seen.set(name, { at: now(), result: copy(result) });
          }
          return result;
        },
      },
    );
  };
  return wrap("KVNamespace", kv, {
    get: (key, options) => get("get", key, options, () => kv.get(key, options)),
    getWithMetadata: (key, options) => get("getWithMetadata", key, options, () => kv.getWithMetadata(key, options)),
    put: (key, value, options) =>
      call(
        { class: "kv", kind: "put", key },
        { far: "kvCold", limit: limit(key), operation: () => kv.put(key, value, options) },
      ),
    delete: (key) =>
      call({ class: "kv", kind: "delete", key }, { far: "kvCold", limit: limit(key), operation: () => kv.delete(key) }),
    list: (options) =>
      call(
        { class: "kv", kind: "list", key: options?.prefix ?? "" },
        { far: "kvCold", operation: () => kv.list(options) },
      ),
  });
}
