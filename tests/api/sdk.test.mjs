// The official OpenAI SDK for Node: streaming and not, text and picture, errors. SPILLWAY_URL, SPILLWAY_KEY and SPILLWAY_MODEL name the server.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";

const model = process.env.SPILLWAY_MODEL;
const client = new OpenAI({ baseURL: process.env.SPILLWAY_URL + "/v1", apiKey: process.env.SPILLWAY_KEY, maxRetries: 0 });
const ask = { model, messages: [{ role: "user", content: "Hello" }], max_tokens: 8, temperature: 0, ignore_eos: true };

test("models are listed", async () => {
  const ids = [];
  for await (const m of client.models.list()) ids.push(m.id);
  assert.ok(ids.includes(model));
});

test("a stream gives the same text as a whole answer", async () => {
  const whole = await client.chat.completions.create(ask);
  assert.equal(whole.usage.completion_tokens, 8);
  let text = "";
  let finish = null;
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(finish, "length");
});

test("a picture is taken", async () => {
  const content = [
    { type: "text", text: "What is it?" },
    { type: "image_url", image_url: { url: process.env.SPILLWAY_PICTURE } },
  ];
  const r = await client.chat.completions.create({ ...ask, messages: [{ role: "user", content }] });
  assert.equal(r.usage.completion_tokens, 8);
  assert.ok(r.usage.prompt_tokens > 20);
});

test("an error names the field", async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, temperature: 5 }), (e) => {
    assert.equal(e.status, 400);
    assert.equal(e.param, "temperature");
    assert.equal(e.code, "invalid_value");
    return true;
  });
});

test("a wrong key is refused", async () => {
  const other = new OpenAI({ baseURL: process.env.SPILLWAY_URL + "/v1", apiKey: "sk-wrong", maxRetries: 0 });
  await assert.rejects(other.models.list(), OpenAI.AuthenticationError);
});
