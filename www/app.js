// Fills in this host's name, and asks the registry how it is, as any client would.
const { host, protocol } = location;

document.querySelector("#address").textContent = host;
for (const place of document.querySelectorAll(".host")) place.textContent = host;
for (const flag of document.querySelectorAll(".plain")) flag.hidden = protocol === "https:";

const status = document.querySelector("#status");
try {
  const answer = await fetch("/v2/", { credentials: "omit" }); // Omitted: the browser must not ask for them.
  if (answer.status === 401) document.querySelector("#login").hidden = false;
  status.textContent = answer.ok ? "is answering" : answer.status === 401 ? "wants a login" : await problem(answer);
} catch {
  status.textContent = "cannot be reached";
}

async function problem(answer) {
  const { errors } = await answer.json();
  return `answers ${answer.status}: ${errors[0].message}`;
}
