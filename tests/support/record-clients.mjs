// Records what real clients send to the registry, one file for each client and version:
//
//   node tests/support/record-clients.mjs [--root FOLDER] [--check] [name...]
//
// writes tests/registry/golden/clients/<name>-<version>.json, for all clients that are installed or for those named.
// With `--root`, clients run in that folder as their root, which tests/support/clients-root.sh fills: newer ones than
// this system has. With `--check`, files are compared and not written. The worker must be built. docs/clients.md says what
// is in a file; tests/registry/clients.rs replays them.
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { createHash } from "node:crypto";
import { needsOf } from "./client-needs.mjs";
import { daemon, run } from "./clients.mjs";
import { writeLayout } from "./images.mjs";
import { describe, recorder, written } from "./recording.mjs";
import { Registry, root } from "./registry.mjs";

const USER = "admin";
const PASSWORD = "correct-horse";

// The same bytes in each run, which do not compress.
function seeded(seed) {
  let n = 0;
  return (size) => {
    const blocks = [];
    for (let length = 0; length < size; length += 32) {
      blocks.push(createHash("sha256").update(`${seed} ${n++}`).digest());
    }
    return Buffer.concat(blocks).subarray(0, size);
  };
}

// Where clients run: a folder of their own, in this system or in another root.
class Machine {
  constructor(outer, folder) {
    [this.outer, this.folder] = [outer, folder];
    this.env = {
      PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
      HOME: folder,
      DOCKER_CONFIG: `${folder}/.docker`,
      TMPDIR: folder,
    };
    Object.assign(this.env, { XDG_CONFIG_HOME: `${folder}/.config`, REGISTRY_AUTH_FILE: `${folder}/auth.json` });
    Object.assign(this.env, {
      CONTAINERS_CONF: `${folder}/.config/containers/containers.conf`,
      COSIGN_PASSWORD: "",
      LC_ALL: "C",
      XDG_RUNTIME_DIR: folder,
    });
  }

  // A path in the folder, as the clients see it, and as this script does.
  at = (...names) => path.join(this.folder, ...names);
  seen = (...names) => path.join(this.outer, this.folder, ...names);

  has = (name) => ["bin", "sbin"].some((folder) => existsSync(path.join(this.outer, "usr", folder, name)));

  command(name, args) {
    const env = Object.entries(this.env).map(([key, value]) => `${key}=${value}`);
    const plain = ["-i", "-C", this.folder, ...env, name, ...args];
    return this.outer === "/" ? ["env", plain] : ["chroot", [this.outer, "/usr/bin/env", ...plain]];
  }

  run = (name, ...args) => run(...this.command(name, args), { timeout: 60_000 });

  write = async (name, text) => {
    await mkdir(path.dirname(this.seen(name)), { recursive: true });
    await writeFile(this.seen(name), typeof text === "string" ? text : JSON.stringify(text));
  };

  // Starts a daemon; it ends with the recording.
  async start(name, args, isReady) {
    this.stops.push(await daemon(...this.command(name, args), isReady));
  }
  stops = [];

  // Removes the folder, and before that what daemons have left mounted below it.
  async remove() {
    const mounts = (await readFile("/proc/self/mounts", "utf8")).split("\n").map((line) => line.split(" ")[1]);
    for (const at of mounts.filter((at) => at?.startsWith(`${this.seen()}/`)).toReversed())
      await run("umount", ["-l", at]);
    await rm(this.seen(), { recursive: true, force: true });
  }
}

const versionIn = (text) => text.match(/(\d+)\.(\d+)\.\d+/)?.[0];
const version =
  (name, ...args) =>
  async (machine) =>
    versionIn(await machine.run(name, ...args));

// The fresh image that a client pushes, in a layout, and an index of two.
const layouts = ["layout", "many"];

async function dockerDaemon(machine, host, features) {
  const socket = `unix://${machine.at("docker.sock")}`;
  const config = machine.at("daemon.json");
  await machine.write("daemon.json", {
    ...(features && { features }),
    "max-concurrent-uploads": 1,
    "max-concurrent-downloads": 1,
  });
  const options = ["--config-file", config, "--bridge=none", "--iptables=false", "-H", socket];
  options.push(features ? "--storage-driver=native" : "--storage-driver=vfs", "--pidfile", machine.at("docker.pid"));
  options.push("--data-root", machine.at("docker"), "--exec-root", machine.at("exec"));
  const docker = (...args) => machine.run("/usr/bin/docker", "-H", socket, ...args);
  await machine.start("dockerd", options, () => docker("version"));
  const archive = machine.seen("docker.tar");
  const layout = machine.seen("layout");
  await run("skopeo", ["--insecure-policy", "copy", `oci:${layout}:latest`, `docker-archive:${archive}:base:v1`]);
  await docker("load", "-i", machine.at("docker.tar"));
  return docker;
}

// Each `operations` calls `op(name, work)` for what it records.
async function docker(op, machine, host, features) {
  const docker = await dockerDaemon(machine, host, features);
  const image = `${host}/clients/docker`;
  const digest = async () => (await docker("image", "inspect", "-f", "{{index .RepoDigests 0}}", `${image}:v1`)).trim();
  await op("log in", () => docker("login", "-u", USER, "-p", PASSWORD, host));
  await docker("tag", "base:v1", `${image}:v1`);
  await op("push an image of two layers", () => docker("push", `${image}:v1`));
  await op("push it again", () => docker("push", `${image}:v1`));
  await docker("tag", "base:v1", `${host}/clients/other:v1`);
  await op("push it to another repository", () => docker("push", `${host}/clients/other:v1`));
  const reference = await digest();
  const forget = () => docker("rmi", "-f", "base:v1", `${image}:v1`, `${host}/clients/other:v1`).catch(() => {});
  await forget();
  await op("pull by tag", () => docker("pull", `${image}:v1`));
  await op("pull by tag again", () => docker("pull", `${image}:v1`));
  await forget();
  await docker("image", "prune", "-af");
  await op("pull by digest", () => docker("pull", `${image}@${reference.split("@")[1]}`));
  await op("pull what is not there", () => docker("pull", `${image}:none`).catch(() => {}));
  await op("inspect a manifest", () => docker("manifest", "inspect", "--insecure", `${image}:v1`));
}

const containersTools = (tool) => async (op, machine, host) => {
  const global = ["--root", machine.at("s"), "--runroot", machine.at("r"), "--storage-driver", "vfs"];
  const at = (...args) => machine.run(tool, ...global, ...args);
  await machine.write(".config/containers/policy.json", { default: [{ type: "insecureAcceptAnything" }] });
  const image = `${host}/clients/${tool}`;
  const plain = "--tls-verify=false";
  await op("log in", () => at("login", plain, "-u", USER, "-p", PASSWORD, host));
  const id = (await at("pull", "-q", "oci:layout:latest")).trim();
  const digests = machine.at("digest");
  await op("push an image of two layers", () => at("push", plain, "--digestfile", digests, id, `${image}:v1`));
  await op("push it again", () => at("push", plain, id, `${image}:v1`));
  await op("push it to another repository", () => at("push", plain, id, `${host}/clients/other:v1`));
  await op("push it in Docker's format", () => at("push", plain, "--format", "v2s2", id, `${image}:docker`));
  const digest = (await readFile(machine.seen("digest"), "utf8")).trim();
  await at("rmi", "-f", id);
  await op("pull by tag", () => at("pull", "-q", plain, `${image}:v1`));
  await op("pull by tag again", () => at("pull", "-q", plain, `${image}:v1`));
  await at("rmi", "-f", id);
  await op("pull by digest", () => at("pull", "-q", plain, `${image}@${digest}`));
  await op("pull what is not there", () => at("pull", "-q", plain, `${image}:none`).catch(() => {}));
  if (tool === "buildah") return;
  await op("list the tags", () => at("search", plain, "--list-tags", image));
  await op("search", () => at("search", plain, `${host}/clients`));
};

async function containerd(op, machine, host) {
  const address = machine.at("c.sock");
  const lines = ["version = 2", `root = "${machine.at("root")}"`, `state = "${machine.at("state")}"`];
  lines.push(`disabled_plugins = ["io.containerd.grpc.v1.cri"]`, "[grpc]", `  address = "${address}"`);
  await machine.write("config.toml", `${lines.join("\n")}\n`);
  const ctr = (...args) => machine.run("ctr", "-a", address, ...args);
  await machine.start("containerd", ["-c", machine.at("config.toml")], () => ctr("version"));
  const is1 = (await machine.run("containerd", "--version")).includes(" 1.");
  const image = `${host}/clients/containerd`;
  const plain = ["--plain-http", "--user", `${USER}:${PASSWORD}`];
  for (const [layout, name] of [
    ["layout", `${image}:v1`],
    ["many", `${image}:many`],
  ]) {
    await run("tar", ["-C", machine.seen(layout), "-cf", machine.seen("image.tar"), "."]);
    await ctr("images", "import", "--no-unpack", "--all-platforms", "--index-name", name, machine.at("image.tar"));
  }
  const digest = async (name) => (await ctr("images", "ls", `name==${name}`)).match(/sha256:[0-9a-f]{64}/)[0];
  const one = await digest(`${image}:v1`);
  await ctr("images", "tag", `${image}:v1`, `${host}/clients/other:v1`);
  // From 2.0 on, the daemon pushes.
  const inTurn = is1 ? ["--max-concurrent-uploaded-layers", "1"] : [];
  const push = (...args) => ctr("images", "push", ...plain, ...inTurn, ...args);
  await op("push an image of two layers", () => push(`${image}:v1`));
  await op("push it again", () => push(`${image}:v1`));
  await op("push it to another repository", () => push(`${host}/clients/other:v1`));
  await op("push an index of two images", () => push(`${image}:many`));
  const forget = async () => {
    const names = [`${image}:v1`, `${image}:many`, `${host}/clients/other:v1`, `${image}@${one}`];
    await ctr("images", "rm", "--sync", ...names).catch(() => {});
  };
  const fetch = (...args) => ctr("content", "fetch", ...plain, ...args);
  await forget();
  await op("fetch by tag", () => fetch(`${image}:v1`));
  // What was fetched is known to be in the other repository.
  await ctr("images", "tag", `${image}:v1`, `${host}/clients/third:v1`);
  await op("push what was fetched to another repository", () => push(`${host}/clients/third:v1`));
  await ctr("images", "rm", "--sync", `${host}/clients/third:v1`);
  await forget();
  await op("fetch by digest", () => fetch(`${image}@${one}`));
  await forget();
  await op("fetch an index of two images", () => fetch("--all-platforms", `${image}:many`));
  await op("fetch what is not there", () => fetch(`${image}:none`).catch(() => {}));
  const url = `http://${host}`;
  await machine.write(
    "hosts/docker.io/hosts.toml",
    `server = "${url}"\n[host."${url}"]\ncapabilities = ["pull", "resolve"]\n`,
  );
  const mirrored = [
    "--hosts-dir",
    machine.at("hosts"),
    "--user",
    `${USER}:${PASSWORD}`,
    "docker.io/library/none:latest",
  ];
  await op("fetch through a mirror that does not have it", () => ctr("content", "fetch", ...mirrored).catch(() => {}));
}

async function buildx(op, machine, host) {
  const docker = await dockerDaemon(machine, host, { "containerd-snapshotter": true });
  await machine.write("context/Dockerfile", "FROM scratch AS one\nCOPY a /\nFROM one\nCOPY b /\n");
  for (const name of ["a", "b"]) await machine.write(`context/${name}`, name);
  await op("log in", () => docker("login", "-u", USER, "-p", PASSWORD, host));
  const cache = `type=registry,ref=${host}/clients/cache:main`;
  const build = (...args) => docker("buildx", "build", "--progress=plain", ...args, machine.at("context"));
  const tag = `${host}/clients/buildx:v1`;
  await op("build, and export the cache", () => build("--cache-to", `${cache},mode=max`, "-t", tag, "--push"));
  await docker("builder", "prune", "-af");
  await op("build from the cache", () => build("--cache-from", cache, "-t", tag, "--push"));
  await op("build from a cache that is not there", () =>
    build("--no-cache", "--cache-from", `type=registry,ref=${host}/clients/cache:none`),
  );
  const tools = (...args) => docker("buildx", "imagetools", ...args);
  await op("inspect an image", () => tools("inspect", tag));
  await op("make an index of it", () => tools("create", "-t", `${host}/clients/buildx:v2`, tag));
}

async function skopeo(op, machine, host) {
  const at = (...args) => machine.run("skopeo", "--insecure-policy", ...args);
  const [from, to] = ["--src-tls-verify=false", "--dest-tls-verify=false"];
  const image = `docker://${host}/clients/skopeo`;
  await op("log in", () => at("login", "--tls-verify=false", "-u", USER, "-p", PASSWORD, host));
  const layout = `oci:${machine.at("layout")}:latest`;
  const inTurn = (await at("copy", "--help")).includes("--image-parallel-copies") ? ["--image-parallel-copies=1"] : [];
  const copy = (...args) => at("copy", ...inTurn, ...args);
  await op("copy an image of two layers", () => copy(to, layout, `${image}:v1`));
  await op("copy it again", () => copy(to, layout, `${image}:v1`));
  await op("copy it to another repository", () => copy(from, to, `${image}:v1`, `docker://${host}/clients/other:v1`));
  await op("copy an index of two images", () => copy("--all", to, `oci:${machine.at("many")}:latest`, `${image}:many`));
  await op("copy it in Docker's format", () => copy(from, to, "--format=v2s2", `${image}:v1`, `${image}:docker`));
  await op("inspect", () => at("inspect", "--tls-verify=false", `${image}:v1`));
  const digest = JSON.parse(await at("inspect", "--tls-verify=false", `${image}:v1`)).Digest;
  await op("copy from a tag", () => copy(from, `${image}:v1`, `oci:${machine.at("back")}:latest`));
  await op("copy from a digest", () => copy(from, `${image}@${digest}`, `oci:${machine.at("back2")}:latest`));
  await op("list the tags", () => at("list-tags", "--tls-verify=false", image));
  await op("delete an image", () => at("delete", "--tls-verify=false", `${image}:v1`));
}

const auths = (host) => ({ auths: { [host]: { auth: Buffer.from(`${USER}:${PASSWORD}`).toString("base64") } } });

async function crane(op, machine, host) {
  const at = (...args) => machine.run("crane", ...args);
  const image = `${host}/clients/crane`;
  await machine.write(".docker/config.json", auths(host));
  await op("push an image of two layers", () => at("push", machine.at("layout"), `${image}:v1`));
  await op("push it again", () => at("push", machine.at("layout"), `${image}:v1`));
  await op("push an index of two images", () => at("push", "--index", machine.at("many"), `${image}:many`));
  await op("copy to another repository", () => at("copy", "-j", "1", `${image}:v1`, `${host}/clients/other:v1`));
  await op("append a layer", () =>
    at("append", "-b", `${image}:v1`, "-f", machine.at("layer.tar"), "-t", `${image}:v2`),
  );
  const digest = (await at("digest", `${image}:v1`)).trim();
  await op("look at a digest", () => at("digest", `${image}:v1`));
  await op("print a manifest", () => at("manifest", `${image}:many`));
  await op("print a config", () => at("config", `${image}:v1`));
  await op("pull by tag", () => at("pull", "--format=oci", `${image}:v1`, machine.at("back")));
  await op("pull by digest", () => at("pull", "--format=oci", `${image}@${digest}`, machine.at("back2")));
  await op("tag", () => at("tag", `${image}:v1`, "v3"));
  await op("list the tags", () => at("ls", image));
  await op("list the repositories", () => at("catalog", host));
  await op("validate an image", () => at("validate", "--remote", `${image}:v1`));
  await op("print what is not there", () => at("manifest", `${image}:none`).catch(() => {}));
  await op("delete a tag", () => at("delete", `${image}:v3`));
  await op("delete an image", () => at("delete", `${image}@${digest}`));
}

async function oras(op, machine, host) {
  const at = (name, ...args) => machine.run("oras", ...name.split(" "), "--plain-http", ...args);
  const image = `${host}/clients/oras`;
  await machine.write("a.txt", "a".repeat(1000));
  await machine.write("b.txt", "b".repeat(3000));
  await machine.write("sbom.json", '{"an": "sbom"}');
  await op("log in", () => at("login", "-u", USER, "-p", PASSWORD, host));
  const created = ["--annotation", "org.opencontainers.image.created=2000-01-01T00:00:00Z"];
  const push = (tag) =>
    at(
      "push",
      ...created,
      "--concurrency",
      "1",
      "--artifact-type",
      "application/vnd.example",
      `${image}:${tag}`,
      "a.txt",
      "b.txt",
    );
  await op("push two files", () => push("v1"));
  await op("push them again", () => push("v1"));
  await op("copy an index of two images", () =>
    machine.run(
      "oras",
      "cp",
      "--concurrency",
      "1",
      "--from-oci-layout",
      "--to-plain-http",
      `${machine.at("many")}:latest`,
      `${image}:many`,
    ),
  );
  await op("copy to another repository", () =>
    machine.run(
      "oras",
      "cp",
      "--concurrency",
      "1",
      "--from-plain-http",
      "--to-plain-http",
      `${image}:v1`,
      `${host}/clients/other:v1`,
    ),
  );
  await op("attach a file", () =>
    at("attach", ...created, "--artifact-type", "application/vnd.example.sbom", `${image}:v1`, "sbom.json"),
  );
  const old = ["--distribution-spec", "v1.1-referrers-tag"];
  await op("attach a file, with a tag for the referrers", () =>
    at("attach", ...old, ...created, "--artifact-type", "application/vnd.example.old", `${image}:v1`, "sbom.json"),
  );
  await op("discover", () => at("discover", `${image}:v1`));
  await op("discover one type", () => at("discover", "--artifact-type", "application/vnd.example.sbom", `${image}:v1`));
  await op("discover, with a tag for the referrers", () => at("discover", ...old, `${image}:v1`));
  await op("pull", () => at("pull", "--concurrency", "1", "-o", machine.at("out"), `${image}:v1`));
  await op("resolve", () => at("resolve", `${image}:v1`));
  await op("fetch a manifest", () => at("manifest fetch", `${image}:v1`));
  await op("fetch what is not there", () => at("manifest fetch", `${image}:none`).catch(() => {}));
  await op("push and fetch a blob", async () => {
    await machine.write("c.txt", "c".repeat(2000));
    const digest = `sha256:${createHash("sha256").update("c".repeat(2000)).digest("hex")}`;
    await at("blob push", image, "c.txt");
    await at("blob fetch", "-o", machine.at("c.out"), `${image}@${digest}`);
    await at("blob delete", "--force", `${image}@${digest}`);
  });
  await op("tag", () => at("tag", `${image}:v1`, "v2"));
  await op("list the tags", () => at("repo tags", image));
  await op("list the repositories", () => at("repo ls", host));
  await op("delete a manifest", () => at("manifest delete", "--force", `${image}:v1`));
}

// Pushes an image for others to sign. Returns its digest.
async function pushed(op, machine, image) {
  const [from, to] = [`oci:${machine.seen("layout")}:latest`, `docker://${image}`];
  const copy = ["--insecure-policy", "copy", "--dest-tls-verify=false", `--dest-creds=${USER}:${PASSWORD}`, from, to];
  await op("skopeo pushes an image", () => run("skopeo", copy), "containers-image");
  return JSON.parse(await readFile(machine.seen("layout/index.json"), "utf8")).manifests[0].digest;
}

async function cosign(op, machine, host) {
  const at = (...args) => machine.run("cosign", ...args);
  const is3 = (await cosignVersion(machine)).startsWith("3");
  const image = `${host}/clients/cosign`;
  await machine.write(".docker/config.json", auths(host));
  const digest = await pushed(op, machine, `${image}:v1`);
  await at("generate-key-pair");
  await machine.write("predicate.json", { a: "predicate" });
  await machine.write("sbom.json", { spdxVersion: "SPDX-2.3" });
  const subject = `${image}@${digest}`;
  const key = ["--key", machine.at("cosign.key"), "-y"];
  if (!is3) key.push("--tlog-upload=false");
  const verify = ["--key", machine.at("cosign.pub"), "--insecure-ignore-tlog=true"];
  if (is3) {
    // Without the public logs and roots.
    const [config, trusted] = [machine.at("signing.json"), machine.at("trusted.json")];
    await at("signing-config", "create", "--out", config);
    await at("trusted-root", "create", "--out", trusted);
    key.push("--signing-config", config);
    verify.push("--trusted-root", trusted);
  }
  await op("sign", () => at("sign", ...key, subject));
  await op("sign again", () => at("sign", ...key, "-a", "n=2", subject));
  await op("verify", () => at("verify", ...verify, subject));
  await op("attest", () => at("attest", ...key, "--predicate", "predicate.json", "--type", "custom", subject));
  await op("verify an attestation", () => at("verify-attestation", ...verify, "--type", "custom", subject));
  await op("show the tree", () => at("tree", subject));
  if (!is3) {
    await op("save and load", async () => {
      await at("save", "--dir", machine.at("saved"), subject);
      await at("load", "--dir", machine.at("saved"), `${host}/clients/other:v1`);
    });
    await op("attach an SBOM", () => at("attach", "sbom", "--sbom", "sbom.json", subject));
    await op("copy an image with its signatures", () => at("copy", subject, `${host}/clients/copy:v1`));
    await op("find the place of the signatures", () => at("triangulate", `${image}:v1`));
  }
  await op("clean", () => at("clean", "--force", `${image}:v1`));
}

// Some packages forget to tell their program its version: clients-root.sh notes it.
const cosignVersion = async (machine) => {
  const packages = await readFile(path.join(machine.outer, "versions"), "utf8").catch(() => "");
  return versionIn(packages.match(/^cosign (\S+)$/m)?.[1] ?? (await machine.run("cosign", "version")));
};

async function notation(op, machine, host) {
  const at = (...args) => machine.run("notation", ...args);
  const image = `${host}/clients/notation`;
  const digest = await pushed(op, machine, `${image}:v1`);
  await at("cert", "generate-test", "--default", "example");
  const plain = ["--insecure-registry", "-u", USER, "-p", PASSWORD];
  await machine.write(".config/notation/trustpolicy.json", {
    version: "1.0",
    trustPolicies: [
      {
        name: "all",
        registryScopes: ["*"],
        signatureVerification: { level: "strict" },
        trustStores: ["ca:example"],
        trustedIdentities: ["*"],
      },
    ],
  });
  const subject = `${image}@${digest}`;
  await op("sign", () => at("sign", ...plain, "--force-referrers-tag=false", subject));
  await op("sign a tag, as COSE", () =>
    at("sign", ...plain, "--force-referrers-tag=false", "--signature-format", "cose", `${image}:v1`),
  );
  await op("sign, with a tag for the referrers", () => at("sign", ...plain, subject));
  await op("list the signatures", () => at("list", ...plain, subject));
  await op("inspect the signatures", () => at("inspect", ...plain, subject));
  await op("verify", () => at("verify", ...plain, subject));
}

// The library says what a client needs of an answer: see client-needs.mjs.
const CLIENTS = {
  skopeo: { library: "containers-image", version: version("skopeo", "--version"), operations: skopeo },
  podman: {
    library: "containers-image",
    version: version("podman", "--version"),
    operations: containersTools("podman"),
  },
  buildah: {
    library: "containers-image",
    version: version("buildah", "--version"),
    operations: containersTools("buildah"),
  },
  docker: {
    library: "distribution",
    hasRandomAccept: true,
    program: "dockerd",
    version: version("dockerd", "--version"),
    operations: docker,
  },
  "docker-containerd": {
    library: "containerd",
    program: "dockerd",
    since: 26,
    version: version("dockerd", "--version"),
    operations: (op, machine, host) => docker(op, machine, host, { "containerd-snapshotter": true }),
  },
  containerd: { library: "containerd", version: version("containerd", "--version"), operations: containerd },
  buildx: {
    library: "containerd",
    program: "docker",
    since: 0.29,
    version: version("docker", "buildx", "version"),
    operations: buildx,
  },
  crane: { library: "ggcr", version: version("crane", "version"), operations: crane },
  oras: { library: "oras", version: version("oras", "version"), operations: oras },
  cosign: { library: "ggcr", version: cosignVersion, operations: cosign },
  notation: { library: "oras", version: version("notation", "version"), operations: notation },
};

async function record(name, outer) {
  const { library, program = name, version, operations, since, hasRandomAccept } = CLIENTS[name];
  // Sockets have short paths.
  const folder = path.join("/", path.relative(outer, await mkdtemp(path.join(outer, "tmp/rc-"))));
  const machine = new Machine(outer, folder);
  if (!machine.has(program)) return machine.remove().then(() => null);
  await machine.write(".config/containers/containers.conf", "[engine]\nimage_parallel_copies = 1\n");
  const found = await version(machine).catch(() => null);
  if (!found || (since && parseFloat(found) < since)) return machine.remove().then(() => null);
  for (const [n, layout] of layouts.entries()) {
    const architectures = n === 0 ? ["amd64"] : ["amd64", "arm64"];
    const sizes = n === 0 ? [1_000, 6_000] : [2_000];
    await writeLayout(machine.seen(layout), sizes, architectures, { bytes: seeded(layout) });
  }
  await run("tar", [
    "--mtime=@0",
    "--owner=0",
    "--group=0",
    "-C",
    machine.seen("layout"),
    "-cf",
    machine.seen("layer.tar"),
    "oci-layout",
  ]);
  const registry = await Registry.start({ vars: { ANONYMOUS: "none", ADMIN_PASSWORD: PASSWORD }, edge: false });
  const proxy = await recorder(registry.port);
  const recorded = [];
  const op = async (name, work, by = library) => {
    await proxy.take();
    await work();
    recorded.push({ name, exchanges: await proxy.take(), needs: needsOf(by) });
  };
  try {
    await operations(op, machine, `localhost:${proxy.port}`);
  } finally {
    for (const stop of machine.stops) await stop();
    await proxy.close();
    await registry.stop();
    await machine.remove();
  }
  const head = { client: name, version: found, source: { recorded: "tests/support/record-clients.mjs" }, library };
  const [major, minor] = found.split(".");
  return {
    file: `${name}-${major}.${minor}.json`,
    text: written({ ...head, ...describe(recorded, proxy.port, hasRandomAccept) }),
  };
}

const { values, positionals } = parseArgs({
  options: { root: { type: "string", default: "/" }, check: { type: "boolean" } },
  allowPositionals: true,
});
const wanted = positionals.length > 0 ? positionals : Object.keys(CLIENTS);
const unknown = wanted.filter((name) => !(name in CLIENTS));
if (unknown.length > 0) throw new Error(`no such client: ${unknown.join(", ")}`);
const output = path.join(root, "tests/registry/golden/clients");
await mkdir(output, { recursive: true });
let failed = 0;
for (const name of wanted) {
  const result = await record(name, values.root).catch((error) => {
    failed++;
    console.error(`${name}: ${error.stack}`);
    return undefined;
  });
  if (result === undefined) continue;
  if (result === null) {
    console.log(`${name}: not installed`);
    continue;
  }
  const file = path.join(output, result.file);
  const before = await readFile(file, "utf8").catch(() => null);
  if (values.check && before !== result.text) failed++;
  if (!values.check) await writeFile(file, result.text);
  console.log(`${result.file}: ${before === result.text ? "the same" : before === null ? "new" : "changed"}`);
}
process.exitCode = failed > 0 ? 1 : 0;
