// Rounds and waiting, computed from the calls of a request. Plain functions: the tests use them too.
//
// A call: { class, kind, key, start, end, began, ended, spans, inner }. `start` and `end` are virtual milliseconds,
// `began` and `ended` numbers that order all events, `spans` what distance took. `inner` holds the calls that an
// object made meanwhile.

// Calls that cross a distance. The Cache API and KV stand in the reader's data centre.
export const FAR = ["r2", "object", "s3"];

// The longest chain of calls of which each began after another had ended. A call to an object counts one, and
// whatever chain the object itself went through meanwhile.
export function rounds(calls, classes = FAR) {
  const done = [];
  let longest = 0;
  for (const call of calls.filter((call) => classes.includes(call.class)).sort((a, b) => a.began - b.began)) {
    const before = Math.max(0, ...done.filter(({ ended }) => ended < call.began).map(({ length }) => length));
    const length = before + 1 + rounds(call.inner ?? [], classes);
    done.push({ ended: call.ended ?? Infinity, length });
    longest = Math.max(longest, length);
  }
  return longest;
}

// The spans during which a request waited: those of its calls that distance took, and of its own timers between two
// attempts. What an object waited for meanwhile is the request's as well. The time that the simulator takes to
// carry out a call is not: it is not production's.
function spans(calls, sleeps = []) {
  return [...sleeps, ...calls.flatMap((call) => [...call.spans, ...spans(call.inner ?? [], call.sleeps)])];
}

// The length of the union of these spans, between `from` and `to`.
export function union(all, from = -Infinity, to = Infinity) {
  let total = 0;
  let until = from;
  for (const [start, end] of [...all].sort((a, b) => a[0] - b[0])) {
    total += Math.max(0, Math.min(end, to) - Math.max(start, until));
    until = Math.max(until, Math.min(end, to));
  }
  return total;
}

// The calls of a request that were made before its answer, and not done by the event `since`.
export const inTime = (request, since = 0) =>
  request.calls.filter((call) => call.began < request.answered && (call.ended ?? Infinity) > since);

// What a request cost: rounds and waiting before its answer.
export function cost(request) {
  const calls = inTime(request);
  return { rounds: rounds(calls), waiting: union(spans(calls, request.sleeps), request.start, request.end), calls };
}
