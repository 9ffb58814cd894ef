// The floor: what the platform does when a worker does nothing but pass a body on to its bucket.
export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (request.method === "PUT") await env.BUCKET.put(pathname.slice(1), request.body);
    return new Response(null, { status: request.method === "PUT" ? 201 : 200 });
  },
};
