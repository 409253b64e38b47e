// The official JavaScript SDK against a running Sidestep whose first backend throttles.
// Environment as for ../python/suite.py: SIDESTEP_URL, SIDESTEP_SERVING.

import { AzureOpenAI, OpenAI, toFile } from "openai";

const url = process.env.SIDESTEP_URL;
const serving = process.env.SIDESTEP_SERVING;
const chatModel = "gpt-4o";
const messages = [{ role: "user", content: "Why did the request take a side step?" }];
const common = { apiKey: "does-not-matter", maxRetries: 0, timeout: 30_000 };

const clients = {
  AzureOpenAI: () => new AzureOpenAI({ endpoint: url, apiVersion: "2024-10-21", ...common }),
  "OpenAI at /openai/v1": () => new OpenAI({ baseURL: `${url}/openai/v1/`, ...common }),
  "OpenAI at bare paths": () => new OpenAI({ baseURL: url, ...common }),
};

function check(condition, what) {
  if (!condition) throw new Error(what);
}

async function served(promise) {
  const { data, response } = await promise.withResponse();
  const backend = response.headers.get("x-sidestep-backend");
  check(backend === serving, `x-sidestep-backend is ${backend}, expected ${serving}`);
  const attempts = response.headers.get("x-sidestep-attempts");
  check(attempts === "2", `x-sidestep-attempts is ${attempts}: this call did not meet the throttled backend`);
  return data;
}

async function eventsOf(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

const operations = {
  async chat(client) {
    const answer = await served(client.chat.completions.create({ model: chatModel, messages }));
    check(answer.choices[0].message.content, "an answer without text");
    check(answer.usage.completion_tokens > 0, "no usage");
  },
  async chatStreamed(client) {
    const ask = { model: chatModel, messages, stream: true, stream_options: { include_usage: true } };
    const chunks = await eventsOf(await served(client.chat.completions.create(ask)));
    const parts = chunks.filter((chunk) => chunk.choices[0]?.delta?.content);
    check(parts.length > 2, `only ${parts.length} pieces of text`);
    check(chunks.some((chunk) => chunk.usage), "no usage chunk");
    check(chunks.filter((chunk) => chunk.choices[0]?.finish_reason).length === 1, "not one finish reason");
  },
  async responses(client) {
    const answer = await served(client.responses.create({ model: chatModel, input: messages, store: false }));
    check(answer.status === "completed", `status ${answer.status}`);
    check(answer.output_text, "an answer without text");
  },
  async responsesStreamed(client) {
    const ask = { model: chatModel, input: messages, store: false, stream: true };
    const events = await eventsOf(await served(client.responses.create(ask)));
    check(events[0].type === "response.created", `first event ${events[0].type}`);
    check(events.at(-1).type === "response.completed", `last event ${events.at(-1).type}`);
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    check(deltas.length > 2, `only ${deltas.length} deltas`);
  },
  async embeddings(client) {
    const answer = await served(client.embeddings.create({ model: "text-embedding-3-small", input: ["one", "two"] }));
    check(answer.data.length === 2, `${answer.data.length} vectors`);
    check(answer.data[0].embedding.length > 8, "a vector that is none");
  },
  async stored(client) {
    const first = await served(client.responses.create({ model: chatModel, input: messages }));
    check((await client.responses.retrieve(first.id)).id === first.id, "another response");
    const next = { model: chatModel, input: "And then?", previous_response_id: first.id };
    check((await client.responses.create(next)).status === "completed", "the follow-up is not completed");
    await client.responses.delete(first.id);
    const gone = await client.responses.retrieve(first.id).catch((error) => error);
    check(gone.status === 404, `what was deleted is answered with ${gone.status}`);
  },
  async files(client) {
    const file = await client.files.create({ file: await toFile(Buffer.from("text"), "a.txt"), purpose: "assistants" });
    const store = await client.vectorStores.create({ file_ids: [file.id] });
    const tools = [{ type: "file_search", vector_store_ids: [store.id] }];
    const asked = client.responses.create({ model: chatModel, input: messages, tools });
    const { response } = await asked.withResponse();
    const backend = response.headers.get("x-sidestep-backend");
    check(backend === serving, `x-sidestep-backend is ${backend}, expected ${serving}`);
    check((await client.files.delete(file.id)).deleted, "the file is still there");
  },
};

let passed = 0;
let failed = 0;
for (const [name, make] of Object.entries(clients)) {
  const client = make();
  for (const [operation, run] of Object.entries(operations)) {
    // Longer than the throttled backend's cooldown of 10 ms, so that this call is throttled too.
    await new Promise((resolve) => setTimeout(resolve, 50));
    try {
      await run(client);
      console.log(`ok      javascript · ${name} · ${operation}`);
      passed += 1;
    } catch (error) {
      console.log(`FAILED  javascript · ${name} · ${operation}\n${error.stack ?? error}`);
      failed += 1;
    }
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
