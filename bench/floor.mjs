// The floor: what the platform does when a worker does nothing but pass a body on to its bucket.
export default {
  async fetch(request, env) {
    const { pathname, searchParams } = new URL(request.url);
    const sha256 = searchParams.get("sha256") ?? undefined;
    if (request.method === "PUT") await env.BUCKET.put(pathname.slice(1), request.body, { sha256 });
    return new Response(null, { status: request.method === "PUT" ? 201 : 200 });
  },
};
