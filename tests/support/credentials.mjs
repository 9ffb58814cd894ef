// Looks for credentials in what a worker has logged. Every end-to-end test does at its end.

const PATTERNS = [
  /eyJ[\w-]{8,}\.[\w-]+\.[\w-]+/, // tokens
  /phk_\w+_\w{8,}/, // API keys
  /\b(Basic|Bearer) [\w+/=-]{8,}/,
  /\$2[aby]\$\d\d\$/, // hashes of passwords
  /[?&](verify|_state|X-Amz-Signature)=[\w%.-]{8,}/, // URLs that are credentials
];

// Variables that are secret, by their name.
const SECRET = /SECRET|PASSWORD|HTPASSWD|_KEYS?$|_TOKEN$/;

// What the worker itself has logged: wrangler prints all variables at its start, and URLs of requests that its own proxy
// could not deliver.
const WRANGLER = /^.*(\benv\.[A-Z_0-9]+ |Error inside ProxyWorker).*$/gm;
export const worker = (log) => log.replace(WRANGLER, "");

// The first credential in a text, or one of the worker's secret variables; `undefined` if there is none.
export function findCredentials(text, vars = {}) {
  const values = Object.entries(vars).filter(([name, value]) => SECRET.test(name) && value.length >= 12);
  const found = PATTERNS.map((pattern) => text.match(pattern)?.[0]).find(Boolean);
  return found ?? values.find(([, value]) => text.includes(value))?.[0];
}
