// Every call of the official JavaScript SDK, from the node_modules of the folder it is run in: the newest or 4.x.

import { createRequire } from "node:module";
import net from "node:net";
import {
  apiKey, apiVersion, audioModel, chatModel, check, dot, embeddingsModel, imageModel, messages, realtimeModel, run,
  texts, url,
} from "./matrix.mjs";

const require = createRequire(`${process.cwd()}/`);
const { AzureOpenAI, OpenAI, toFile } = require("openai");
const version = require("./package.json").dependencies.openai;
const old = version.startsWith("4.");
const common = { apiKey, maxRetries: 0, timeout: 30_000 };
const azure = () => new AzureOpenAI({ endpoint: url, apiVersion, ...common });
const both = [azure(), new OpenAI({ baseURL: `${url}/openai/v1/`, ...common })];

/** The same with both kinds of client. */
const each = (cell) => async () => {
  for (const client of both) await cell(client);
};

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

const weather = { type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } };
const look = [{ role: "user", content: [
  { type: "text", text: "What is this?" },
  { type: "image_url", image_url: { url: `data:image/png;base64,${dot}` } }] }];
const upload = (client, name, text, purpose) =>
  toFile(Buffer.from(text), name).then((file) => client.files.create({ file, purpose }));

async function realtime() {
  const { OpenAIRealtimeWS } = require(old ? "openai/beta/realtime/ws" : "openai/realtime/ws");
  const client = azure();
  // The SDK insists on wss://, which needs certificates; everything but the TLS is its own.
  const createConnection = ({ host, port }) => net.connect({ host, port });
  const headers = { "api-key": apiKey };
  const socket = old
    ? new OpenAIRealtimeWS({ model: realtimeModel, options: { createConnection, headers } }, client)
    : await OpenAIRealtimeWS.azure(client, { deploymentName: realtimeModel, options: { createConnection } });
  await talk(socket);
}

async function talk(socket) {
  await new Promise((resolve, reject) => {
    socket.on("error", reject);
    socket.on("session.created", () => socket.send({ type: "response.create" }));
    socket.on("response.done", resolve);
    setTimeout(() => reject(new Error("no answer in 10 s")), 10_000).unref();
  });
  socket.close();
}

/** The same by `/openai/v1` and TLS, and nothing but the SDK's own. */
async function realtimeTls() {
  const { OpenAIRealtimeWS } = require(old ? "openai/beta/realtime/ws" : "openai/realtime/ws");
  const client = new OpenAI({ baseURL: `${process.env.SIDESTEP_TLS_URL}/openai/v1`, ...common });
  await talk(new OpenAIRealtimeWS({ model: realtimeModel }, client));
}

async function responsesSocket() {
  const { ResponsesWS } = require("openai/resources/responses/ws");
  // All that are asked must have it: the messages come too late to choose by.
  const client = new OpenAI({ baseURL: `${url}/v1`, defaultQuery: { model: realtimeModel }, ...common });
  const socket = new ResponsesWS(client);
  const event = await new Promise((resolve, reject) => {
    socket.on("error", reject);
    socket.on("response.completed", resolve);
    socket.send({ type: "response.create", model: realtimeModel, input: "a" });
    setTimeout(() => reject(new Error("no answer in 10 s")), 10_000).unref();
  });
  check(event.response.model === "gpt-realtime-voice", event.response.model);
  socket.close();
}

await run("openai JavaScript", version, {
  chat: each(async (client) => {
    const answer = await client.chat.completions.create({ model: chatModel, messages });
    check(answer.choices[0].message.content, "no text");
  }),
  "chat, streamed": each(async (client) => {
    const chunks = await all(await client.chat.completions.create({ model: chatModel, messages, stream: true }));
    check(chunks.filter((chunk) => chunk.choices[0]?.delta?.content).length > 2, "no pieces");
  }),
  tools: each(async (client) => {
    const ask = { model: chatModel, messages, tools: [weather], tool_choice: "required" };
    const answer = await client.chat.completions.create(ask);
    check(answer.choices[0].message.tool_calls[0].function.name === "weather", "no call");
  }),
  "vision, inline image": each(async (client) => {
    check((await client.chat.completions.create({ model: chatModel, messages: look })).choices[0], "no text");
  }),
  "embeddings, 16 at once": each(async (client) => {
    const answer = await client.embeddings.create({ model: embeddingsModel, input: texts });
    check(answer.data.length === 16, `${answer.data.length} vectors`);
  }),
  responses: each(async (client) => {
    check((await client.responses.create({ model: chatModel, input: "a", store: false })).output_text, "no text");
  }),
  "responses, streamed": each(async (client) => {
    const events = await all(
      await client.responses.create({ model: chatModel, input: "a", store: false, stream: true }));
    check(events.at(-1).type === "response.completed", events.at(-1).type);
  }),
  "stored responses": each(async (client) => {
    const first = await client.responses.create({ model: chatModel, input: "a" });
    check((await client.responses.retrieve(first.id)).id === first.id, "another response");
    const next = { model: chatModel, input: "b", previous_response_id: first.id };
    check((await client.responses.create(next)).output_text, "no text");
    const work = await client.responses.create({ model: chatModel, input: "a", background: true });
    if (client.responses.cancel) {
      check((await client.responses.cancel(work.id)).status === "cancelled", "not cancelled");
    }
    await (client.responses.delete ?? client.responses.del).call(client.responses, first.id);
    const gone = await client.responses.retrieve(first.id).catch((error) => error);
    check(gone.status === 404, `what was deleted is answered with ${gone.status}`);
  }),
  transcription: each(async (client) => {
    const file = await toFile(Buffer.from("RIFF"), "a.wav");
    const answer = await client.audio.transcriptions.create({ model: audioModel, file });
    check(answer.text === "heard in west", answer.text);
  }),
  images: each(async (client) => {
    const answer = await client.images.generate({ model: imageModel, prompt: "a dot" });
    check(answer.data[0].b64_json === dot, "another picture");
    const image = await toFile(Buffer.from(dot, "base64"), "a.png");
    // 4.x sends an edit by AzureOpenAI to a path that Azure does not have.
    if (old && client instanceof AzureOpenAI) return;
    check((await client.images.edit({ model: imageModel, prompt: "a dot", image })).data[0], "no picture");
  }),
  "files, vector stores, file search": each(async (client) => {
    const file = await upload(client, "a.txt", "text", "assistants");
    const store = await client.vectorStores.create({ file_ids: [file.id] });
    const tools = [{ type: "file_search", vector_store_ids: [store.id] }];
    check((await client.responses.create({ model: chatModel, input: "a", tools })).output_text, "no text");
    check((await (client.files.delete ?? client.files.del).call(client.files, file.id)).deleted, "not deleted");
  }),
  batches: each(async (client) => {
    const file = await upload(client, "a.jsonl", '{"custom_id":"1"}\n', "batch");
    const ask = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" };
    const batch = await client.batches.create(ask);
    check((await client.batches.retrieve(batch.id)).id === batch.id, "another batch");
    check((await client.batches.cancel(batch.id)).status === "cancelled", "not cancelled");
  }),
  realtime,
  "realtime, /openai/v1 over TLS": realtimeTls,
  ...(old ? {} : { "responses over a WebSocket": responsesSocket }),
});
