// The README's pictures of the page, of a real balancer before simulated resources: sixteen minutes of traffic in which
// two resources in turn are used up by somebody else, then pictures while one is throttled. `EPISODE` is the address of
// an admin listener where one goes on already.
//   npm ci --prefix tests/page && cargo build && node tests/page/pictures.mjs FOLDER
// writes four; status-page.png and status-page-phone.png are those in .github.
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
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
  const resources = new Map([["sweden-central", lines(50_000, used(40, 35, 170))], ["france-central", lines(50_000, used(125, 40, 205))], ["east-us-2", lines(100_000, "")]]);
  const [sweden, france, east] = await simulate([...resources.keys()], (name) => resources.get(name));
  const [callers, admin] = await freePorts(2);
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

/** Inter where it is installed, as the pictures have it; a page takes what its reader's system has. */
async function fonts() {
  const file = join(await mkdtemp(join(tmpdir(), "sidestep-page-")), "fonts.conf");
  const match = (family) => `<match target="pattern"><test name="family"><string>${family}</string></test><edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match>`;
  await writeFile(file, `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">\n<fontconfig><include>/etc/fonts/fonts.conf</include>${["system-ui", "sans", "sans-serif"].map(match).join("")}</fontconfig>\n`);
  process.env.FONTCONFIG_FILE = file;
}

async function take(folder) {
  await fonts();
  const url = process.env.EPISODE ?? await episode();
  const browser = await launch();
  await pause(process.env.EPISODE ? 0 : MINUTES * 60_000);
  for (;;) {
    const status = await (await fetch(`${url}status`)).json();
    const away = status.backends.flatMap((backend) => backend.lanes).filter((lane) => lane.state === "cooling" && lane.remaining_ms > 20_000);
    if (away.length === 1) break;
    await pause(500);
  }
  const pictures = [["status-page", 1280, "light"], ["status-page-dark", 1280, "dark"], ["status-page-phone-light", 390, "light"], ["status-page-phone", 390, "dark"]];
  const pages = await Promise.all(pictures.map(([, width, colorScheme]) => open(browser, url, { colorScheme, viewport: { width, height: 844 }, deviceScaleFactor: width < 500 ? 2 : 1 })));
  // Single requests are asked for where they are in sight.
  for (const page of pages) await page.locator("#requests").scrollIntoViewIfNeeded();
  await pause(3000);
  for (const page of pages) await page.evaluate(() => scrollTo(0, 0));
  for (const [i, [name, width]] of pictures.entries()) await pages[i].screenshot({ path: join(folder, `${name}.png`), fullPage: width > 500 });
  await browser.close();
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv[2]) {
  await take(process.argv[2]);
  await end();
  process.exit();
}
