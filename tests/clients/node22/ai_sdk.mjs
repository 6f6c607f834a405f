// Vercel's AI SDK, whose OpenAI provider speaks responses by default.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";
import { runExamples } from "../node/examples.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const openai = createOpenAI({ baseURL: process.env.HEADRACE_URL + "/v1", apiKey: "x" });
const model = openai(process.env.HEADRACE_MODEL);
const brief = { model, temperature: 0, maxOutputTokens: 24, maxRetries: 0 };
const question = { role: "user", content: "What color is the sky?" };
const more = { role: "user", content: "And of grass?" };
const getWeather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.enum(["Paris", "London"]) }),
  execute: ({ city }) => `22 degrees in ${city}`,
});
// The first step calls the tool, the second one answers.
const forecast = {
  ...brief,
  prompt: "What is the weather in Paris?",
  maxOutputTokens: 60,
  tools: { getWeather },
  stopWhen: isStepCount(2),
  prepareStep: ({ stepNumber }) => ({
    toolChoice: stepNumber === 0 ? { type: "tool", toolName: "getWeather" } : "none",
  }),
};

test("two turns: what the server keeps is referred to, what it does not keep is resent", async () => {
  const told = [];
  for (const store of [true, false]) {
    const options = { ...brief, include: { requestBody: true }, providerOptions: { openai: { store } } };
    const first = await generateText({ ...options, messages: [question] });
    const second = await generateText({ ...options, messages: [question, ...first.response.messages, more] });
    assert.ok(second.usage.inputTokens > first.usage.inputTokens);
    assert.equal(JSON.stringify(second.request.body).includes("item_reference"), store);
    told.push(second.text);
  }
  assert.ok(told[0]);
  assert.equal(told[0], told[1]);
});

test("two turns by previousResponseId, and in a conversation", async () => {
  const first = await generateText({ ...brief, messages: [question] });
  const { responseId } = first.providerMetadata.openai;
  const after = { openai: { previousResponseId: responseId } };
  const second = await generateText({ ...brief, messages: [more], providerOptions: after });
  assert.ok(second.usage.inputTokens > first.usage.inputTokens);
  const made = await fetch(process.env.HEADRACE_URL + "/v1/conversations", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: "{}",
  });
  const { id } = await made.json();
  assert.match(id, /^conv_/);
  const within = { openai: { conversation: id } };
  await generateText({ ...brief, messages: [question], providerOptions: within });
  const last = await generateText({ ...brief, messages: [more], providerOptions: within });
  assert.equal(last.text, second.text);
});

test("a stream gives the same text", async () => {
  const { text } = await generateText({ ...brief, messages: [question] });
  const stream = streamText({ ...brief, messages: [question] });
  let streamed = "";
  for await (const piece of stream.textStream) streamed += piece;
  assert.equal(streamed, text);
  assert.ok((await stream.usage).outputTokens);
});

test("a tool turn, whole and streamed", async () => {
  const answer = await generateText(forecast);
  assert.equal(answer.steps.length, 2);
  assert.match(answer.steps[0].toolResults[0].output, /^22 degrees in (Paris|London)$/);
  assert.ok(answer.text);
  const stream = streamText(forecast);
  assert.equal(await stream.text, answer.text);
  assert.equal((await stream.steps).length, 2);
});

test("structured output", async () => {
  const schema = z.object({ color: z.enum(["red", "green", "blue"]), isWarm: z.boolean() });
  const { output } = await generateText({
    ...brief, messages: [question], maxOutputTokens: 100, output: Output.object({ schema }),
  });
  assert.deepEqual(Object.keys(output).sort(), ["color", "isWarm"]);
});

test("the example of the documentation", () => runExamples("ai_sdk", new URL(".", import.meta.url)));
