// Wraps an object of the platform so that only known members can be used: a call that the edge does not know
// would be neither logged nor limited.
import { counters } from "./log.mjs";

// `members` replace those of `target`; the properties named in `passed` are its own.
export function wrap(name, target, members, passed = []) {
  return new Proxy(target, {
    get(target, member) {
      if (Object.hasOwn(members, member)) return members[member];
      const value = Reflect.get(target, member, target);
      if (value === undefined || typeof member === "symbol" || member === "constructor") return value;
      if (passed.includes(member)) return typeof value === "function" ? value.bind(target) : value;
      counters.unknown.push(`${name}.${member}`);
      throw new Error(`edge: ${name}.${member} is unknown to the strict edge`);
    },
  });
}
