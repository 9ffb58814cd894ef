// Fills in the host name and shows the registry's status, as any client would see it.
const { host, protocol } = location;

document.querySelector("#address").textContent = host;
for (const place of document.querySelectorAll(".host")) place.textContent = host;
for (const flag of document.querySelectorAll(".plain")) flag.hidden = protocol === "https:";

const status = document.querySelector("#status");
try {
  const answer = await fetch("/v2/", { credentials: "omit" }); // Without credentials, so that the browser shows no prompt.
  if (answer.status === 401) document.querySelector("#login").hidden = false;
  status.textContent = answer.ok ? "is up" : answer.status === 401 ? "requires a login" : await problem(answer);
} catch {
  status.textContent = "cannot be reached";
}

async function problem(answer) {
  const { errors } = await answer.json();
  return `returned ${answer.status}: ${errors[0].message}`;
}
