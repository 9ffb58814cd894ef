// The bindings, each wrapped by what it is. One that the edge does not know fails when it is used.
import { counters } from "./log.mjs";
import { wrapKv } from "./kv.mjs";
import { wrapNamespace } from "./objects.mjs";
import { wrapQueue } from "./queue.mjs";
import { wrapBucket } from "./r2.mjs";

const WRAPPERS = {
  R2Bucket: wrapBucket,
  DurableObjectNamespace: wrapNamespace,
  KvNamespace: wrapKv,
  WorkerQueue: wrapQueue,
  // It counts in memory, near the worker, as in production.
  Ratelimit: (limiter) => limiter,
};

// The edge's own variable: the state of the process before a restart.
export const STATE = "EDGE_STATE";

export function wrapEnv(env) {
  const wrapped = new Map();
  return new Proxy(env, {
    ownKeys: (env) => Reflect.ownKeys(env).filter((name) => name !== STATE),
    has: (env, name) => name !== STATE && name in env,
    get(env, name) {
      if (name === STATE) return undefined;
      const value = env[name];
      if (value === null || typeof value !== "object") return value;
      if (!wrapped.has(name)) {
        const type = value.constructor?.name;
        if (!WRAPPERS[type]) {
          counters.unknown.push(`env.${name}: ${type}`);
          throw new Error(`edge: the binding ${name} of type ${type} is unknown to the strict edge`);
        }
        wrapped.set(name, WRAPPERS[type](value, name));
      }
      return wrapped.get(name);
    },
  });
}
