// Rounds and waiting, computed from the calls of a request. Plain functions: the tests use them too.
//
// A call: { class, kind, key, start, end, began, ended, spans, inner }. `start` and `end` are virtual milliseconds,
// `began` and `ended` numbers that order all events, `spans` what distance took. `inner` holds the calls that an
// object made meanwhile.

// Calls that cross a distance. The Cache API and KV stand in the reader's data centre.
export const FAR = ["r2", "object", "queue", "s3", "metrics"];

// The calls of an object before its answer.
const within = (call) => (call.inner ?? []).filter(({ isLate }) => !isLate);

const flat = (calls) => calls.flatMap((call) => [call, ...flat(within(call))]);

// The longest chain of calls of which each began after another had ended. The calls of an object are among them, and
// those of an inner entry point.
export function rounds(calls, classes = FAR) {
  const done = [];
  let longest = 0;
  for (const call of flat(calls)
    .filter((call) => classes.includes(call.class))
    .sort((a, b) => a.began - b.began)) {
    const before = Math.max(0, ...done.filter(({ ended }) => ended < call.began).map(({ length }) => length));
    const length = before + 1;
    done.push({ ended: call.ended ?? Infinity, length });
    longest = Math.max(longest, length);
  }
  return longest;
}

// The longest chain by the time that its calls waited: for distance, for the calls that an object made meanwhile, and
// between two attempts. A call that waited for its turn begins with its turn. The time that the simulator takes to carry
// out a call is not counted: it is not production's.
function longestWait(calls, sleeps = []) {
  const done = [];
  let longest = 0;
  const waits = calls.map((call) => ({
    from: call.went ?? call.began,
    to: call.ended ?? Infinity,
    time: call.spans.reduce(
      (sum, [start, end]) => sum + end - start,
      longestWait(within(call), before(call.sleeps, call.ended)),
    ),
  }));
  waits.push(...sleeps.map(([start, end, from, to]) => ({ from, to, time: end - start })));
  for (const { from, to, time } of waits.sort((a, b) => a.from - b.from)) {
    const before = Math.max(0, ...done.filter((other) => other.to < from).map(({ sum }) => sum));
    done.push({ to, sum: before + time });
    longest = Math.max(longest, before + time);
  }
  return longest;
}

// The calls of a request that were made after the event `since` and before its answer.
export const inTime = (request, since = 0) =>
  request.calls.filter((call) => call.began < request.answered && call.began > since);

// The timers that fired before an event: nobody waited for others, which are for work after an answer.
const before = (sleeps = [], event = Infinity) => sleeps.filter(([, , , fired]) => fired < event);

// What a request cost: rounds and waiting before its answer.
export function cost(request) {
  const calls = inTime(request);
  return { rounds: rounds(calls), waiting: longestWait(calls, before(request.sleeps, request.answered)), calls };
}
