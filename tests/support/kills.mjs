// Kills of the runtime at chosen moments. The strict edge holds a call of a request before or after its effect. When
// every chosen call is held, the runtime is killed, and started again on the same state.
import { randomInt } from "node:crypto";
import { forEach } from "./changes.mjs";
import { random } from "./edge/random.mjs";

// KILLS_SEED repeats a run. KILLS_ROUNDS kills more often than once at each moment of manifests.
export const SEED = Number(process.env.KILLS_SEED ?? randomInt(2 ** 31));

export const ROUNDS = Number(process.env.KILLS_ROUNDS ?? 1);

// The patience with a call that is to be held, in milliseconds.
const PATIENCE = 60_000;

export class Kills {
  // Hits by moment, and what was wrong after them.
  hits = {};
  wrong = [];

  // `name` keeps the repositories apart from those of others.
  constructor(registry, name) {
    this.registry = registry;
    this.name = name;
    this.chance = random(SEED);
    this.rounds = 0;
  }

  pick(from, to) {
    return from + Math.floor(this.chance() * (to - from + 1));
  }

  shuffled(list) {
    const keyed = list.map((item) => [this.chance(), item]);
    return keyed.sort(([a], [b]) => a - b).map(([, item]) => item);
  }

  // Kills the runtime once, at all of these moments: each is that of a request of its own, in a repository of its own.
  //
  //   name     of the moment
  //   call     the call to hold, and `when`: see tests/support/edge/faults.mjs. A `key` may hold NAME, the repository
  //   isAnswered  whether the answer has come by then
  //   isLater  whether the call may follow the answer
  //
  // and the fields of a change: see changes.mjs.
  async at(moments) {
    const { registry } = this;
    const round = ++this.rounds;
    const chosen = moments.map((moment, at) => ({ ...moment, repository: `${this.name}${round}/r${at}` }));
    await forEach(chosen, async (moment) => {
      this.hits[moment.name] ??= 0;
      moment.about = await moment.begin(moment.repository, (from, to) => this.pick(from, to));
    });
    for (const moment of chosen) {
      const { key, ...call } = moment.call;
      // Half of the time, nothing of the repository goes on elsewhere.
      const freezes = this.chance() < 0.5 ? undefined : moment.isOwn ? "" : `/${moment.repository}(/|-$)`;
      const pattern = key && key(moment.about).replaceAll("NAME", moment.repository);
      moment.fault = { ...call, key: pattern, freezes, kind: "hold", name: moment.repository };
    }
    await registry.advance(2);
    await registry.edge({ faults: chosen.filter(({ isOwn }) => !isOwn).map(({ fault }) => fault) });
    for (const moment of chosen) {
      const headers = moment.isOwn ? { "x-edge": JSON.stringify({ faults: [moment.fault] }) } : {};
      const send = (line, options = {}) => {
        const [method, target] = line.split(" ");
        return registry.fetch(target, { method, ...options, headers: { ...options.headers, ...headers } });
      };
      moment.sent = Promise.resolve(moment.send(moment.about, send))
        .then(async (answer) => (await answer.arrayBuffer(), (moment.status = answer.status)))
        .catch(() => {})
        .finally(() => (moment.isOver = true));
    }
    let held = {};
    const mayFollow = ({ isAnswered, isLater }) => isAnswered || isLater;
    const isReached = ({ repository, isOver, isAnswered }) => held[repository] && (isOver || !isAnswered);
    for (const deadline = Date.now() + PATIENCE; Date.now() < deadline;) {
      held = await registry.held();
      if (chosen.every((moment) => isReached(moment) || (moment.isOver && !mayFollow(moment)))) break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await registry.kill();
    await Promise.all(chosen.map(({ sent }) => sent));
    registry.rules = {};
    await registry.run();
    // Alarms that are due have run.
    await registry.advance(60);
    await forEach(chosen, async (moment) => {
      if (!isReached(moment)) return;
      this.hits[moment.name]++;
      try {
        await moment.check(moment.about, moment.status, { isRecovered: true });
      } catch (error) {
        const frozen = moment.fault.freezes === undefined ? "" : ", the rest frozen";
        this.wrong.push(`${moment.name}${frozen}: ${error.message}`);
      }
    });
  }

  // For the log of the test.
  get report() {
    const hits = Object.entries(this.hits).map(([name, hits]) => `${hits} × ${name}`);
    return [`KILLS_SEED=${SEED}, ${this.rounds} kills:`, ...hits].join("\n");
  }

  // The moments that no kill has hit.
  get missed() {
    return Object.keys(this.hits).filter((name) => this.hits[name] === 0);
  }
}
