// Plays Workers Caching, which the local simulator lacks. The rules are those of Cloudflare's documentation:
// https://developers.cloudflare.com/workers/cache/ (index, configuration, cache-keys, purge, limitations).
//
// `context` wraps the `ctx` of an entry point: `ctx.exports.<Class>.fetch` goes through the cache, to the real loopback
// on a miss, and `ctx.cache.purge` exists. Time is `Date.now()`, which a test may override.

const LIMIT = 512_000_000; // bytes of a response: "Response size limits are the same as Cloudflare's zone cache"
const BUCKET = 25; // purges at once, and per minute: "always uses the Free tier limits"
const PER_MINUTE = 5;
const OPERATIONS = 100; // tags and prefixes in one purge

// "Responses with no Cache-Control header are still cached": seconds by status.
const DEFAULTS = {
  200: 7200,
  203: 7200,
  204: 7200,
  300: 1200,
  301: 1200,
  404: 180,
  405: 60,
  410: 180,
  414: 60,
  501: 60,
};

// "As anti-cache-poisoning measures, the key also includes"
const KEY_HEADERS = ["x-http-method-override", "x-http-method", "x-method-override", "x-forwarded-host", "x-host"];
KEY_HEADERS.push("x-original-url", "x-rewrite-url", "forwarded", "cloudflare-workers-version-key");

export const CENTER = "x-data-center";

function directives(text) {
  const found = new Map();
  for (const part of text.toLowerCase().split(",")) {
    const [name, value] = part.trim().split("=");
    if (name) found.set(name, value === undefined ? true : Number(value));
  }
  return found;
}

// How an answer may be kept: `null`, or its lifetime and how long it may be served stale, in seconds.
function storage(request, response, override) {
  const { status, headers } = response;
  if (status === 206 || (status >= 520 && status <= 526) || headers.get("vary") === "*") return null;
  const text =
    headers.get("cloudflare-cdn-cache-control") ??
    headers.get("cdn-cache-control") ??
    override ??
    headers.get("cache-control");
  if (headers.has("set-cookie")) return null;
  if (text === null) {
    const lifetime = DEFAULTS[status];
    return lifetime === undefined || request.headers.has("authorization")
      ? null
      : { lifetime, onError: Infinity, swr: 0 };
  }
  const control = directives(text);
  const isShared = ["public", "must-revalidate", "s-maxage"].some((name) => control.has(name));
  if (control.has("private") || control.has("no-store")) return null;
  if (request.headers.has("authorization") && !isShared) return null;
  const lifetime = control.has("no-cache")
    ? 0
    : (control.get("s-maxage") ?? control.get("max-age") ?? DEFAULTS[status]);
  if (lifetime === undefined) return null;
  // RFC 9111, section 4.2.4. Otherwise the platform serves stale answers on errors "indefinitely".
  const isStrict = ["s-maxage", "must-revalidate", "proxy-revalidate"].some((name) => control.has(name));
  const onError = isStrict ? 0 : (control.get("stale-if-error") ?? Infinity);
  return { lifetime, onError, swr: isStrict ? 0 : (control.get("stale-while-revalidate") ?? 0) };
}

// The requested part of a whole: `null` for all of it, `false` if there is none.
function slice(range, size) {
  const match = range?.match(/^bytes=(\d*)-(\d*)$/);
  if (!match || (!match[1] && !match[2])) return null;
  const first = match[1] ? Number(match[1]) : Math.max(0, size - Number(match[2]));
  const last = match[1] && match[2] ? Math.min(Number(match[2]), size - 1) : size - 1;
  return first < size && first <= last ? [first, last] : false;
}

export class WorkersCache {
  // Moods, for tests. `purge`: "prompt", "late" (after `delay` seconds), "lost" or "refused". `hold`: answers are stored
  // only when `release` is called. `forgetsAge`: entries never expire. `capacity`: bytes in each cache.
  moods = { purge: "prompt", delay: 0, hold: false, forgetsAge: false, capacity: Infinity, limit: LIMIT };
  counts = {};
  #tiers = new Map(); // data centre, or "upper" -> key -> entry
  #flights = new Map();
  #held = [];
  #purges = [];
  #tokens = { left: BUCKET, at: 0 };

  // `sleep` waits for a cached call; `log` is told of each call and of its end.
  constructor({ sleep = async () => {}, log = () => () => {} } = {}) {
    this.sleep = sleep;
    this.log = log;
  }

  // `here()` is the name of the data centre.
  context(ctx, entrypoint, here) {
    const exported = new Proxy(ctx.exports ?? {}, {
      get: (target, name) => {
        const real = target[name];
        if (real === undefined || typeof name === "symbol" || name === "default") return real;
        return this.#stub(ctx, name, real, here);
      },
    });
    const cache = { purge: (options) => this.#purge(entrypoint, options) };
    return new Proxy(ctx, {
      get(target, name) {
        if (name === "exports") return exported;
        if (name === "cache") return cache;
        const value = target[name];
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  // A loopback stub. Called with `{ props }`, it returns one whose calls carry them. RPC bypasses the cache.
  #stub(ctx, name, real, here, props) {
    const fetch = (input, init) => this.#fetch(ctx, name, real, here, props, input, init);
    return new Proxy(function () {}, {
      apply: (_, __, [options]) => this.#stub(ctx, name, real(options), here, options?.props),
      get: (_, method) => (method === "fetch" ? fetch : (...args) => real[method](...args)),
    });
  }

  #count(entrypoint, what) {
    const counts = (this.counts[entrypoint] ??= {
      hit: 0,
      miss: 0,
      bypass: 0,
      collapsed: 0,
      stale: 0,
      purge: 0,
      refused: 0,
    });
    counts[what]++;
  }

  async #fetch(ctx, entrypoint, real, here, props, input, init) {
    const request = new Request(input, init);
    const center = here();
    const done = this.log(entrypoint, request);
    try {
      await this.sleep();
      if (!["GET", "HEAD"].includes(request.method) || request.headers.has("upgrade")) return await real.fetch(request);
      const cf = init?.cf ?? (input instanceof Request ? input.cf : undefined) ?? {};
      const { pathname, search } = new URL(request.url);
      const extra = KEY_HEADERS.map((name) => request.headers.get(name));
      const key = JSON.stringify([entrypoint, cf.cacheKey ?? pathname + search, props ?? null, extra]);
      return await this.#answer({ ctx, entrypoint, real, center, key, path: pathname, cf, request });
    } finally {
      done();
    }
  }

  async #answer(call) {
    const { entrypoint, center, key, request } = call;
    const flight = `${center} ${key}`;
    for (;;) {
      this.#settle();
      const entry = this.#look(center, key) ?? this.#look("upper", key);
      const age = entry ? (Date.now() - entry.stored) / 1000 : 0;
      if (entry && (age < entry.lifetime || this.moods.forgetsAge)) {
        this.#count(entrypoint, "hit");
        this.#store(center, key, entry);
        return this.#respond(request, entry, "HIT");
      }
      if (entry && age < entry.lifetime + entry.swr) {
        this.#count(entrypoint, "stale");
        call.ctx.waitUntil(this.#run(call, flight).catch(() => {}));
        return this.#respond(request, entry, "UPDATING");
      }
      const under = this.#flights.get(flight);
      if (!under) {
        const response = await this.#run(call, flight).catch((error) => ({ error }));
        const failed = response.error || response.status >= 500;
        if (failed && entry && age < entry.lifetime + entry.onError) {
          this.#count(entrypoint, "stale");
          return this.#respond(request, entry, "STALE");
        }
        if (response.error) throw response.error;
        return response;
      }
      // Polls: the runtime forbids to wait for what another request does.
      while (!under.done) await new Promise((resolve) => setTimeout(resolve, 1));
      if (under.entry) {
        this.#count(entrypoint, "collapsed");
        return this.#respond(request, under.entry, "HIT");
      }
      // "Collapsing does not apply to uncacheable responses."
      return this.#run(call, null);
    }
  }

  async #run({ entrypoint, real, center, key, path, cf, request }, flight) {
    const under = { done: false, entry: null };
    if (flight) this.#flights.set(flight, under);
    try {
      const headers = new Headers(request.headers);
      for (const name of ["range", "if-none-match", "if-range", "if-modified-since"]) headers.delete(name);
      headers.set(CENTER, center);
      const response = await real.fetch(new Request(request.url, { headers }));
      const kept = storage(request, response, cf.cacheControl);
      const length = Number(response.headers.get("content-length") ?? 0);
      if (!kept || length > this.moods.limit) {
        this.#count(entrypoint, "bypass");
        const answer = new Response(request.method === "HEAD" ? null : response.body, response);
        answer.headers.set("cf-cache-status", "BYPASS");
        return answer;
      }
      const { status } = response;
      const tags = (response.headers.get("cache-tag") ?? "").toLowerCase().split(",").filter(Boolean);
      const consumed = ["cache-tag", "cloudflare-cdn-cache-control"];
      const fields = [...response.headers].filter(([name]) => !consumed.includes(name));
      const entry = { ...kept, status, fields, tags, entrypoint, path, body: await response.arrayBuffer() };
      this.#count(entrypoint, "miss");
      under.entry = entry;
      const put = () => {
        entry.stored = Date.now();
        for (const tier of ["upper", center]) this.#store(tier, key, entry);
      };
      if (this.moods.hold) this.#held.push(put);
      else put();
      return this.#respond(request, entry, "MISS");
    } finally {
      under.done = true;
      if (flight) this.#flights.delete(flight);
    }
  }

  #respond(request, { status, fields, body }, outcome) {
    const headers = new Headers(fields);
    headers.set("cf-cache-status", outcome);
    const range = status === 200 ? slice(request.headers.get("range"), body.byteLength) : null;
    if (range === false) {
      return new Response(null, { status: 416, headers: { "content-range": `bytes */${body.byteLength}` } });
    }
    const [first, last] = range ?? [0, body.byteLength - 1];
    headers.set("content-length", String(last - first + 1));
    if (range) headers.set("content-range", `bytes ${first}-${last}/${body.byteLength}`);
    const content = request.method === "HEAD" ? null : range ? body.slice(first, last + 1) : body;
    return new Response(content, { status: range ? 206 : status, headers });
  }

  #tier(name) {
    if (!this.#tiers.has(name)) this.#tiers.set(name, new Map());
    return this.#tiers.get(name);
  }

  #look(tier, key) {
    return this.#tier(tier).get(key);
  }

  // Stores as the most recently used, and evicts the least recently used.
  #store(tier, key, entry) {
    const entries = this.#tier(tier);
    entries.delete(key);
    entries.set(key, entry);
    let bytes = 0;
    for (const { body } of entries.values()) bytes += body.byteLength;
    for (const [oldest, { body }] of entries) {
      if (bytes <= this.moods.capacity) break;
      bytes -= body.byteLength;
      entries.delete(oldest);
    }
  }

  #purge(entrypoint, { tags = [], pathPrefixes = [], purgeEverything = false }) {
    const now = Date.now();
    const refilled = this.#tokens.left + ((now - this.#tokens.at) / 60_000) * PER_MINUTE;
    this.#tokens = { left: Math.min(BUCKET, refilled), at: now };
    const isTooMuch = tags.length + pathPrefixes.length > OPERATIONS;
    if (this.#tokens.left < 1 || isTooMuch || this.moods.purge === "refused") {
      this.#count(entrypoint, "refused");
      return { success: false, errors: [{ code: 10000, message: "purge refused" }] };
    }
    this.#tokens.left--;
    this.#count(entrypoint, "purge");
    if (this.moods.purge !== "lost") {
      const due = now + (this.moods.purge === "late" ? this.moods.delay * 1000 : 0);
      this.#purges.push({ due, entrypoint, tags: tags.map((tag) => tag.toLowerCase()), pathPrefixes, purgeEverything });
      this.#settle();
    }
    return { success: true, errors: [] };
  }

  // Carries out the purges that are due. They do not reach fills under way.
  #settle() {
    const due = this.#purges.filter((purge) => purge.due <= Date.now());
    this.#purges = this.#purges.filter((purge) => !due.includes(purge));
    for (const { entrypoint, tags, pathPrefixes, purgeEverything } of due) {
      for (const entries of this.#tiers.values()) {
        for (const [key, entry] of entries) {
          const isMeant =
            purgeEverything ||
            entry.tags.some((tag) => tags.includes(tag)) ||
            pathPrefixes.some((prefix) => entry.path.startsWith(prefix));
          if (entry.entrypoint === entrypoint && isMeant) entries.delete(key);
        }
      }
    }
  }

  // Ends the fills that `hold` holds back: now they are stored.
  release() {
    for (const put of this.#held.splice(0)) put();
  }

  // The paths in a data centre's cache, or in the upper tier.
  paths(tier) {
    this.#settle();
    return [...this.#tier(tier).values()].map((entry) => `${entry.entrypoint} ${entry.path}`);
  }

  // Forgets everything, as an eviction may.
  clear() {
    this.#tiers.clear();
  }
}
