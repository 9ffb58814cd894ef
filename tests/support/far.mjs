// Measures the operations of the table in docs/benchmarks.md on the strict edge.
import { Client, TEN_LAYERS, criticalPath, image } from "./pushes.mjs";
import { cost } from "./edge/measure.mjs";

// Runs `work` alone. Returns wall time, waiting on the critical path, rounds of the longest request, and calls.
async function measured(registry, rules, work) {
  await registry.edge(rules);
  const started = performance.now();
  await work();
  const wall = performance.now() - started;
  const { log, counters } = await registry.edgeLog();
  const requests = log.filter(({ kind }) => kind === "request");
  const rounds = Math.max(0, ...requests.map((request) => cost(request).rounds));
  return { wall, waiting: criticalPath(requests), rounds, calls: counters.calls, refused: counters.refused };
}

export async function measure(registry, rules) {
  const client = new Client(registry);
  const run = (work) => measured(registry, rules, work);
  const rows = {};
  // The very first requests compile the worker and make the secret.
  await client.push("warm", "v1", image([100, PART_AND_MORE]), "docker");
  await client.push("warm", "v2", image([100]), "put");

  const docker = image(TEN_LAYERS);
  rows["push in docker's way"] = await run(() => client.push("docker", "v1", docker, "docker"));
  const put = image(TEN_LAYERS);
  rows["push by PUT"] = await run(() => client.push("put", "v1", put, "put"));

  const other = image(TEN_LAYERS.map((size) => Math.min(size, 1000)));
  await client.push("manifest", "warm", other, "put");
  const again = { ...other, manifest: Buffer.from(`${other.manifest} `) };
  rows["PUT of the manifest"] = await run(() => client.at("manifest").manifest("manifest", "v0", again));
  for (let n = 1; n <= 4; n++) await client.manifest("manifest", `v${n}`, again);
  rows["the sixth tag of a manifest"] = await run(() => client.at("manifest").manifest("manifest", "v5", again));

  await client.pull("put", "v1", put);
  // What the first pull stores for later ones is stored in the background.
  await new Promise((resolve) => setTimeout(resolve, 2000));
  rows["pull, warm"] = await run(() => client.pull("put", "v1", put));
  return rows;
}

const PART_AND_MORE = 9_000_000;
