// Durable Objects: the namespace's binding and its stubs on one side, the object with its storage and alarms on
// the other.
import { DurableObject } from "cloudflare:workers";
import { call } from "./call.mjs";
import { CALL } from "./context.mjs";
import { work } from "./clock.mjs";
import * as alarms from "./alarms.mjs";
import { ERRORS } from "./faults.mjs";
import { close, counters, current, invoke, open, opened } from "./log.mjs";
import { wrap } from "./members.mjs";
import { distance } from "./distances.mjs";

// What the edge itself asks of an object.
const DO = "x-edge-do";

const used = new Set(); // objects that were used by name

const isReset = (error) => String(error?.message).includes("Durable Object reset because");

function wrapStub(kind, namespace, id, stub, name) {
  const key = String(id);
  // "Many exceptions leave the stub in a broken state": each later call fails with the same one.
  // https://developers.cloudflare.com/durable-objects/best-practices/error-handling/
  let broken;
  const reset = () => namespace.get(id).fetch("https://edge/", { headers: { [DO]: "reset" } });
  return wrap(
    "DurableObjectStub",
    stub,
    {
      fetch: async (input, init) => {
        if (broken) throw broken;
        const request = new Request(input, init);
        const command = `${key} ${await request.clone().text()}`;
        const invocation = current();
        invocation.overloaded ??= new Set();
        if (invocation.overloaded.has(command)) counters.overloadedRetries++;
        const isFirst = name !== undefined && !used.has(key);
        if (isFirst) used.add(key);
        const operation = async (entry) => {
          open(entry, invocation.rules);
          try {
            const headers = new Headers(request.headers);
            headers.set(CALL, String(entry.number));
            return await stub.fetch(new Request(request.clone(), { headers }));
          } catch (error) {
            throw isReset(error) ? ERRORS.restart() : error;
          } finally {
            close(entry);
          }
        };
        const fail = async (fault, entry) => {
          if (fault.kind !== "restart") return null;
          if (fault.when === "after") await operation(entry);
          await reset();
          return ERRORS.restart();
        };
        try {
          const more = isFirst ? distance(invocation.rules.profile, "firstByName") : 0;
          return await call({ class: kind, kind: "fetch", key }, { far: "object", more, operation, fail });
        } catch (error) {
          broken = error;
          if (error.overloaded) invocation.overloaded.add(command);
          throw error;
        }
      },
    },
    ["id", "name"],
  );
}

// Calls to the metrics' object are a class of their own: no operation waits for them or counts on them.
export function wrapNamespace(namespace, binding) {
  const kind = binding === "METRICS" ? "metrics" : "object";
  const stubOf = (id, name) => wrapStub(kind, namespace, id, namespace.get(id), name);
  return wrap(
    "DurableObjectNamespace",
    namespace,
    {
      get: (id) => stubOf(id, id.name),
      getByName: (name) => stubOf(namespace.idFromName(name), name),
    },
    ["newUniqueId", "idFromName", "idFromString"],
  );
}

// State of one life of an object: after a restart, the old life can neither read nor write.
function wrapState(state, life, alarm) {
  const alive =
    (use) =>
    (...values) => {
      if (life.isOver) throw ERRORS.restart();
      counters.calls.storage = (counters.calls.storage ?? 0) + 1;
      const done = work();
      const result = use(...values);
      Promise.resolve(result)
        .finally(done)
        .catch(() => {});
      return result;
    };
  const real = state.storage;
  const names = ["get", "put", "delete", "list", "transaction", "transactionSync", "sync"];
  const members = Object.fromEntries(
    names.filter((name) => real[name]).map((name) => [name, alive((...values) => real[name](...values))]),
  );
  const storage = wrap(
    "DurableObjectStorage",
    real,
    {
      ...members,
      setAlarm: alive((time) => alarm.set(Number(time))),
      getAlarm: alive(() => Promise.resolve(alarm.due())),
      deleteAlarm: alive(() => alarm.clear()),
      // Deletes the alarm too, since the compatibility date 2026-02-24:
      // https://developers.cloudflare.com/workers/configuration/compatibility-flags/
      deleteAll: alive(async (...values) => {
        await alarm.clear();
        return real.deleteAll(...values);
      }),
    },
    ["sql", "kv"],
  );
  return wrap("DurableObjectState", state, { storage }, [
    "id",
    "waitUntil",
    "blockConcurrencyWhile",
    "abort",
    "exports",
    "props",
  ]);
}

// The class of objects that hosts `Class`. A restart replaces the inner object, and with it its memory.
export function object(Class, wrapEnv) {
  return class extends DurableObject {
    #life;
    #env;
    #alarm;

    constructor(state, env) {
      super(state, env);
      this.#env = wrapEnv(env);
      this.#alarm = alarms.of(state);
      this.#begin();
    }

    #begin() {
      const life = { isOver: false };
      life.over = new Promise((_, reject) => (life.end = () => ((life.isOver = true), reject(ERRORS.restart()))));
      life.over.catch(() => {});
      life.inner = new Class(wrapState(this.ctx, life, this.#alarm), this.#env);
      this.#life = life;
    }

    async fetch(request) {
      const order = request.headers.get(DO);
      if (order === "reset") {
        this.#life.end();
        this.#begin();
        return new Response();
      }
      if (order === "alarm") {
        await this.#ring();
        return new Response();
      }
      const life = this.#life;
      const parent = opened(request.headers.get(CALL));
      const own = { waitUntil: (promise) => this.ctx.waitUntil(promise) };
      const about = { kind: "object", line: `${this.ctx.id}` };
      return invoke(about, own, () => Promise.race([life.inner.fetch(request), life.over]), parent);
    }

    alarm() {
      return this.#ring();
    }

    async #ring() {
      const own = { waitUntil: (promise) => this.ctx.waitUntil(promise) };
      const about = { kind: "alarm", line: `${this.ctx.id}` };
      await this.#alarm.ring((info) => invoke(about, own, () => this.#life.inner.alarm(info)));
    }
  };
}

export const ring = (namespace, id) =>
  namespace.get(namespace.idFromString(id)).fetch("https://edge/", { headers: { [DO]: "alarm" } });
