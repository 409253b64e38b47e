// The Vercel AI SDK with its azure provider.

import { createRequire } from "node:module";
import { createAzure } from "@ai-sdk/azure";
import {
  embedMany, generateImage, generateText, jsonSchema, streamText, tool, transcribe,
} from "ai";
import {
  apiKey, audioModel, chatModel, check, dot, embeddingsModel, imageModel, messages, run, texts, url,
} from "../matrix.mjs";

const version = createRequire(import.meta.url)("./package.json").dependencies["@ai-sdk/azure"];
const azure = createAzure({ baseURL: `${url}/openai/v1`, apiKey });
const once = { maxRetries: 0 };
const look = [{ role: "user", content: [
  { type: "text", text: "What is this?" },
  { type: "file", data: Buffer.from(dot, "base64"), mediaType: "image/png" }] }];
const weather = tool({ description: "Tells the weather.", inputSchema: jsonSchema({ type: "object", properties: {} }) });

async function pieces(model) {
  let count = 0;
  for await (const piece of streamText({ model, messages, ...once }).textStream) count += piece ? 1 : 0;
  return count;
}

await run("Vercel AI SDK, azure", version, {
  async chat() {
    check((await generateText({ model: azure.chat(chatModel), messages, ...once })).text, "no text");
  },
  async "chat, streamed"() {
    check((await pieces(azure.chat(chatModel))) > 2, "no pieces");
  },
  async tools() {
    const asked = { model: azure.chat(chatModel), messages, tools: { weather }, toolChoice: "required", ...once };
    check((await generateText(asked)).toolCalls[0].toolName === "weather", "no call");
  },
  async "vision, inline image"() {
    check((await generateText({ model: azure.chat(chatModel), messages: look, ...once })).text, "no text");
  },
  async "embeddings, 16 at once"() {
    const model = azure.embedding(embeddingsModel);
    check((await embedMany({ model, values: texts, ...once })).embeddings.length === 16, "vectors");
  },
  async responses() {
    check((await generateText({ model: azure.responses(chatModel), messages, ...once })).text, "no text");
  },
  async "responses, streamed"() {
    check((await pieces(azure.responses(chatModel))) > 2, "no pieces");
  },
  async "stored responses"() {
    const model = azure.responses(chatModel);
    const first = await generateText({ model, prompt: "a", ...once });
    const metadata = first.providerMetadata.azure ?? first.providerMetadata.openai;
    const options = { previousResponseId: metadata.responseId };
    const next = await generateText({ model, prompt: "b", providerOptions: { azure: options, openai: options }, ...once });
    check(next.text, "no text");
  },
  async transcription() {
    const sound = Buffer.concat([Buffer.from("RIFF\x24\0\0\0WAVEfmt "), Buffer.alloc(64)]);
    const hear = transcribe;
    const answer = await hear({ model: azure.transcription(audioModel), audio: sound, ...once });
    check(answer.text === "heard in west", answer.text);
  },
  async images() {
    const paint = generateImage;
    const answer = await paint({ model: azure.image(imageModel), prompt: "a dot", ...once });
    check(answer.image.base64 === dot, "another picture");
  },
});
