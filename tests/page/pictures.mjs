// The README's pictures of the page, of a real balancer before simulated resources: sixteen minutes of traffic in which
// each resource in turn is used up by somebody else, then pictures while one is throttled.
//   npm ci --prefix tests/page && cargo build && node tests/page/pictures.mjs .github
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { end, freePorts, launch, open, serve, simulate } from "./scene.mjs";

const MINUTES = 16;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const used = (from, lasts, every, deployment = "gpt-4o") => `[[resources.occupied]]\nfrom = "${from}s"\nlasts = "${lasts}s"\nevery = "${every}s"\ndeployment = "${deployment}"\n`;
const lines = (tokensPerMinute, occupied) => `quota = { tokens_per_minute = ${tokensPerMinute} }
latency = { first_byte = "350ms", per_token = "12ms", throttled = "25ms", jitter_percent = 40 }
${occupied}`;

/** Traffic of four callers in front of three resources, until the process ends. */
export async function episode() {
  const [callers, admin] = await freePorts(2);
  const resources = new Map([["sweden-central", lines(50_000, used(40, 35, 170))], ["france-central", lines(50_000, used(125, 40, 205))], ["east-us-2", lines(100_000, "")]]);
  const [sweden, france, east] = await simulate([...resources.keys()], (name) => resources.get(name));
  const who = [["chat-app", 2.6, 110], ["support-bot", 1.1, 90], ["nightly-batch", .5, 120], ["search", 1, 40, "text-embedding-3-small"]];
  await serve(`[server]\nlisten = "127.0.0.1:${callers}"\nadmin_listen = "127.0.0.1:${admin}"\n[callers]\nkeys = [${
    who.map(([name]) => `{ name = "${name}", key = "the-key-of-${name}-01234" }`).join(", ")}]\n${
    [["sweden-central", sweden, 1], ["france-central", france, 1], ["east-us-2", east, 2]].map(([name, url, priority]) =>
      `[[backends]]\nname = "${name}"\nurl = "${url}"\napi_key = "k"\npriority = ${priority}\n`).join("")}`);
  let asked = 0;
  for (const [name, perSecond, words, embeds] of who) {
    const ask = () => {
      const text = `Question ${asked++}: ${"word ".repeat(words)}`;
      const [path, body] = embeds ? ["embeddings", { model: embeds, input: text }]
        : ["chat/completions", { model: "gpt-4o", max_tokens: 60, stream: asked % 2 === 0, messages: [{ role: "user", content: text }] }];
      fetch(`http://127.0.0.1:${callers}/v1/${path}`, {
        method: "POST", headers: { "content-type": "application/json", "api-key": `the-key-of-${name}-01234` }, body: JSON.stringify(body),
      }).then((answer) => answer.text()).catch(() => {});
      setTimeout(ask, -Math.log(1 - Math.random()) * 1000 / perSecond);
    };
    ask();
  }
  // Once France answers with errors for a moment, so that it rests.
  setTimeout(() => fetch(`${france}/control/fault`, { method: "POST", body: JSON.stringify({ fault: { kind: "status", status: 503 }, times: 4 }) }), 8.5 * 60_000);
  return `http://127.0.0.1:${admin}/`;
}
