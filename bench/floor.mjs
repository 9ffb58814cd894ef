// The floor of the benchmarks: a worker that only passes bodies through, or returns a constant.
export default {
  async fetch(request, env) {
    const { pathname, searchParams } = new URL(request.url);
    const key = pathname.slice(1);
    if (request.method === "PUT") {
      await env.BUCKET.put(key, request.body, { sha256: searchParams.get("sha256") ?? undefined });
      return new Response(null, { status: 201 });
    }
    if (key === "constant" || key === "v2/") return new Response("{}");
    if (key === "head") return new Response(String(await env.BUCKET.head("blob")));
    const object = await env.BUCKET.get(key, { range: request.headers });
    if (!object) return new Response(null, { status: 404 });
    const headers = { "content-type": "application/octet-stream", "cache-control": "no-transform" };
    return new Response(object.body, { status: request.headers.has("range") ? 206 : 200, headers });
  },
};
