// Administers a registry from the command line: `npm run admin -- help`. See docs/admin.md.
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";

const HELP = `Usage: npm run admin -- <command> [options]

  jobs                 list the jobs
  status <job>         show a job, with its last runs
  run <job>            run a job to its end, step by step
  pause <job>          let no step of a job begin
  resume <job>         let a paused job go on
  cancel <job>         end the run under way
  usage                list what repositories use, as the last collection has counted it
  remove <repository>  remove a repository, with its immutable tags
  takedown <digest>    remove content everywhere, and let nobody push it again
  lift <digest>        let content be pushed again that was taken down

  --reason <text>      takedown: why, for the audit
  --dry-run            run: only report what would be done
  --watch              run: print the report of each step
  --json               print the registry's answer
  --url <url>          the registry; default: PIERHEAD_URL, or http://localhost:8787
  --user <user>        default: PIERHEAD_USER; without either, the login of docker
  --password <secret>  default: PIERHEAD_PASSWORD`;

// A request that may succeed later is repeated so often.
const TRIES = 5;

class Failure extends Error {}

function options() {
  const text = { type: "string" };
  const flag = { type: "boolean", default: false };
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        "dry-run": flag,
        watch: flag,
        json: flag,
        help: { ...flag, short: "h" },
        reason: text,
        url: text,
        user: text,
        password: text,
      },
    });
  } catch (error) {
    throw new Failure(`${error.message}\n\n${HELP}`);
  }
}

// The login that docker keeps for a host, unless a helper keeps it.
function dockerLogin(host) {
  const folder = process.env.DOCKER_CONFIG ?? path.join(homedir(), ".docker");
  try {
    const { auths } = JSON.parse(readFileSync(path.join(folder, "config.json"), "utf8"));
    return (auths[host] ?? auths[`https://${host}`] ?? auths[`http://${host}`])?.auth;
  } catch {
    return undefined;
  }
}

class Registry {
  constructor({ url, user, password }) {
    const address = url ?? process.env.PIERHEAD_URL ?? "http://localhost:8787";
    this.url = URL.canParse(address) ? new URL(address) : null;
    if (!this.url || !/^https?:$/.test(this.url.protocol)) {
      throw new Failure(`${address} is not a URL such as https://registry.example.com`);
    }
    user ??= process.env.PIERHEAD_USER;
    password ??= process.env.PIERHEAD_PASSWORD;
    if (user !== undefined && password === undefined) throw new Failure("set PIERHEAD_PASSWORD, or --password");
    const login =
      user === undefined ? dockerLogin(this.url.host) : Buffer.from(`${user}:${password}`).toString("base64");
    this.headers = login ? { authorization: `Basic ${login}` } : {};
  }

  // Sends a request. What is busy is asked again: every request is idempotent.
  async ask(method, target, body) {
    for (let tries = 1; ; tries++) {
      const answer = await this.#send(method, target, body);
      const text = await answer.text();
      if (answer.ok) return text ? JSON.parse(text) : {};
      const pause = Number(answer.headers.get("retry-after"));
      if (tries < TRIES && [429, 503].includes(answer.status) && pause) {
        await new Promise((resolve) => setTimeout(resolve, pause * 1000));
        continue;
      }
      throw new Failure(`${messageOf(text) ?? "no registry answers here"} (${answer.status})`);
    }
  }

  async #send(method, target, body) {
    const content = body && { headers: { ...this.headers, "content-type": "application/json" }, body };
    try {
      return await fetch(new URL(`/v2/_pierhead/${target}`, this.url), { method, headers: this.headers, ...content });
    } catch (error) {
      throw new Failure(
        `${this.url.origin} cannot be reached: ${error.cause?.message || error.cause?.code || error.message}`,
      );
    }
  }
}

function messageOf(text) {
  try {
    return JSON.parse(text)
      .errors.map(({ message }) => message)
      .join("\n");
  } catch {
    return undefined;
  }
}

function table(header, rows) {
  const lines = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  for (const line of lines) {
    console.log(
      line
        .map((cell, column) => cell.padEnd(widths[column]))
        .join("  ")
        .trimEnd(),
    );
  }
}

// Only printable characters reach the terminal: names come from clients.
const printable = (text) => String(text).replaceAll(/[^\P{C}]/gu, "?");
const time = (text) => (text ? text.replace(/\.\d+Z$/, "Z").replace("T", " ") : "");

// Sums, with those in objects as `object.name`.
function totals(sums, prefix = "") {
  return Object.entries(sums ?? {})
    .map(([name, sum]) =>
      sum && typeof sum === "object" ? totals(sum, `${prefix}${name}.`) : `${printable(prefix + name)} ${sum}`,
    )
    .filter(Boolean)
    .join(", ");
}

function every(seconds) {
  const units = [
    [86_400, "day"],
    [3_600, "hour"],
    [60, "minute"],
    [1, "second"],
  ];
  const [unit, name] = units.find(([unit]) => seconds % unit === 0);
  return seconds === unit ? `every ${name}` : `every ${seconds / unit} ${name}s`;
}

function schedule({ schedule, every_seconds }) {
  if (!every_seconds) return "on request";
  return schedule === "on" ? every(every_seconds) : `${every(every_seconds)} (${schedule})`;
}

function status({ paused, running, run }) {
  const words = [paused && "paused", running && (run.failures.at(-1) ? "running, with failures" : "running")];
  return words.filter(Boolean).join(", ") || "idle";
}

function runRow(run) {
  const ended = run.outcome ?? "under way";
  const by = run.trigger === "schedule" ? "schedule" : printable(run.by);
  return [
    time(run.started),
    ended,
    by,
    run.dry_run ? "yes" : "no",
    String(run.steps),
    String(run.failed),
    totals(run.totals),
  ];
}

const RUN_HEADER = ["STARTED", "STATUS", "BY", "DRY RUN", "STEPS", "FAILED", "TOTALS"];

function printJobs(jobs) {
  const rows = jobs.map((job) => {
    const last = job.run ?? job.ended[0];
    const result = last ? [last.dry_run && "dry run", totals(last.totals)].filter(Boolean).join(": ") : "never run";
    return [job.name, schedule(job), status(job), time(last?.started), result];
  });
  table(["JOB", "SCHEDULE", "STATUS", "LAST RUN", "RESULT"], rows);
}

function printJob(job) {
  console.log(`${job.name}: ${status(job)}, runs ${schedule(job)}`);
  if (job.paused) console.log(`paused by ${printable(job.paused.by)} at ${time(job.paused.at)}`);
  const runs = [job.run, ...job.ended].filter(Boolean);
  if (runs.length > 0) {
    console.log();
    table(RUN_HEADER, runs.map(runRow));
  }
  for (const { at, message } of runs.flatMap((run) => run.failures).slice(0, 20)) {
    console.log(`failed at ${time(at)}: ${printable(message)}`);
  }
}

// Makes steps until the run has ended.
async function run(registry, job, { json, watch, "dry-run": isDry }) {
  const target = `jobs/${encodeURIComponent(job)}/run?dry-run=${isDry}`;
  const show = ({ report }) => watch && report && console.log(JSON.stringify(report));
  let state = await registry.ask("POST", target);
  show(state);
  while (state.running) {
    const { steps, totals: sums } = state.run;
    if (!json) console.error(`${job}: step ${steps}: ${totals(sums)}`);
    state = await registry.ask("POST", target);
    show(state);
  }
  return state;
}

const UNITS = ["B", "kB", "MB", "GB", "TB"];

// As the registry writes sizes: the rest is cut off.
function size(bytes) {
  let unit = 0;
  while (unit < UNITS.length - 1 && bytes >= 1000 ** (unit + 1)) unit++;
  const tenths = Math.floor((bytes / 1000 ** unit) * 10);
  return `${unit === 0 ? bytes : tenths / 10} ${UNITS[unit]}`;
}

// All pages in one answer.
async function usage(registry) {
  const repositories = [];
  for (;;) {
    const last = repositories.at(-1)?.name ?? "";
    const page = await registry.ask("GET", `usage?last=${encodeURIComponent(last)}`);
    if (page.repositories.length === 0) return { repositories };
    repositories.push(...page.repositories);
  }
}

function printUsage(repositories) {
  const rows = repositories.map(({ name, manifests, layers, bytes, unsized_layers, quota, counted }) => [
    printable(name),
    String(manifests),
    String(layers),
    unsized_layers > 0 ? `${size(bytes)}, and ${unsized_layers} layers` : size(bytes),
    quota === null ? "" : size(quota),
    time(counted),
  ]);
  table(["REPOSITORY", "MANIFESTS", "LAYERS", "SIZE", "QUOTA", "COUNTED"], rows);
}

// Asks for steps until a removal is finished.
async function remove(registry, repository, { json }) {
  const target = `repositories/${repository.split("/").map(encodeURIComponent).join("/")}`;
  for (;;) {
    const answer = await registry.ask("DELETE", target);
    if (answer.done) return answer;
    if (!json) console.error(`removing ${answer.removing}: ${totals(answer.removed)}`);
  }
}

function printRemoval({ repository, removed }) {
  console.log(`${printable(repository)} is removed: ${totals(removed)}`);
}

// Asks for steps until a takedown is finished, or waits for pushes that had begun before.
async function takeDown(registry, digest, { json, reason }) {
  const body = reason === undefined ? undefined : JSON.stringify({ reason });
  for (;;) {
    const answer = await registry.ask("POST", `takedown?digest=${encodeURIComponent(digest)}`, body);
    if (answer.done || answer.goes_on) return answer;
    if (!json) console.error(`links removed: ${answer.links_removed}`);
  }
}

function printTakedown({ digest, by, at, reason, goes_on: goesOn, links_removed: links, still_served: places }) {
  console.log(`${digest} is taken down: links removed: ${links}`);
  console.log(`by ${printable(by)} at ${time(at)}: ${printable(reason)}`);
  if (goesOn) console.log(`pushes that had begun before are undone at ${time(goesOn)}, by the job remove`);
  console.log();
  table(
    ["MAY STILL BE SERVED BY", "UNTIL"],
    places.map(({ place, until }) => [place, until ? time(until) : "not known"]),
  );
}

async function main() {
  const { values, positionals } = options();
  const [command, job, ...rest] = positionals;
  if (values.help || command === "help") return console.log(HELP);
  const takesJob = ["status", "run", "pause", "resume", "cancel"].includes(command);
  const takesName = takesJob || ["remove", "takedown", "lift"].includes(command);
  const isAlone = command === "jobs" || command === "usage";
  if ((!takesName && !isAlone) || (takesName ? !job : job) || rest.length > 0) throw new Failure(HELP);
  const registry = new Registry(values);
  const about = takesJob && `jobs/${encodeURIComponent(job)}`;
  let answer;
  if (command === "remove") answer = await remove(registry, job, values);
  else if (command === "takedown") answer = await takeDown(registry, job, values);
  else if (command === "lift") answer = await registry.ask("DELETE", `takedown?digest=${encodeURIComponent(job)}`);
  else if (command === "usage") answer = await usage(registry);
  else if (command === "jobs") answer = await registry.ask("GET", "jobs");
  else if (command === "status") answer = await registry.ask("GET", about);
  else if (command === "run") answer = await run(registry, job, values);
  else answer = await registry.ask("POST", `${about}/${command}`);
  if (values.json) console.log(JSON.stringify(answer, null, 2));
  else if (command === "jobs") printJobs(answer.jobs);
  else if (command === "usage") printUsage(answer.repositories);
  else if (command === "remove") printRemoval(answer);
  else if (command === "takedown") printTakedown(answer);
  else if (command === "lift") console.log(`${job} can be pushed again`);
  else printJob(answer);
}

main().catch((error) => {
  if (!(error instanceof Failure)) throw error;
  console.error(error.message);
  process.exitCode = 1;
});
