// What the suite stands on: processes of ours on free ports, and Debian's Chromium.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const SIDESTEP = process.env.SIDESTEP ?? fileURLToPath(new URL("../../target/debug/sidestep", import.meta.url));
const CHROMIUM = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

/** Held together, so that no two are the same. */
export async function freePorts(n) {
  const servers = await Promise.all(Array.from({ length: n }, async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    return server;
  }));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
  return ports;
}

const running = new Set();

/** Ends whatever a failed test has left. */
export const end = () => Promise.all([...running].map((stop) => stop()));

/** A process of ours, once it has said what `ready` matches. */
export async function sidestep(args, ready) {
  const child = spawn(SIDESTEP, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const match = await new Promise((done, fail) => {
    const hear = (piece) => {
      said += piece;
      const found = said.match(ready);
      if (found) done(found);
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.once("exit", (code) => fail(new Error(`sidestep ${args.join(" ")} ended with ${code}: ${said}`)));
    child.once("error", fail);
  });
  const stop = async (signal = "SIGKILL") => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    await ended;
    running.delete(stop);
  };
  running.add(stop);
  return { match, stop };
}

/** `sidestep serve` with these settings. */
export async function serve(settings) {
  const folder = await mkdtemp(join(tmpdir(), "sidestep-page-"));
  const file = join(folder, "sidestep.toml");
  await writeFile(file, settings);
  const running = await sidestep(["serve", "--config", file], /listening/);
  return { stop: async (signal) => { await running.stop(signal); await rm(folder, { recursive: true, force: true }); } };
}

/** Simulated resources of these names, until the end; their addresses, in order. `more` are lines for each; a function tells all of them by name. */
export async function simulate(names, more = "") {
  const lines = typeof more === "function" ? more : () => `quota = { tokens_per_minute = 100000000 }\n${more}\n`;
  const folder = await mkdtemp(join(tmpdir(), "sidestep-page-"));
  const file = join(folder, "simulate.toml");
  await writeFile(file, names.map((name) => `[[resources]]\nname = "${name}"\n${lines(name)}`).join("\n"));
  const { match } = await sidestep(["simulate", "--config", file], /^[^]*Ctrl-C/);
  await rm(folder, { recursive: true, force: true });
  const urls = new Map([...match[0].matchAll(/^(\S+) listens on (\S+)$/gm)].map(([, name, url]) => [name, url]));
  return names.map((name) => urls.get(name));
}

/** The page of the balancer at `url`, before a stream of events that says only what it is `told`. */
export async function puppet(url) {
  const watchers = new Set();
  const server = createHttpServer(async (request, response) => {
    if (request.url === "/events") {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(": here\n\n");
      watchers.add(response);
      return;
    }
    const page = await fetch(new URL(request.url, url));
    response.writeHead(page.status, { "content-type": page.headers.get("content-type"), "content-security-policy": page.headers.get("content-security-policy") ?? "" });
    response.end(Buffer.from(await page.arrayBuffer()));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    watched: () => watchers.size > 0,
    tell: (name, data) => watchers.forEach((watcher) => watcher.write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`)),
    stop: () => { server.closeAllConnections(); server.close(); },
  };
}

export function launch() {
  if (!CHROMIUM) throw new Error("no Chromium: apt-get install chromium, or set CHROMIUM");
  // The sandbox needs rights that root in a container does not have.
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  return chromium.launch({ executablePath: CHROMIUM, args });
}

/** The page, once it shows a document. Whatever the browser complains about is collected in `problems`. */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("console", (message) => { if (message.type() === "error") page.problems.push(message.text()); });
  await page.goto(url);
  await live(page);
  return page;
}

export const live = (page) => page.waitForFunction(() => document.getElementById("link").textContent === "Live");

/** Waits for what is told and returns it; an exception would only say that time ran out. */
export async function until(what, check, seconds = 40) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const found = await check();
    if (found) return found;
    assert.ok(Date.now() < end, `not within ${seconds} s: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

const AXE = await readFile(fileURLToPath(new URL("node_modules/axe-core/axe.min.js", import.meta.url)), "utf8");

/** What axe finds wrong, as short lines. The page's policy lets nothing in, so axe comes by the debugger. */
export async function violations(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Runtime.evaluate", { expression: AXE });
  const { result } = await session.send("Runtime.evaluate", {
    expression: `axe.run().then((found) => JSON.stringify(found.violations.map((one) =>
      one.id + ": " + one.nodes.slice(0, 3).map((node) => node.target + " " + node.failureSummary).join("; "))))`,
    awaitPromise: true,
    returnByValue: true,
  });
  return JSON.parse(result.value);
}

/** By how much the page is wider than the screen. */
export const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

/** Backends of these names at addresses where nobody listens, unless told otherwise. */
export const settings = ({ callers, admin, token, backends }) => `
[server]
listen = "127.0.0.1:${callers}"
admin_listen = "127.0.0.1:${admin}"
${token ? `admin_token = "${token}"` : ""}
${backends.map(({ name, url, priority = 1 }, i) => `
[[backends]]
name = "${name}"
url = "${url ?? `http://127.0.${Math.floor(i / 250)}.${i % 250 + 1}:9`}"
api_key = "k"
priority = ${priority}`).join("\n")}`;

let asked = 0;
/** A small chat of a caller without a key; each begins a conversation of its own, since turns of one stay together. */
export async function chat(callers, more = {}) {
  const answer = await fetch(`http://127.0.0.1:${callers}/v1/chat/completions`, {
    method: "POST", headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: `question ${asked++}` }], ...more }),
  });
  // A stream goes on behind.
  const whole = answer.text().catch(() => {});
  if (!more.stream) await whole;
  return answer;
}
