// The openai client for Node against the server at HEADRACE_URL.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { runExamples } from "./examples.mjs";

const client = new OpenAI({ baseURL: process.env.HEADRACE_URL + "/v1", apiKey: "x", maxRetries: 0 });
const model = process.env.HEADRACE_MODEL;
const messages = [{ role: "user", content: "What color is the sky?" }];

test("a chat completion answers", async () => {
  const answer = await client.chat.completions.create({ model, messages, temperature: 0 });
  assert.match(answer.choices[0].message.content, /blue/);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("a stream gives the same text, also through the stream helper", async () => {
  const whole = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 40 });
  let text = "";
  const stream = await client.chat.completions.create({
    model, messages, temperature: 0, max_tokens: 40, stream: true, stream_options: { include_usage: true },
  });
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(usage.completion_tokens, whole.usage.completion_tokens);
  const helper = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 40 });
  assert.equal((await helper.finalChatCompletion()).choices[0].message.content, text);
});

test("completions, models and errors", async () => {
  const completion = await client.completions.create({ model, prompt: "The capital of France is", temperature: 0 });
  assert.match(completion.choices[0].text, /^ Paris/);
  assert.ok((await client.models.list()).data.some((entry) => entry.id === model));
  await assert.rejects(client.chat.completions.create({ model: "nobody", messages }), (error) => {
    assert.equal(error.status, 404);
    assert.equal(error.code, "model_not_found");
    assert.ok(error.requestID);
    return true;
  });
});

const color = {
  type: "object",
  properties: { color: { enum: ["red", "green", "blue"] }, brightness: { type: "integer", minimum: 0, maximum: 100 } },
  required: ["color", "brightness"],
  additionalProperties: false,
};
const getWeather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Paris", "London"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

test("structured output", async () => {
  const format = { type: "json_schema", json_schema: { name: "color", schema: color, strict: true } };
  const options = { model, messages, temperature: 0, max_tokens: 100, response_format: format };
  const parsed = (await client.chat.completions.parse(options)).choices[0].message.parsed;
  assert.deepEqual(Object.keys(parsed).sort(), ["brightness", "color"]);
  assert.ok(color.properties.color.enum.includes(parsed.color));
  const streamed = await client.chat.completions.stream(options).finalChatCompletion();
  assert.deepEqual(streamed.choices[0].message.parsed, parsed);
});

test("a forced tool call, streamed and not, and its result", async () => {
  const options = {
    model, messages, temperature: 0, max_tokens: 100, tools: [getWeather],
    tool_choice: { type: "function", function: { name: "get_weather" } },
  };
  const { message } = (await client.chat.completions.create(options)).choices[0];
  const [call] = message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.ok(["Paris", "London"].includes(JSON.parse(call.function.arguments).city));
  const streamed = (await client.chat.completions.stream(options).finalChatCompletion()).choices[0].message;
  assert.equal(streamed.tool_calls[0].function.arguments, call.function.arguments);
  const result = { role: "tool", tool_call_id: call.id, content: "22 degrees" };
  const after = await client.chat.completions.create({
    model, messages: [...messages, message, result], tools: [getWeather], tool_choice: "none", max_tokens: 20,
  });
  assert.ok(after.choices[0].message.content);
});

test("the tool runner", async () => {
  const runner = client.chat.completions.runTools({
    model, messages, temperature: 0, max_tokens: 100,
    tools: [{
      type: "function",
      function: { ...getWeather.function, function: () => "22 degrees", parse: JSON.parse },
    }],
  }, { maxChatCompletions: 2 });
  await runner.done();
  assert.equal(runner.messages.at(0).role, "user");
});

test("embeddings, base64 by default", async () => {
  const input = ["The sky is blue.", "Grass is green."];
  const byDefault = (await client.embeddings.create({ model, input })).data;
  const floats = (await client.embeddings.create({ model, input, encoding_format: "float" })).data;
  assert.deepEqual(byDefault.map((entry) => entry.index), [0, 1]);
  const product = byDefault[0].embedding.reduce((sum, value, i) => sum + value * floats[0].embedding[i], 0);
  assert.ok(Math.abs(product - 1) < 1e-3);
});

test("the example of the documentation", () => runExamples("node", new URL(".", import.meta.url)));
