// The openai client for Node against a running server: node smoke.mjs BASE_URL
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.HEADRACE_URL + "/v1", apiKey: "x", maxRetries: 0 });
const model = "smollm2-135m-instruct";
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
