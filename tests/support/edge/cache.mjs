// The Cache API. It has no effect on `workers.dev`
// (https://developers.cloudflare.com/workers/reference/how-the-cache-works/, "cache operations in ... *.workers.dev
// ... will have no impact"), and does not take bodies above 512 MB
// (https://developers.cloudflare.com/workers/platform/limits/#cache-api-limits).
import { call } from "./call.mjs";
import { current } from "./log.mjs";
import { wrap } from "./members.mjs";

const keyOf = (request) => (typeof request === "string" ? request : request.url);
const drain = (response) => response.body?.pipeTo(new crypto.DigestStream("MD5"));

function wrapCache(cache) {
  const isOff = () => current().rules.cache === "off";
  const through = (kind, request, operation) =>
    call({ class: "cache", kind, key: keyOf(request) }, { far: "cache", operation });
  return wrap("Cache", cache, {
    match: (request, options) =>
      through("match", request, async () => (isOff() ? undefined : cache.match(request, options))),
    put: (request, response) =>
      through("put", request, async () => {
        if (isOff()) return drain(response);
        if (Number(response.headers.get("content-length")) > current().rules.cacheLimit) {
          await response.body?.cancel();
          throw new Error("Cache API: 413 Payload Too Large");
        }
        return cache.put(request, response);
      }),
    delete: (request, options) =>
      through("delete", request, async () => (isOff() ? false : cache.delete(request, options))),
  });
}

export function install() {
  const real = globalThis.caches;
  const named = new Map();
  Object.defineProperty(globalThis, "caches", {
    value: {
      default: wrapCache(real.default),
      async open(name) {
        if (!named.has(name)) named.set(name, wrapCache(await real.open(name)));
        return named.get(name);
      },
    },
  });
}
