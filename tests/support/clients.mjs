// Runs real clients. A missing one skips its tests; in CI it fails them.
import { execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { freePort } from "./registry.mjs";

const execute = promisify(execFile);

export async function run(command, args, options = {}) {
  try {
    const { stdout } = await execute(command, args, { maxBuffer: 1 << 26, timeout: 120_000, ...options });
    return stdout;
  } catch (error) {
    const output = `${error.stdout}\n${error.stderr}`;
    throw new Error(`${command} ${args.join(" ")}: ${error.message}\n${output}`, { cause: error });
  }
}

export function find(name) {
  const folders = ["/usr/bin", "/usr/sbin", ...process.env.PATH.split(":")];
  return folders.map((folder) => `${folder}/${name}`).find((file) => existsSync(file));
}

// Options for a test that needs these programs.
export function needs(...names) {
  const missing = names.filter((name) => !find(name));
  if (missing.length === 0) return {};
  if (process.env.CI) throw new Error(`missing in CI: ${missing.join(", ")}`);
  return { skip: `not installed: ${missing.join(", ")}` };
}

// A function that runs podman or buildah with an image store of its own in this folder, until the test ends.
export async function containersTool(t, tool, folder) {
  // Not in the folder: podman refuses a path of more than 50 characters.
  const state = await mkdtemp("/tmp/run-");
  t.after(() => rm(state, { recursive: true, force: true }));
  const global = ["--root", folder, "--runroot", state, "--storage-driver", "vfs"];
  return (...args) => run(tool, [...global, ...args], { cwd: path.dirname(folder) });
}

// Starts a daemon and waits until it is ready. Returns a function that stops its process group.
export async function daemon(command, args, isReady, options = {}) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], detached: true, ...options });
  let log = "";
  for (const output of [child.stdout, child.stderr]) output.on("data", (data) => (log = (log + data).slice(-20_000)));
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    process.kill(-child.pid, "SIGTERM");
    const late = setTimeout(() => process.kill(-child.pid, "SIGKILL"), 10_000);
    await ended;
    clearTimeout(late);
  };
  const deadline = Date.now() + 60_000;
  while (Date.now() < deadline && child.exitCode === null) {
    if (await isReady().catch(() => false)) return stop;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  await stop();
  throw new Error(`${command} did not start:\n${log}`);
}

// Starts a docker daemon with its storage in this folder, which has the image of a layout as base:v1.
export async function startDocker(folder, layout) {
  // Not in the folder: the path of a socket has 107 characters at most.
  const state = await mkdtemp("/tmp/run-");
  const socket = `unix://${state}/docker.sock`;
  const options = ["--storage-driver=vfs", "--bridge=none", "--iptables=false", "-H", socket];
  options.push("--data-root", path.join(folder, "docker"), "--exec-root", path.join(state, "exec"));
  options.push("--pidfile", path.join(state, "docker.pid"));
  const env = { ...process.env, DOCKER_CONFIG: "" };
  const docker = (...args) => run(find("docker"), ["-H", socket, ...args], { env });
  const stopDaemon = await daemon(find("dockerd"), options, () => docker("version"));
  const stop = async () => {
    await stopDaemon();
    await rm(state, { recursive: true, force: true });
  };
  try {
    const archive = path.join(folder, "docker.tar");
    await run("skopeo", ["--insecure-policy", "copy", `oci:${layout}:latest`, `docker-archive:${archive}:base:v1`]);
    await docker("load", "-i", archive);
  } catch (error) {
    await stop();
    throw error;
  }
  return { socket, docker, stop };
}

// Starts containerd with its storage in this folder.
export async function startContainerd(folder) {
  const state = await mkdtemp("/tmp/run-");
  await mkdir(folder, { recursive: true });
  const config = path.join(folder, "config.toml");
  const address = path.join(state, "containerd.sock");
  const lines = ["version = 2", `root = "${folder}/root"`, `state = "${state}/state"`];
  lines.push(`disabled_plugins = ["io.containerd.grpc.v1.cri"]`, "[grpc]", `  address = "${address}"`);
  await writeFile(config, `${lines.join("\n")}\n`);
  const ctr = (...args) => run("ctr", ["-a", address, ...args]);
  const stopDaemon = await daemon("containerd", ["-c", config], () => ctr("version"));
  const stop = async () => {
    await stopDaemon();
    await rm(state, { recursive: true, force: true });
  };
  // Gives the image of a layout this name.
  const load = async (layout, image) => {
    const archive = path.join(folder, "image.tar");
    await run("tar", ["-C", layout, "-cf", archive, "."]);
    const names = ["images", "import", "--index-name", image];
    await ctr(...names, "--no-unpack", archive).catch(() => ctr(...names, archive));
  };
  return { ctr, load, stop };
}

// Starts docker-registry, with its storage in this folder.
export async function dockerRegistry(folder) {
  const port = await freePort();
  const config = path.join(folder, "registry.yml");
  await writeFile(
    config,
    `version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: ${folder}/registry\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:${port}\n`,
  );
  const stop = await daemon(
    "docker-registry",
    ["serve", config],
    async () => (await fetch(`http://127.0.0.1:${port}/v2/`)).ok,
  );
  return { host: `localhost:${port}`, url: `http://127.0.0.1:${port}`, stop, files: path.join(folder, "registry") };
}
