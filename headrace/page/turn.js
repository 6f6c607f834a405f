// One turn: a question becomes a response that runs in the server's background. So an answer survives a reload,
// a sleeping phone and a closed tab: a page that opens the chat reads its events again, and one whose connection
// breaks reads on.

import { events, getJson, persistently, request, ServerError } from "./api.js";

const SILENT_MS = 45_000; // without a byte the connection is dead: the server sends one every 15 seconds

/** The body of a request for a response. Empty settings are left out, so that the model's defaults apply. */
export function bodyOf({ model, input, branch, settings, hasLogprobs }) {
  const body = { model, input, conversation: branch.id, background: true, stream: true };
  if (settings.instructions) body.instructions = settings.instructions;
  for (const name of ["temperature", "top_p", "max_output_tokens"])
    if (settings[name] !== "" && settings[name] != null) body[name] = Number(settings[name]);
  if (settings.effort) body.reasoning = { effort: settings.effort };
  if (settings.tools?.trim()) body.tools = parse("tools", settings.tools);
  if (settings.schema?.trim())
    body.text = { format: { type: "json_schema", name: "answer", schema: parse("schema", settings.schema) } };
  if (hasLogprobs) Object.assign(body, { include: ["message.output_text.logprobs"], top_logprobs: 5 });
  return body;
}

function parse(name, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The setting “${name}” is not JSON: ${error.message}`);
  }
}

/** A new turn, whose members are filled in while its events come. */
export const newTurn = (body, began = performance.now()) => ({
  body, began, id: null, seen: -1, firstAt: null, items: [], usage: null, status: "queued", error: null,
});

/** Send a turn, and read its events. A backend without log probabilities is asked again without them. */
export async function* sendTurn(turn) {
  let response;
  try {
    response = await request("POST", "v1/responses", turn.body);
  } catch (error) {
    if (!(error instanceof ServerError) || !turn.body.top_logprobs || error.status !== 400) throw error;
    if (!/logprobs|include/.test(`${error.param} ${error.message}`)) throw error;
    const { include, top_logprobs, ...body } = turn.body;
    turn.body = body;
    turn.hasNoLogprobs = true;
    response = await request("POST", "v1/responses", body);
  }
  yield* readTurn(turn, response);
}

/** Read a running turn's events from its beginning. */
export async function* resumeTurn(turn, id) {
  yield* readTurn(turn, await request("GET", `v1/responses/${id}?stream=true`));
}

async function* readTurn(turn, response) {
  for (;;) {
    try {
      for await (const event of events(response, SILENT_MS)) {
        turn.seen = event.sequence_number ?? turn.seen;
        apply(turn, event);
        yield turn;
      }
      break;
    } catch (error) {
      if (!turn.id) throw error; // the server has not taken the question, as far as we know
      turn.isAway = true;
      yield turn;
      response = await persistently(() => request("GET", `v1/responses/${turn.id}?stream=true&starting_after=${turn.seen}`));
      turn.isAway = false;
    }
  }
  if (turn.status === "queued" || turn.status === "in_progress") {
    Object.assign(turn, fromResponse(await getJson(`v1/responses/${turn.id}`)));
    yield turn;
  }
}

export const fromResponse = response => ({
  id: response.id, items: response.output, usage: response.usage, status: response.status, error: response.error,
});

const HANDLERS = {
  "response.output_item.added": (turn, event) => { turn.items[event.output_index] = structuredClone(event.item); },
  "response.output_item.done": (turn, event) => { turn.items[event.output_index] = event.item; },
  "response.content_part.added": (turn, event) => {
    (turn.items[event.output_index].content ??= [])[event.content_index] = structuredClone(event.part);
  },
  "response.output_text.delta": (turn, event) => {
    const part = turn.items[event.output_index].content[event.content_index];
    part.text += event.delta;
    if (event.logprobs?.length) (part.logprobs ??= []).push(...event.logprobs);
  },
  "response.reasoning_text.delta": (turn, event) => addThought(turn, event),
  "response.reasoning_summary_text.delta": (turn, event) => addThought(turn, event),
  "response.function_call_arguments.delta": (turn, event) => {
    turn.items[event.output_index].arguments += event.delta;
  },
  error: (turn, event) => { turn.error = event.error ?? event; },
};

function addThought(turn, event) {
  const item = turn.items[event.output_index];
  item.thought = (item.thought ?? "") + event.delta;
}

function apply(turn, event) {
  if (event.response) {
    const { id, usage, status, error } = event.response;
    Object.assign(turn, { id, usage, status, error: error ?? turn.error });
    if (status !== "queued" && status !== "in_progress" && event.response.output?.length)
      turn.items = event.response.output;
  }
  HANDLERS[event.type]?.(turn, event);
  if (event.type.endsWith(".delta")) turn.firstAt ??= performance.now();
  turn.lastAt = performance.now();
}
