// Requests to this server: the key, JSON, errors and event streams.

const BASE = new URL(".", document.baseURI);
const AWAY = [502, 503, 504]; // a proxy's answers for a server that cannot be reached, and a server's that cannot work now
const FIRST_PAUSE_MS = 500; // before the server is tried again
const LONGEST_PAUSE_MS = 8000;

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
  const response = await fetch(address(path), sent).catch(unreached);
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401 && !options.isOptional) dispatchEvent(new CustomEvent("headrace-key", { detail: answer.error?.message }));
  throw new ServerError(response.status, answer.error);
}

function unreached(error) {
  throw error.name === "AbortError" ? error : new Error("The server cannot be reached.");
}

export const getJson = async (path, options) => (await request("GET", path, undefined, options)).json();
export const postJson = async (path, body) => (await request("POST", path, body)).json();

/** What `work` comes to, once the server can be reached. Throws the ServerErrors of one that can. */
export async function persistently(work) {
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    try {
      return await work();
    } catch (error) {
      if (error instanceof ServerError && !AWAY.includes(error.status)) throw error;
      await soon(pause);
    }
  }
}

/** Wait, but not longer than until the network is back, or the page is looked at again. */
const soon = pause => new Promise(resolve => {
  const timer = setTimeout(done, pause);
  function done() {
    clearTimeout(timer);
    removeEventListener("online", done);
    document.removeEventListener("visibilitychange", done);
    resolve();
  }
  addEventListener("online", done);
  document.addEventListener("visibilitychange", done);
});

/** The data of each server-sent event, parsed; `[DONE]` ends it. Throws when nothing comes for `silentMs`. */
export async function* events(response, silentMs = Infinity) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await within(silentMs, reader);
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

/** What a reader reads next. */
function within(milliseconds, reader) {
  if (milliseconds === Infinity) return reader.read();
  let timer;
  const silence = new Promise((_, fail) => {
    timer = setTimeout(() => { fail(new Error("The connection is silent.")); reader.cancel().catch(() => {}); }, milliseconds);
  });
  return Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
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
