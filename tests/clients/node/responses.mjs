// The openai client for Node over every endpoint of responses, conversations and stored chat completions.
import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import { test } from "node:test";
import OpenAI, { BadRequestError, NotFoundError } from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const client = new OpenAI({ baseURL: process.env.HEADRACE_URL + "/v1", apiKey: "x", maxRetries: 0 });
const { responses, conversations, chat: { completions } } = client;
const model = process.env.HEADRACE_MODEL;
const question = "What color is the sky?";
const brief = { model, temperature: 0, max_output_tokens: 24 };
const hello = { input: "Hi", ...brief }; // its answer has an end within that
const messages = [{ role: "user", content: question }];
const tool = {
  type: "function",
  name: "get_weather",
  description: "The weather in a city",
  strict: true,
  parameters: {
    type: "object",
    properties: { city: { type: "string", enum: ["Paris", "London"] } },
    required: ["city"],
    additionalProperties: false,
  },
};
const forced = {
  ...brief, max_output_tokens: 100, tools: [tool], tool_choice: { type: "function", name: "get_weather" },
};

async function all(iterable) {
  const found = [];
  for await (const entry of iterable) found.push(entry);
  return found;
}

const text = (events) =>
  events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");

function output(response) {
  const call = response.output.find((item) => item.type === "function_call");
  assert.ok(["Paris", "London"].includes(JSON.parse(call.arguments).city));
  return { type: "function_call_output", call_id: call.call_id, output: "22 degrees" };
}

test("two turns by previous_response_id", async () => {
  const first = await responses.create({ ...brief, input: question });
  assert.ok(first.output_text);
  const second = await responses.create({ ...brief, input: "And of grass?", previous_response_id: first.id });
  assert.ok(second.usage.input_tokens > first.usage.input_tokens);
  const asked = await all(responses.inputItems.list(second.id, { order: "asc", limit: 2 }));
  assert.deepEqual(asked.map((item) => item.role), ["user", "assistant", "user"]);
});

test("a stream gives the same text, also through the stream helper", async () => {
  const whole = await responses.create(hello);
  const events = await all(await responses.create({ ...hello, stream: true }));
  assert.equal(text(events), whole.output_text);
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
  assert.equal((await responses.stream(hello).finalResponse()).output_text, whole.output_text);
});

test("structured output", async () => {
  const schema = { ...tool.parameters };
  const options = { ...brief, input: question, text: { format: { type: "json_schema", name: "place", schema } } };
  assert.deepEqual(Object.keys((await responses.parse(options)).output_parsed), ["city"]);
});

test("a forced tool call, streamed and not, and its output", async () => {
  const asked = await responses.create({ ...forced, input: question });
  const streamed = await responses.stream({ ...forced, input: question }).finalResponse();
  assert.equal(streamed.output[0].arguments, asked.output[0].arguments);
  const after = { ...forced, tool_choice: "none", max_output_tokens: 24 };
  const kept = await responses.create({ ...after, input: [output(asked)], previous_response_id: asked.id });
  assert.ok(kept.output_text);
  const resent = [...messages, ...asked.output, output(asked)];
  assert.equal((await responses.create({ ...after, input: resent, store: false })).output_text, kept.output_text);
});

test("retrieve, delete, and what is not there", async () => {
  const made = await responses.create(hello);
  assert.equal((await responses.retrieve(made.id)).output_text, made.output_text);
  await responses.delete(made.id);
  await assert.rejects(responses.retrieve(made.id), NotFoundError);
  const gone = { ...hello, previous_response_id: made.id };
  await assert.rejects(responses.create(gone), (error) => {
    assert.ok(error instanceof BadRequestError);
    return error.code === "previous_response_not_found";
  });
});

test("background: polled, cancelled, a stream that is gone on with", async () => {
  let response = await responses.create({ ...hello, background: true });
  while (["queued", "in_progress"].includes(response.status)) {
    await setTimeout(50);
    response = await responses.retrieve(response.id);
  }
  assert.equal(response.status, "completed");
  const endless = { model, input: question, max_output_tokens: 4000, ignore_eos: true, background: true };
  const long = await responses.create(endless);
  assert.equal((await responses.cancel(long.id)).status, "cancelled");
  const seen = [];
  for await (const event of await responses.create({ ...hello, background: true, stream: true })) {
    seen.push(event);
    if (event.type === "response.output_text.delta") break;
  }
  const position = { stream: true, starting_after: seen.at(-1).sequence_number };
  const rest = await all(await responses.retrieve(seen[0].response.id, position));
  assert.equal(text([...seen, ...rest]), response.output_text);
});

test("input tokens, compact", async () => {
  const made = await responses.create(hello);
  const { input_tokens } = await responses.inputTokens.count({ model, input: "Hi" });
  assert.equal(input_tokens, made.usage.input_tokens);
  const compacted = await responses.compact({ model, previous_response_id: made.id });
  const input = [...compacted.output, { role: "user", content: "And of grass?" }];
  assert.ok((await responses.create({ ...brief, input })).output_text);
});

test("WebSocket: two turns", async () => {
  const socket = new ResponsesWS(client);
  const answered = (options) => new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.once("response.completed", ({ response }) => resolve(response));
    socket.once("response.incomplete", ({ response }) => resolve(response));
    socket.send({ type: "response.create", ...brief, ...options });
  });
  const first = await answered({ input: question, store: false });
  const second = await answered({ input: "And of grass?", previous_response_id: first.id, store: false });
  assert.ok(second.usage.input_tokens > first.usage.input_tokens);
  socket.close();
});

test("conversations and their items", async () => {
  const made = await conversations.create({ items: messages, metadata: { topic: "sky" } });
  assert.deepEqual(await conversations.retrieve(made.id), made);
  const changed = await conversations.update(made.id, { metadata: { topic: "grass" } });
  assert.deepEqual(changed.metadata, { topic: "grass" });
  const place = { conversation_id: made.id };
  const added = await conversations.items.create(made.id, {
    items: [{ role: "assistant", content: "Blue." }, { role: "user", content: "Thanks." }],
  });
  const listed = await all(conversations.items.list(made.id, { order: "asc", limit: 1 }));
  assert.deepEqual(listed.slice(1), added.data);
  assert.deepEqual(await conversations.items.retrieve(listed[1].id, place), listed[1]);
  assert.equal((await conversations.items.delete(listed[1].id, place)).id, made.id);
  assert.ok((await client.get("/conversations")).data.some((entry) => entry.id === made.id));
  assert.ok(await client.get(`/conversations/${made.id}/export`));
  assert.ok((await conversations.delete(made.id)).deleted);
  await assert.rejects(conversations.retrieve(made.id), NotFoundError);
});

test("responses and chat in a conversation, a tool turn among them", async () => {
  const { id } = await conversations.create();
  const called = await responses.create({ ...forced, input: question, conversation: id });
  await responses.create({ ...brief, input: [output(called)], conversation: id });
  const chat = { model, messages, temperature: 0, max_tokens: 24, conversation: id };
  assert.ok((await completions.create(chat)).choices[0].message.content);
  const kinds = (await all(conversations.items.list(id, { order: "asc" }))).map((item) => item.type);
  const said = "message";
  assert.deepEqual(kinds, [said, "function_call", "function_call_output", said, said, said]);
});

test("stored chat completions", async () => {
  const metadata = { topic: `sky ${Date.now()}` };
  const options = { model, messages, temperature: 0, max_tokens: 24, store: true, metadata };
  const made = await completions.create(options);
  const streamed = await completions.stream(options).finalChatCompletion();
  assert.equal((await completions.retrieve(made.id)).choices[0].message.content, made.choices[0].message.content);
  const ids = (await all(completions.list({ metadata, limit: 1 }))).map((entry) => entry.id);
  assert.deepEqual(ids, [made.id, streamed.id]);
  const [message] = await all(completions.messages.list(made.id));
  assert.equal(message.content, question);
  assert.deepEqual((await completions.update(made.id, { metadata: { a: "b" } })).metadata, { a: "b" });
  assert.ok((await completions.delete(made.id)).deleted);
  await assert.rejects(completions.retrieve(made.id), NotFoundError);
});
