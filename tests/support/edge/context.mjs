// The context of an invocation. `wrappers` add to it: Workers Caching, for one.
import { wrap } from "./members.mjs";

// Each takes the members so far, the real context and the invocation's class, and returns further members.
export const wrappers = [];

export function wrapContext(context) {
  const members = {
    waitUntil: (promise) => context.waitUntil(promise),
  };
  for (const wrapper of wrappers) Object.assign(members, wrapper(members, context));
  return wrap("ExecutionContext", context, members, ["passThroughOnException", "exports", "props", "cache", "tracing"]);
}
