// A real S3 server that checks signatures: s3s-fs, with its own port and folder.
import { spawn } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import path from "node:path";
import { freePort, temporaryFolder } from "./registry.mjs";

export const BUCKET = "images";
export const KEY = "test-access-key";
export const SECRET = "test-secret-key-that-no-log-may-hold";

export class S3Server {
  static async start() {
    const server = new S3Server();
    server.folder = await temporaryFolder();
    mkdirSync(path.join(server.folder, BUCKET));
    server.port = await freePort();
    // Not the registry's host name: clients must not send their registry password here.
    server.endpoint = `http://127.0.0.1:${server.port}`;
    const options = ["--host", "127.0.0.1", "--port", String(server.port), "--access-key", KEY, "--secret-key", SECRET];
    server.log = "";
    server.process = spawn("s3s-fs", [...options, server.folder], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, RUST_LOG: "s3s=warn,s3s_fs=warn", RUST_BACKTRACE: "0" },
    });
    server.process.unref();
    for (const output of [server.process.stdout, server.process.stderr]) {
      output.on("data", (data) => (server.log += data));
      output.unref?.();
    }
    const deadline = Date.now() + 20_000;
    while (Date.now() < deadline && server.process.exitCode === null) {
      const answer = await fetch(server.endpoint).catch(() => null);
      await answer?.arrayBuffer();
      if (answer) return server;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`s3s-fs did not start:\n${server.log}`);
  }

  // The registry's variables for this server.
  get vars() {
    return {
      S3_ENDPOINT: this.endpoint,
      S3_BUCKET: BUCKET,
      S3_REGION: "us-east-1",
      S3_ACCESS_KEY_ID: KEY,
      S3_SECRET_ACCESS_KEY: SECRET,
    };
  }

  stopNow() {
    this.process.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  }
}
