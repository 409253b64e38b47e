// The status page in a real Chromium, before a real balancer. Run by .ci/long; by hand:
//   npm ci --prefix tests/page && cargo build && node --test tests/page/
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { end, freePorts, launch, live, open, puppet, serve, settings, sidestep, simulate, until, violations } from "./scene.mjs";

const BACKENDS = ["east", "west", "north"];

let browser;
before(async () => { browser = await launch(); });
after(async () => { await browser?.close(); await end(); });

/** Numbers shown in an element, `1,234` as 1234. */
const shown = async (page, selector) => Number((await page.textContent(selector)).replace(/[^0-9.]/g, ""));
const row = (page, name) => page.locator(".backend", { has: page.locator(".name", { hasText: new RegExp(`^${name}$`) }) });
const button = (page, name) => row(page, name).getByRole("button");

/** All that a screen reader is told from now on. */
async function listen(page) {
  await page.evaluate(() => {
    const news = document.getElementById("news");
    window.heard = [];
    new MutationObserver(() => window.heard.push(news.textContent)).observe(news, { childList: true, characterData: true, subtree: true });
  });
  return () => page.evaluate(() => window.heard);
}

describe("the demo", () => {
  let demo, url, page;
  before(async () => {
    const [port] = await freePorts(1);
    demo = await sidestep(["demo", "--port", String(port)], /Status page: (http:\/\/[0-9.:]+)/);
    url = demo.match[1];
    page = await open(browser, url);
  });
  after(async () => { await page?.context().close(); await demo?.stop(); });

  test("shows every backend with its state in words, and what callers got", async () => {
    await until("all three backends have served gpt-4o", async () => (await page.locator(".deployment", { hasText: /^gpt-4o$/ }).count()) === 3);
    assert.deepEqual(await page.locator(".name").allTextContents(), BACKENDS);
    for (const name of BACKENDS) assert.match(await row(page, name).locator(".state").textContent(), /^(Admitting|Cooling, .*(left|any moment)|On trial: one request first)$/);
    await until("a request has succeeded", async () => (await page.textContent("#success")) === "100 %");
    await until("a quota is told", async () => /^\d[\d.,k]* of [\d.,]+k? tokens(all again in \d+ s)?$/.test(await row(page, "east").locator(".quota").textContent()));
    assert.match(await row(page, "east").locator("p.number").nth(2).textContent(), /\d ms$/);
    assert.equal(await page.locator("h1").textContent(), "Everyone is being served");
  });

  test("shows who uses it", async () => {
    assert.deepEqual(await page.locator("#users th").allTextContents(), ["anonymous"]);
    assert.equal(await page.textContent("#callers-note"), "in the last 5 minutes");
    assert.equal(await page.locator("#users .part").textContent(), "100 %");
    const [tokens, requests, failed] = await page.locator("#users .sum").allTextContents();
    assert.ok(/^[\d.,]+k?$/.test(tokens) && Number(requests) > 0, `${tokens} ${requests}`);
    assert.equal(failed, "0");
  });

  test("moves by itself: requests, tokens, rates, the past", async () => {
    const [requests, tokens] = [await shown(page, "#success-note"), await shown(page, "#tokens")];
    await until("more requests", async () => (await shown(page, "#success-note")) > requests);
    await until("more tokens", async () => (await shown(page, "#tokens")) > tokens);
    await until("a rate", async () => /[1-9]/.test(await page.textContent("#tokens-note")));
    const past = () => page.locator("canvas").first().getAttribute("aria-valuetext");
    const before = await past();
    await until("a step of the past", async () => (await past()) !== before && /^Last \d.*: [1-9]\d* served, /.test(await past()));
  });

  test("counts a cooldown down, smoothly and to its end", async () => {
    const read = () => page.evaluate(() => {
      for (const lane of document.querySelectorAll('.lane[data-state="cooling"]')) {
        const seconds = lane.querySelector(".state").textContent.match(/([\d.]+) s left/);
        if (seconds) return { who: lane.querySelector(".name").textContent, left: Number(seconds[1]) };
      }
      return null;
    });
    const first = await until("somebody cools", read);
    const seen = [];
    await until(`${first.who} is back`, async () => {
      const state = await row(page, first.who).locator(".state").textContent();
      const left = state.match(/([\d.]+) s left/);
      if (left) seen.push(Number(left[1]));
      return state === "Admitting";
    });
    const falls = seen.filter((left, i) => i > 0 && left < seen[i - 1]).length;
    const rises = seen.filter((left, i) => i > 0 && left > seen[i - 1] + 0.15).length;
    assert.ok(falls >= 5 && rises === 0, `it should only fall: ${seen}`);
    await until("absorbed 429s are counted", async () => (await shown(page, "#absorbed")) > 0);
    assert.match(await row(page, first.who).locator("summary").textContent(), /^Last trouble: 429, /);
  });

  test("draws bars where it served and a band where it cooled", async () => {
    await until("green bars, an amber mark and a pale band are drawn", () => page.evaluate(() => {
      const seen = new Set();
      for (const canvas of document.querySelectorAll("canvas")) {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) seen.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
      }
      return ["79,165,131", "233,168,32", "251,233,191"].every((colour) => seen.has(colour));
    }));
  });

  test("drains a backend only after a yes, and resumes it", async () => {
    await button(page, "west").click();
    const dialog = page.locator("dialog");
    assert.equal(await dialog.locator("h2").textContent(), "Drain west?");
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await until("the dialog is closed", async () => !(await dialog.isVisible()));
    assert.notEqual(await row(page, "west").locator(".state").textContent(), "Drained");

    await button(page, "west").focus();
    await page.keyboard.press("Enter");
    await dialog.getByRole("button", { name: "Drain", exact: true }).click();
    await until("it is drained", async () => (await row(page, "west").locator(".state").textContent()) === "Drained");
    assert.equal(await dialog.isVisible(), false);
    assert.match(await page.textContent("#subline"), /west: drained/);
    await until("it is told to those who listen", async () => /west: drained/.test(await page.textContent("#news")));
    const other = await open(browser, url);
    assert.equal(await row(other, "west").locator(".state").textContent(), "Drained", "another page sees it too");
    await other.context().close();

    await button(page, "west").click();
    assert.equal(await dialog.locator("h2").textContent(), "Resume west?");
    await dialog.getByRole("button", { name: "Resume" }).click();
    await until("it is back", async () => /^(Admitting|Cooling)/.test(await row(page, "west").locator(".state").textContent()));
  });

  test("explains who would serve a deployment now, while its details are open", async () => {
    await row(page, "west").locator("summary").click();
    const why = row(page, "west").locator(".why");
    await until("it is explained", async () => /^Who would serve gpt-4o now/.test(await why.textContent()));
    assert.deepEqual((await why.locator("li span:first-child").allTextContents()).sort(), [...BACKENDS].sort());
    for (const text of await why.locator("li span + span").allTextContents()) assert.match(text, /^(drawn with|spillover|last: |not now: )/);
    const asked = [];
    page.on("request", (request) => { if (request.url().includes("/explain?")) asked.push(request.url()); });
    await until("it is asked again", () => asked.length > 0);
    assert.equal(asked[0], `${url}/explain?deployment=gpt-4o&backend=west`);
    await row(page, "west").locator("summary").click();
  });

  test("what is marked in the details stays marked while the figures move", async () => {
    const box = row(page, "west");
    await box.locator("summary").click();
    await until("the details are there", async () => (await box.locator(".more dd").count()) > 0);
    await box.locator(".more dd").first().evaluate((dd) => document.getSelection().selectAllChildren(dd));
    const marked = () => page.evaluate(() => String(document.getSelection()));
    const address = await marked();
    assert.match(address, /^http:/);
    for (const times of ["once", "twice"]) {
      const before = await page.textContent("#success-note");
      await until(`the figures have moved ${times}`, async () => (await page.textContent("#success-note")) !== before);
    }
    assert.equal(await marked(), address);
    await page.evaluate(() => document.getSelection().removeAllRanges());
    await box.locator("summary").click();
  });

  test("tells of a moment under the mouse, at the finger and by keys", async () => {
    const MOMENT = /^\d\d:\d\d:\d\d: \d+ served(, |$)/, UNSEEN = /^\d\d:\d\d:\d\d: not seen$/;
    const strip = page.locator("canvas").first(), { width } = await strip.boundingBox();
    await until("some steps are over", async () => /^Last (1[5-9] s|[2-9]\d s|\d+ min)/.test(await strip.getAttribute("aria-valuetext")));
    await strip.hover({ position: { x: 5, y: 20 } });
    assert.match(await page.textContent(".tip"), UNSEEN);
    await strip.hover({ position: { x: width - 1, y: 20 } });
    assert.match(await page.textContent(".tip"), MOMENT);
    await page.locator("h1").hover();
    assert.equal(await page.locator(".tip").count(), 0);

    await button(page, BACKENDS[0]).focus();
    await page.keyboard.press("Shift+Tab");
    const told = (name) => page.evaluate((name) => document.activeElement.getAttribute(name), name);
    assert.equal(await told("role"), "slider");
    assert.equal(await told("aria-label"), "east gpt-4o, the last 15 minutes");
    await page.keyboard.press("ArrowLeft");
    const [text, at] = [await told("aria-valuetext"), Number(await told("aria-valuenow"))];
    assert.match(text, MOMENT);
    assert.equal(await page.textContent(".tip"), text, "what is said is what is shown");
    await page.keyboard.press("ArrowLeft");
    assert.notEqual(await told("aria-valuetext"), text);
    await page.keyboard.press("PageDown");
    // A step may have ended meanwhile.
    assert.ok([13, 14].includes(at - Number(await told("aria-valuenow"))));
    await page.keyboard.press("Home");
    assert.equal(await told("aria-valuenow"), "1");
    assert.match(await told("aria-valuetext"), UNSEEN);
    await page.keyboard.press("End");
    await page.keyboard.press("ArrowDown");
    assert.equal(await told("aria-label"), "west gpt-4o, the last 15 minutes");
    assert.match(await told("aria-valuetext"), MOMENT);
    assert.equal(await page.locator(".tip").count(), 1);
    assert.equal(await page.locator('canvas[tabindex="0"]').count(), 1, "one stop for Tab, not one for each lane");
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press("Escape");
    assert.equal(await page.locator(".tip").count(), 0);
    assert.match(await told("aria-valuetext"), /^Last /);

    const phone = await open(browser, url, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
    await phone.locator("canvas").first().tap({ position: { x: 345, y: 20 } });
    assert.match(await phone.textContent(".tip"), MOMENT, "it stays when the finger is lifted");
    assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
    await phone.locator("h1").tap();
    assert.equal(await phone.locator(".tip").count(), 0);
    await phone.context().close();
  });

  for (const colorScheme of ["light", "dark"]) {
    test(`${colorScheme}: axe finds nothing, wide, narrow, with details and with the dialog`, async () => {
      const page = await open(browser, url, { colorScheme });
      const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      assert.equal(ground, colorScheme === "light" ? "rgb(250, 249, 247)" : "rgb(19, 22, 25)");
      await page.locator("summary").first().click();
      await until("details are shown", async () => /Address/.test(await page.locator("details[open]").textContent()));
      assert.deepEqual(await violations(page), []);
      await page.evaluate(() => document.querySelector("main").append(document.createElement("button")));
      assert.match((await violations(page)).join(), /^button-name/, "axe does find what is wrong");
      await page.evaluate(() => document.querySelector("main > button").remove());
      await page.setViewportSize({ width: 390, height: 844 });
      assert.deepEqual(await violations(page), []);
      await button(page, "east").click();
      assert.deepEqual(await violations(page), []);
      assert.deepEqual(page.problems, []);
      await page.context().close();
    });
  }

  test("on a phone nothing is wider than the screen", async () => {
    for (const width of [390, 320, 768]) {
      const page = await open(browser, url, { viewport: { width, height: 844 } });
      await page.locator("summary").first().click();
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(over, 0, `at ${width}`);
      await page.context().close();
    }
  });

  test("can be used by keys alone, and says what has the focus", async () => {
    const page = await open(browser, url);
    const focused = [];
    for (let i = 0; i < 7; i++) {
      await page.keyboard.press("Tab");
      focused.push(await page.evaluate(() => {
        const outline = getComputedStyle(document.activeElement).outlineStyle;
        return `${document.activeElement.getAttribute("aria-label") ?? document.activeElement.tagName} ${outline}`;
      }));
    }
    for (const name of BACKENDS) assert.ok(focused.includes(`Drain ${name} solid`), `${focused}`);
    assert.ok(focused.includes("SUMMARY solid"), `${focused}`);
    await page.context().close();
  });

  test("nothing is asked of anybody but the balancer, and nothing else may run", async () => {
    const context = await browser.newContext();
    const page = await context.newPage();
    const asked = [];
    page.on("request", (request) => asked.push(request.url()));
    const answer = await page.goto(url);
    await live(page);
    const own = [`${url}/`, `${url}/events`, `${url}/requests?each=8`];
    assert.deepEqual([...new Set(asked)].filter((one) => !one.startsWith("data:") && !own.includes(one)), []);
    assert.deepEqual(asked.slice(0, 2), own.slice(0, 2));
    assert.match(answer.headers()["content-security-policy"], /^default-src 'none'; style-src 'sha256-[^']+'; script-src 'sha256-[^']+'; connect-src 'self'/);
    const ran = await page.evaluate(() => new Promise((done) => {
      const script = document.createElement("script");
      script.textContent = "window.intruder = true";
      document.body.append(script);
      setTimeout(() => done(window.intruder === true), 100);
    }));
    assert.equal(ran, false);
    await context.close();
  });

  test("no error was written to the console", () => assert.deepEqual(page.problems, []));
});


describe("a balancer with settings", () => {
  test("a token is asked for by the browser's own prompt, and then the page lives and drains", async () => {
    const [callers, admin] = await freePorts(2);
    const balancer = await serve(settings({ callers, admin, token: "the-admin-token-0123456789", backends: [{ name: "one" }, { name: "two" }] }));
    const url = `http://127.0.0.1:${admin}/`;
    try {
      const stranger = await (await browser.newContext()).newPage();
      const answer = await stranger.goto(url).catch((error) => error);
      assert.ok(answer instanceof Error ? /ERR_INVALID_AUTH_CREDENTIALS/.test(answer.message) : answer.status() === 401, "nothing without the token");
      await stranger.context().close();
      const page = await open(browser, url, { httpCredentials: { username: "operator", password: "the-admin-token-0123456789" } });
      await button(page, "one").click();
      await page.locator("dialog").getByRole("button", { name: "Drain", exact: true }).click();
      await until("it is drained", async () => (await row(page, "one").locator(".state").textContent()) === "Drained");
      await page.context().close();
    } finally {
      await balancer.stop();
    }
  });

  test("a lost connection is told with its moment, and the page comes back by itself", async () => {
    const [callers, admin] = await freePorts(2);
    const text = settings({ callers, admin, backends: [{ name: "one" }] });
    let balancer = await serve(text);
    try {
      const page = await open(browser, `http://127.0.0.1:${admin}/`);
      await balancer.stop();
      await until("the loss is told", async () => /^Connection lost since \d\d:\d\d:\d\d\. Trying again\.$/.test(await page.textContent("#link")), 10);
      assert.ok(await page.evaluate(() => document.body.classList.contains("lost")), "what is shown is marked as old");
      assert.match(await page.textContent("h1"), /^No news since \d\d:\d\d:\d\d$/);
      balancer = await serve(text);
      await live(page);
      assert.equal(await page.evaluate(() => document.body.classList.contains("lost")), false);
      await balancer.stop("SIGTERM");
      await until("an ordered end is told as well", async () => /^Connection lost/.test(await page.textContent("#link")), 10);
      await page.context().close();
    } finally {
      await balancer.stop();
    }
  });

  test("the twenty-first watcher is told why it sees nothing, and sees when another leaves", async () => {
    const [callers, admin] = await freePorts(2);
    const balancer = await serve(settings({ callers, admin, backends: [{ name: "one" }] }));
    const url = `http://127.0.0.1:${admin}/`;
    const watchers = [];
    try {
      for (let i = 0; i < 20; i++) {
        const stop = new AbortController();
        const answer = await fetch(`${url}events`, { signal: stop.signal });
        assert.equal(answer.status, 200);
        watchers.push(stop);
      }
      const page = await (await browser.newContext()).newPage();
      await page.goto(url);
      await until("the reason is shown", async () => /as many watch already as may/.test(await page.textContent("#link")), 10);
      watchers.pop().abort();
      await live(page);
      await page.context().close();
    } finally {
      watchers.forEach((stop) => stop.abort());
      await balancer.stop();
    }
  });

  test("failures of callers are the headline, for a minute, also on a page opened later", async () => {
    const [url] = await simulate(["one"], '[[resources.faults]]\ntimes = 1\nfault = { kind = "status", status = 500 }');
    const [callers, admin] = await freePorts(2);
    const balancer = await serve(settings({ callers, admin, backends: [{ name: "one", url }] }));
    try {
      const chat = () => fetch(`http://127.0.0.1:${callers}/v1/chat/completions`, {
        method: "POST", headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "hi" }] }),
      });
      const listener = await open(browser, `http://127.0.0.1:${admin}/`);
      const heard = await listen(listener);
      assert.deepEqual([(await chat()).status, (await chat()).status], [500, 200]);
      await until("it is told to those who listen", async () => (await heard()).some((text) => text.startsWith("1 request failed in the last minute")));
      await listener.context().close();
      const page = await open(browser, `http://127.0.0.1:${admin}/`);
      assert.equal(await page.textContent("h1"), "1 request failed in the last minute");
      assert.equal(await page.textContent("#success"), "50.0 %");
      assert.match(await page.textContent("#success-note"), /^1 failed of 2 requests/);
      assert.match(await page.title(), /^! 1 request failed/);
      await page.context().close();
    } finally {
      await balancer.stop();
    }
  });

  test("quota left is a bar over its minute, and when nobody admits that is told aloud once", async () => {
    const [url] = await simulate(["one"]);
    const [callers, admin] = await freePorts(2);
    const balancer = await serve(settings({ callers, admin, backends: [{ name: "one", url }] }));
    try {
      const chat = () => fetch(`http://127.0.0.1:${callers}/v1/chat/completions`, {
        method: "POST", headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "hi" }] }),
      }).then(async (answer) => { await answer.text(); return answer.status; });
      assert.equal(await chat(), 200);
      const page = await open(browser, `http://127.0.0.1:${admin}/`);
      const quota = row(page, "one").locator(".quota");
      const share = (bar) => quota.locator(bar).evaluate((one) => one.getBoundingClientRect().width / one.parentElement.getBoundingClientRect().width);
      await until("what is left is told", async () => /^(99.9|100)M of 100M tokens$/.test(await quota.textContent()));
      assert.ok(await share(".fill") > .99 && await share(".minute") === 0, "full, and nobody knows when its minute began");
      const heard = await listen(page);
      const fault = { fault: { kind: "throttle", retry_after: "45" }, times: 1 };
      assert.ok((await fetch(`${url}/control/fault`, { method: "POST", body: JSON.stringify(fault) })).ok);
      assert.equal(await chat(), 429);
      const told = await until("until when is told", async () => (await quota.textContent()).match(/^\d+ of 100M tokensall again in (\d+) s$/));
      const minute = await share(".minute");
      assert.ok(await share(".fill") < .01 && minute > .3 && minute <= .76, `${told[1]} s, ${minute}`);
      assert.equal(await quota.getAttribute("data-level"), "out");
      const headlines = new Set();
      await until("the headline counts down", async () => headlines.add(await page.textContent("h1")).size > 4);
      const said = (await heard()).filter((text) => /^No backend admits; one is back in \d+ s/.test(text));
      assert.equal(said.length, 1, `told aloud once, and not with every second: ${await heard()}`);
      await page.context().close();
    } finally {
      await balancer.stop();
    }
  });

  test("callers are told by name, the heaviest first, a few at a time, and whose requests fail", async () => {
    const [url] = await simulate(["one"], '[[resources.faults]]\ntimes = 1\nfault = { kind = "status", status = 500 }');
    const [callers, admin] = await freePorts(2);
    const names = Array.from({ length: 8 }, (_, i) => `app-${i}`);
    const keys = `[callers]\nkeys = [${names.map((name) => `{ name = "${name}", key = "the-key-of-${name}-01234" }`).join(", ")}]\n`;
    const balancer = await serve(`${keys}${settings({ callers, admin, backends: [{ name: "one", url }] })}`);
    try {
      const chat = (name) => fetch(`http://127.0.0.1:${callers}/v1/chat/completions`, {
        method: "POST", headers: { "content-type": "application/json", "api-key": `the-key-of-${name}-01234` },
        body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "hi" }] }),
      }).then(async (answer) => { await answer.text(); return answer.status; });
      assert.equal(await chat("app-3"), 500);
      for (let i = 0; i < 12; i++) assert.equal(await chat("app-6"), 200);
      for (const name of names) assert.equal(await chat(name), 200);
      const page = await open(browser, `http://127.0.0.1:${admin}/`);
      assert.equal(await page.locator("#users tr").count(), 5);
      assert.equal(await page.locator("#users th").first().textContent(), "app-6");
      assert.match(await page.textContent("#subline"), /app-3: 1 failed in 5 min/);
      await page.getByRole("button", { name: "Show all 8" }).click();
      assert.deepEqual((await page.locator("#users th").allTextContents()).sort(), names);
      const failing = page.locator("#users tr", { has: page.locator("th", { hasText: "app-3" }) });
      assert.deepEqual(await failing.locator(".failed").allTextContents(), ["1"]);
      assert.deepEqual(await violations(page), []);
      await page.setViewportSize({ width: 320, height: 844 });
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
      await page.getByRole("button", { name: "Show the first 5" }).click();
      assert.equal(await page.locator("#users tr").count(), 5);
      assert.deepEqual(page.problems, []);
      await page.context().close();
    } finally {
      await balancer.stop();
    }
  });

  test("a backend without its credential is not in use, says why, and is in the headline", async () => {
    const [url] = await simulate(["one"]);
    const [callers, admin] = await freePorts(2);
    const identity = `identity = "client-secret"\ntenant_id = "t"\nclient_id = "c"\nclient_secret = "s"\nauthority = "http://127.0.0.1:9"`;
    const text = settings({ callers, admin, backends: [{ name: "one", url }, { name: "two" }] });
    const balancer = await serve(text.replace(/(name = "two"[^]*?)api_key = "k"/, `$1${identity}`));
    try {
      const page = await open(browser, `http://127.0.0.1:${admin}/`);
      await until("the cause is told", async () => /^two: not in use, no credential \(.+\)$/.test(await page.textContent("#subline")));
      assert.equal(await page.textContent("h1"), "Ready, but two has no credential");
      assert.equal(await page.getAttribute("h1", "data-tone"), "warm");
      assert.equal(await row(page, "two").locator(".state").textContent(), "Not in use: no credential");
      assert.equal(await row(page, "one").locator(".state").textContent(), "Admitting");
      assert.match(await row(page, "two").locator("summary").textContent(), /^No credential: .+/);
      assert.match(await page.textContent("#states"), /1 not in use/);
      await row(page, "two").locator("summary").click();
      await until("details are shown", async () => /Credentialmissing: .+; next try in /.test(await row(page, "two").locator(".more").textContent()));
      assert.deepEqual(await violations(page), []);
      await page.context().close();
    } finally {
      await balancer.stop();
    }
  });

  test("what was absorbed, cut off and refused for a caller's own limit is shown as the document tells it", async () => {
    const [callers, admin] = await freePorts(2);
    const balancer = await serve(settings({ callers, admin, backends: [{ name: "one" }] }));
    const url = `http://127.0.0.1:${admin}/`;
    const stage = await puppet(url);
    try {
      const status = await (await fetch(`${url}status`)).json();
      const one = { deployment: "gpt-4o", state: "admitting", quota: {}, failures: [], throttled_total: 40 };
      const caller = (name, more) => ({ name, requests: 50, failed: 0, tokens: 100, ...more });
      status.callers = { requests_total: 100, succeeded_total: 80, failed_total: 3 };
      status.deployments = undefined;
      status.by_caller = { lately_seconds: 300, others: 0, rest: null, callers: [caller("app"), caller("batch")] };
      status.backends[0] = { ...status.backends[0], throttled_total: 40, failed_total: 5, lanes: [one] };
      const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage();
      await page.goto(stage.url);
      await until("it listens", stage.watched);
      stage.tell("status", status);
      await until("an older balancer's figure is reckoned", async () => (await page.textContent("#absorbed")) === "42");
      assert.ok(!(await page.locator("th", { hasText: "Over limit" }).isVisible()), "no column for what there is not");

      Object.assign(status.callers, { absorbed_total: 31, cut_total: 2, limited_total: 17 });
      Object.assign(one, { absorbed_total: 28 });
      status.deployments = [{ name: "embed", limit_tokens: 60000, remaining_tokens: 60000 }, { name: "gpt-4o", limit_tokens: 90000, remaining_tokens: 12300 }];
      status.by_caller.callers = [caller("app"), caller("batch", { limited: 17 })];
      stage.tell("status", status);
      await until("the told figure is shown", async () => (await page.textContent("#absorbed")) === "31");
      assert.equal(await page.textContent("#success"), "96.3 %");
      assert.match(await page.textContent("#success-note"), /^3 failed, 2 of them cut off, of 100 requests.*; 17 over limit$/);
      assert.equal(await row(page, "one").locator("p.number .value").last().textContent(), "28");
      assert.equal(await page.textContent("#left"), "Tokens left: gpt-4o 12.3k of 90k, embed 60k of 60k");
      assert.deepEqual(await page.locator("#users .limited").allTextContents(), ["0", "17"]);
      const [red, limited] = await page.evaluate(() => [document.querySelector("#success"), document.querySelectorAll("#users .limited")[1]].map((one) => getComputedStyle(one).color));
      assert.notEqual(limited, red, "a limit that holds is no failure");
      assert.deepEqual(await violations(page), []);
      await page.setViewportSize({ width: 390, height: 844 });
      assert.ok(await page.locator("#users .limited").last().isVisible());
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
      assert.deepEqual(await violations(page), []);
      await page.context().close();
    } finally {
      stage.stop();
      await balancer.stop();
    }
  });

  test("two hundred backends stay usable: troubled first, filtered, quick", async () => {
    const names = Array.from({ length: 200 }, (_, i) => `backend-${String(i).padStart(3, "0")}`);
    const urls = await simulate(names);
    // Afterwards: so many resources might well take a port that was found free.
    const [callers, admin] = await freePorts(2);
    // The first choice of a request is the one at which nobody listens.
    const many = names.map((name, i) => ({ name, url: i === 150 ? undefined : urls[i], priority: i === 150 || i < 20 ? 1 : 2 }));
    const balancer = await serve(settings({ callers, admin, backends: many }));
    const url = `http://127.0.0.1:${admin}/`;
    try {
      // Turns of one conversation would stay together.
      let asked = 0;
      const chat = () => fetch(`http://127.0.0.1:${callers}/v1/chat/completions`, {
        method: "POST", headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: `question ${asked++}` }] }),
      }).then(async (answer) => { await answer.text(); return answer.status; });
      await until("the bad one was tried", async () => {
        assert.equal(await chat(), 200);
        const status = await (await fetch(`${url}status`)).json();
        return status.backends[150].state !== "admitting";
      });
      const page = await open(browser, url);
      assert.equal(await page.locator(".backend").count(), 200);
      assert.equal(await page.locator(".name").first().textContent(), "backend-150", "troubled first");
      assert.match(await page.textContent("#subline"), /backend-150: (resting after failures, back (in|any moment)|on trial)/);
      await page.getByLabel("Filter by backend or deployment").fill("-19");
      await until("the filter holds", async () => (await page.locator(".backend:visible").count()) === 10);
      await page.getByLabel("Filter by backend or deployment").fill("");
      await page.getByLabel("only troubled").check();
      await until("one is in trouble", async () => (await page.locator(".backend:visible").count()) === 1);
      await page.getByLabel("only troubled").uncheck();
      await until("all again", async () => (await page.locator(".backend").count()) === 200);
      assert.deepEqual(await violations(page), []);
      // Documents and countdowns touch what has changed, not two hundred rows; what stands still would touch nothing.
      const session = await page.context().newCDPSession(page);
      await session.send("Performance.enable");
      const busy = async () => (await session.send("Performance.getMetrics")).metrics.find((one) => one.name === "TaskDuration").value;
      await page.evaluate(() => {
        window.moved = new Map();
        const note = (records) => { const second = Math.floor(performance.now() / 1000); window.moved.set(second, (window.moved.get(second) ?? 0) + records.length); };
        new MutationObserver(note).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
      });
      const [from, since] = [await busy(), Date.now()];
      await until("five seconds", () => Date.now() - since > 5000);
      const share = (await busy() - from) * 1000 / (Date.now() - since);
      const moved = await page.evaluate(() => [...window.moved.values()]);
      console.log(`200 backends keep the browser ${(share * 100).toFixed(1)} % busy; changes of each second: ${moved}`);
      assert.ok(moved.length >= 3 && Math.max(...moved) < names.length, `changes of each second: ${moved}`);
      await page.setViewportSize({ width: 390, height: 844 });
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
      assert.deepEqual(page.problems, []);
      await page.context().close();
    } finally {
      await balancer.stop();
    }
  });

  test("what comes from outside is shown as text, whatever it is", async () => {
    const [callers, admin] = await freePorts(2);
    const balancer = await serve(settings({ callers, admin, backends: [{ name: "one" }] }));
    const url = `http://127.0.0.1:${admin}/`;
    try {
      const evil = "<img src=x onerror=alert(1)>";
      const status = await (await fetch(`${url}status`)).json();
      const lane = { deployment: evil, state: "cooling", remaining_ms: 5000, cause: evil, quota: {}, failures: [{ cause: evil, times: 1, ago_ms: 0 }] };
      status.by_caller = { lately_seconds: 300, others: 0, rest: null, callers: [{ name: evil, requests: 1, failed: 1, tokens: 1 }] };
      status.backends[0] = { ...status.backends[0], name: evil, url: evil, cause: evil, lanes: [lane] };
      const page = await (await browser.newContext()).newPage();
      await page.route("**/events", (route) => route.fulfill({ contentType: "text/event-stream", body: `event: status\ndata: ${JSON.stringify(status)}\n\n` }));
      await page.goto(url);
      await until("it is shown", async () => (await page.locator(".name").count()) === 1);
      assert.equal(await page.locator(".name").textContent(), evil);
      assert.equal(await page.locator(".deployment").textContent(), evil);
      assert.equal(await page.locator("#users th").textContent(), evil);
      await page.locator("summary").click();
      await page.locator(".backend").getByRole("button").click();
      assert.equal(await page.locator("dialog h2").textContent(), `Drain ${evil}?`);
      assert.equal(await page.locator("img").count(), 0);
      await page.context().close();
    } finally {
      await balancer.stop();
    }
  });
});
