// Requests to this server: the key, JSON, errors and event streams.

const BASE = new URL(".", document.baseURI);

/** The key lives as long as the tab: it is in no cookie, and other tabs do not see it. */
export const getKey = () => sessionStorage.getItem("key") ?? "";
export const setKey = key => sessionStorage.setItem("key", key);

export const address = path => new URL(path, BASE).href;

/** What the server answered instead of a success; `param` and `code` are OpenAI's. */
export class ServerError extends Error {
  constructor(status, error) {
    super(error?.message || `The server answered with status ${status}.`);
    Object.assign(this, { status, code: error?.code, param: error?.param });
  }
}

/** The response of a request. Throws ServerError unless it succeeded; a missing key is announced to the page. */
export async function request(method, path, body, options = {}) {
  const headers = { Accept: "application/json, text/event-stream, text/plain", ...options.headers };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
  const sent = { method, headers, signal: options.signal, body: body && JSON.stringify(body) };
  const response = await fetch(address(path), sent);
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401 && !options.isOptional) dispatchEvent(new CustomEvent("headrace-key", { detail: answer.error?.message }));
  throw new ServerError(response.status, answer.error);
}

export const getJson = async (path, options) => (await request("GET", path, undefined, options)).json();
export const postJson = async (path, body) => (await request("POST", path, body)).json();

/** The data of each server-sent event, parsed; `[DONE]` ends it. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter(line => line.startsWith("data:"));
      const data = lines.map(line => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

/** All entries of a paginated list, up to `most`. */
export async function all(path, most = 1000) {
  const found = [];
  let after = "";
  while (found.length < most) {
    const page = await getJson(`${path}${path.includes("?") ? "&" : "?"}limit=100${after}`);
    found.push(...page.data);
    if (!page.has_more) break;
    after = `&after=${encodeURIComponent(page.last_id)}`;
  }
  return found;
}

/** A request as a line for a shell; the key is a placeholder. */
export function curl(path, body) {
  const key = getKey() ? " -H 'Authorization: Bearer KEY'" : "";
  const quoted = JSON.stringify(body).replaceAll("'", `'\\''`);
  return `curl -N ${address(path)}${key} -H 'Content-Type: application/json' -d '${quoted}'`;
}
