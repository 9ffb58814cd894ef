// What a client needs of an answer to go on as it was recorded: the statuses that it takes, and the headers that it
// reads. From the source of the client's library; the files are named at each.

// A registry's answer that ends or turns the sequence has exactly one status.
const CHALLENGE = { status: [401], reads: ["www-authenticate"] };

const kindOf = ({ method, target, status }) => {
  const path = target.split("?")[0];
  if (path === "/token") return "token";
  if (path === "/v2/") return "ping";
  if (path === "/v2/_catalog" || path.endsWith("/tags/list")) return "list";
  if (path.includes("/referrers/")) return "referrers";
  if (path.includes("/manifests/")) return `${method} manifest`;
  if (path.endsWith("/blobs/uploads/")) return status === 201 ? "mount" : "POST upload";
  if (path.includes("/blobs/uploads/")) return `${method} upload`;
  return `${method} blob`;
};

const MANIFEST = ["docker-content-digest", "content-type", "content-length"];

// What the specification promises, and all libraries take.
const COMMON = {
  token: { status: [200], reads: [] },
  ping: { status: [200], reads: [] },
  list: { status: [200], reads: ["content-type"] },
  referrers: { status: [200], reads: ["content-type"] },
  mount: { status: [201], reads: ["location"] },
  "GET manifest": { status: [200], reads: ["content-type"] },
  "HEAD manifest": { status: [200], reads: MANIFEST },
  "PUT manifest": { status: [201], reads: [] },
  "DELETE manifest": { status: [202], reads: [] },
  "GET blob": { status: [200], reads: [] },
  "HEAD blob": { status: [200], reads: ["content-length"] },
  "DELETE blob": { status: [202], reads: [] },
  "POST upload": { status: [202], reads: ["location"] },
  "PATCH upload": { status: [202], reads: ["location"] },
  "PUT upload": { status: [201], reads: [] },
  "GET upload": { status: [204], reads: ["location", "range"] },
  "DELETE upload": { status: [204], reads: [] },
};

export const LIBRARIES = {
  // docker/distribution: registry/client/{repository.go,blob_writer.go,errors.go}
  distribution: {
    "GET manifest": { status: [200], reads: ["content-type", "docker-content-digest"] },
    "PUT manifest": { status: [200, 201, 202], reads: ["docker-content-digest"] },
    "PATCH upload": { status: [200, 201, 202, 204], reads: ["location", "range"] },
    "PUT upload": { status: [200, 201, 202, 204], reads: [] },
    "GET blob": { status: [200, 206], reads: ["content-length"] },
    ping: { status: [200], reads: ["docker-distribution-api-version"] },
  },
  // containerd/containerd: core/remotes/docker/{resolver,pusher,fetcher,authorizer}.go; before 2.0 remotes/docker/
  containerd: {
    "POST upload": { status: [200, 202], reads: ["location"] },
    "PUT upload": { status: [200, 201, 202, 204], reads: ["docker-content-digest"] },
    "PUT manifest": { status: [200, 201, 202, 204], reads: ["docker-content-digest"] },
    "GET manifest": { status: [200, 206], reads: ["content-length"] },
    "GET blob": { status: [200, 206], reads: ["content-length"] },
    mount: { status: [201], reads: [] },
  },
  // containers/image: docker/{docker_image_src,docker_image_dest,docker_client}.go
  "containers-image": {
    "HEAD blob": { status: [200], reads: ["content-length"] },
    "PUT manifest": { status: [200, 201, 202, 204], reads: [] },
    "GET manifest": { status: [200], reads: ["content-type"] },
    "DELETE manifest": { status: [202], reads: [] },
    mount: { status: [201], reads: [] },
  },
  // google/go-containerregistry: pkg/v1/remote/{descriptor,fetcher,write,delete,list,catalog,referrers}.go
  ggcr: {
    "PATCH upload": { status: [201, 202, 204], reads: ["location"] },
    "PUT upload": { status: [201], reads: [] },
    "PUT manifest": { status: [200, 201, 202], reads: [] },
    "DELETE manifest": { status: [200, 202], reads: [] },
    "GET manifest": { status: [200], reads: ["content-type", "docker-content-digest"] },
    mount: { status: [201], reads: [] },
  },
  // regclient/regclient: scheme/reg/{blob,manifest,referrer,tag}.go
  regclient: {
    "PATCH upload": { status: [201, 202], reads: ["location", "range"] },
    "PUT upload": { status: [201, 204], reads: [] },
    "DELETE upload": { status: [202, 204], reads: [] },
    mount: { status: [201], reads: [] },
  },
  // oras-project/oras-go: registry/remote/{repository,referrers,utils}.go
  oras: {
    "GET manifest": { status: [200], reads: MANIFEST },
    "GET blob": { status: [200, 206], reads: ["content-length"] },
    "PUT manifest": { status: [201], reads: ["docker-content-digest"] },
    mount: { status: [201], reads: [] },
  },
};

// What a client with this library needs of the answer that it got.
export function needsOf(library) {
  const own = LIBRARIES[library];
  if (!own) throw new Error(`no such library: ${library}`);
  return (exchange) => {
    const { status, method } = exchange;
    if (status === 401) return CHALLENGE;
    if (status >= 400) return { status: [status], reads: [] };
    const kind = kindOf(exchange);
    const needs = own[kind] ?? COMMON[kind];
    if (!needs) throw new Error(`nothing is known of ${kind}: ${method} ${exchange.target}`);
    if (!needs.status.includes(status)) throw new Error(`${library} took ${status}: ${method} ${exchange.target}`);
    const hasSubject = method === "PUT" && "oci-subject" in exchange.answered && library === "oras";
    return hasSubject ? { ...needs, reads: [...needs.reads, "oci-subject"] } : needs;
  };
}
