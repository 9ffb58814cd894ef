// A made-up issuer of identities for CI jobs, on this machine.
import assert from "node:assert/strict";
import { generateKeyPairSync, sign } from "node:crypto";
import http from "node:http";

const encode = (value) => Buffer.from(value).toString("base64url");

// Signs tokens with a key of each algorithm, and serves their public parts as CI systems do.
export class Issuer {
  keys = {
    RS256: generateKeyPairSync("rsa", { modulusLength: 2048 }),
    ES256: generateKeyPairSync("ec", { namedCurve: "P-256" }),
    EdDSA: generateKeyPairSync("ed25519"),
  };
  claims = {};

  static async start() {
    const issuer = new Issuer();
    issuer.server = http.createServer((request, response) => {
      const url = new URL(request.url, issuer.url);
      const answer = (status, body) => response.writeHead(status).end(JSON.stringify(body));
      if (url.pathname === "/.well-known/openid-configuration") {
        return answer(200, { issuer: issuer.url, jwks_uri: `${issuer.url}/jwks` });
      }
      if (url.pathname === "/jwks") return answer(200, { keys: issuer.publicKeys() });
      // GitHub's, for a job.
      if (url.pathname === "/id-token" && request.headers.authorization === "Bearer of-the-job") {
        assert.equal(url.searchParams.get("api-version"), "2.0");
        return answer(200, { value: issuer.token({ aud: url.searchParams.get("audience") }) });
      }
      return answer(404, {});
    });
    await new Promise((resolve) => issuer.server.listen(0, "127.0.0.1", resolve));
    issuer.url = `http://127.0.0.1:${issuer.server.address().port}`;
    return issuer;
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }

  publicKeys() {
    return Object.entries(this.keys).map(([alg, { publicKey }]) => ({
      ...publicKey.export({ format: "jwk" }),
      kid: `key-${alg}`,
      use: "sig",
      alg,
    }));
  }

  token(changes = {}, alg = "RS256", header = {}) {
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: this.url,
      sub: "repo:org/app",
      iat: now,
      nbf: now,
      exp: now + 300,
      ...this.claims,
      ...changes,
    };
    const input = `${encode(JSON.stringify({ alg, typ: "JWT", kid: `key-${alg}`, ...header }))}.${encode(JSON.stringify(claims))}`;
    const key = { key: this.keys[alg].privateKey, dsaEncoding: "ieee-p1363" };
    return `${input}.${encode(sign(alg === "EdDSA" ? null : "sha256", Buffer.from(input), key))}`;
  }
}
