// Single requests on the status page: the last that met trouble, and any of them by its id.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { after, before, describe, test } from "node:test";
import { chat, end, freePorts, launch, open, overflow, puppet, serve, settings, simulate, until, violations } from "./scene.mjs";

let browser;
before(async () => { browser = await launch(); });
after(async () => { await browser?.close(); await end(); });

const fault = (url, fault, times = 1) => fetch(`${url}/control/fault`, { method: "POST", body: JSON.stringify({ fault, times }) });
const told = (page) => page.locator("#troubles .came").allTextContents();
const idOf = (answer) => answer.headers.get("x-sidestep-request-id");

describe("requests that met trouble", () => {
  let balancer, callers, url, east, west;
  before(async () => {
    [east, west] = await simulate(["east", "west"]);
    let admin;
    [callers, admin] = await freePorts(2);
    balancer = await serve(settings({ callers, admin, backends: [{ name: "east", url: east }, { name: "west", url: west, priority: 2 }] }));
    url = `http://127.0.0.1:${admin}/`;
  });
  after(() => balancer?.stop());

  test("none is told in one calm sentence; one that is throttled appears by itself, with its backend and why", async () => {
    const page = await open(browser, url);
    const happy = await chat(callers);
    await until("it says that there is none", async () => (await page.textContent("#untroubled")) && page.locator("#untroubled").isVisible());
    assert.equal(await page.textContent("#requests-note"), "");
    const asked = [];
    page.on("request", (request) => { if (request.url().includes("/requests")) asked.push(request.url()); });
    await fault(east, { kind: "throttle", retry_after_ms: "50" });
    const answer = await chat(callers);
    assert.deepEqual([answer.status, answer.headers.get("x-sidestep-backend")], [200, "west"]);
    await until("it is shown", async () => (await told(page)).length === 1);
    assert.deepEqual(await told(page), ["served by west after east throttled 429"]);
    assert.match(await page.textContent("#troubles .for"), /^anonymous · gpt-4o$/);
    assert.match(await page.textContent("#troubles .when"), /^\d\d:\d\d:\d\d$/);
    assert.equal(await page.textContent("#troubles .id"), idOf(answer));
    assert.equal(await page.textContent("#requests-note"), "1 request since the start");
    assert.ok(!(await page.locator("#untroubled").isVisible()));
    // Asked when there is something new, and not otherwise.
    const before = asked.length;
    for (let i = 0; i < 3; i++) await chat(callers);
    await until("the happy ones are counted", async () => /^5 requests/.test(await page.textContent("#success-note")));
    assert.equal(asked.length, before);

    const find = page.getByLabel("Find a request by its id");
    await page.getByRole("link", { name: "Find a request" }).click();
    await until("the field has the focus", () => find.evaluate((field) => field === document.activeElement));
    await page.keyboard.insertText(`x-sidestep-request-id: ${idOf(answer).toUpperCase()}`);
    await until("it is found", async () => (await page.locator("#found .request").count()) === 1);
    assert.match(await page.textContent("#found"), /served by west after east throttled 429POST chat · status 200 · first byte \d.* · completed/);
    assert.ok(!(await page.locator("#troubles").isVisible()));
    await find.fill(idOf(happy));
    await until("it is said where it is instead", async () => /^Not among the last 1 requests that met trouble here\. What was served at the first attempt, .* is in the log alone; x-sidestep-backend of its answer/.test(await page.textContent("#sought")));
    assert.equal(await page.locator("#found .request").count(), 0);
    await find.fill("what is this");
    await until("it is said what an id is", async () => /^An id is 16 hexadecimal digits/.test(await page.textContent("#sought")));
    await find.fill("");
    await until("all are there again", async () => page.locator("#troubles .request").isVisible());
    assert.equal(await page.textContent("#news"), "Everyone is being served", "none of this is called out");
    assert.deepEqual(page.problems, []);
    await page.context().close();
  });

  test("one that was looked for in vain is shown as soon as it has met trouble", async () => {
    const [slow] = await simulate(["slow"], 'latency = { first_byte = "50ms", per_token = "400ms" }\n[[resources.faults]]\ntimes = 1\nfault = { kind = "cut_after_events", events = 8 }');
    const [callers, admin] = await freePorts(2);
    const balancer = await serve(settings({ callers, admin, backends: [{ name: "slow", url: slow }] }));
    try {
      const page = await open(browser, `http://127.0.0.1:${admin}/`);
      const answer = await chat(callers, { stream: true });
      await page.getByLabel("Find a request by its id").fill(idOf(answer));
      await until("it is not there yet", async () => /^Not among the last 0 requests/.test(await page.textContent("#sought")));
      await until("it is there", async () => (await page.locator("#found .came").allTextContents()).join() === "cut off by slow");
      await page.context().close();
    } finally {
      await balancer.stop();
    }
  });

  test("what failed is told among many that were absorbed, and what is marked or under the mouse stays", async () => {
    const page = await open(browser, url);
    await fault(east, { kind: "status", status: 500 });
    await fault(west, { kind: "status", status: 500 });
    const failed = await chat(callers);
    assert.equal(failed.status, 500);
    for (let i = 0; i < 12; i++) {
      await fault(east, { kind: "status", status: 408 });
      assert.equal((await chat(callers)).status, 200);
    }
    await page.locator("h1").hover();
    await until("the failed one is the last of eight", async () => {
      const all = await told(page);
      return all.length === 8 && all.filter((text) => text === "served by west after east timed out 408").length >= 5 && all.some((text) => /^failed: 500 from (east|west) after /.test(text));
    });
    await page.getByRole("button", { name: "Show more" }).click();
    await until("all are shown", async () => (await told(page)).length >= 13);
    await page.getByRole("button", { name: "Show fewer" }).click();
    await until("eight again", async () => (await told(page)).length === 8);

    const unmark = () => page.evaluate(() => document.getSelection().removeAllRanges());
    const away = () => page.locator("h1").hover();
    for (const [hold, release] of [
      [() => page.locator("#troubles .came").first().evaluate((one) => document.getSelection().selectAllChildren(one)), unmark],
      [() => page.locator("#troubles .came").first().hover(), away],
      // A click on an id marks it.
      [async () => { await page.locator("#troubles .id").first().click(); await away(); assert.equal(await page.evaluate(() => document.getSelection().toString().length), 16); }, unmark],
    ]) {
      await hold();
      const before = await page.locator("#troubles .id").allTextContents();
      await fault(east, { kind: "status", status: 408 });
      const newest = await chat(callers);
      await until("it is said that one waits", async () => (await page.textContent("#requests-note")) === "newer ones wait while you read");
      assert.deepEqual(await page.locator("#troubles .id").allTextContents(), before);
      await release();
      await until("it moves again", async () => (await page.locator("#troubles .id").first().textContent()) === idOf(newest));
    }
    await page.context().close();
  });

  test("on a phone a tap does not keep the newer ones away", async () => {
    const page = await open(browser, url, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
    await page.locator("#requests").scrollIntoViewIfNeeded();
    await until("some are shown", async () => (await told(page)).length > 0);
    await page.locator("#troubles .came").first().tap();
    await fault(east, { kind: "status", status: 408 });
    const newest = await chat(callers);
    await until("the newest is shown", async () => (await page.locator("#troubles .id").first().textContent()) === idOf(newest));
    await page.context().close();
  });

  for (const colorScheme of ["light", "dark"]) {
    test(`${colorScheme}: axe finds nothing and nothing is too wide, with the list and with one found`, async () => {
      const page = await open(browser, url, { colorScheme });
      await page.evaluate(() => document.getElementById("requests").scrollIntoView());
      await until("some are shown", async () => (await told(page)).length > 0);
      const id = await page.locator("#troubles .id").first().textContent();
      for (const width of [1280, 768, 390, 320]) {
        await page.setViewportSize({ width, height: 844 });
        for (const text of ["", id]) {
          await page.getByLabel("Find a request by its id").fill(text);
          await until("it is drawn", async () => page.locator(text ? "#found .request" : "#troubles .request").first().isVisible());
          assert.equal(await overflow(page), 0, `at ${width}`);
          if (width !== 768 && width !== 320) assert.deepEqual(await violations(page), []);
        }
      }
      await page.context().close();
    });
  }
});

test("each outcome has its words, and what comes from outside is shown as text", async () => {
  const [callers, admin] = await freePorts(2);
  const balancer = await serve(settings({ callers, admin, backends: [{ name: "one" }] }));
  const url = `http://127.0.0.1:${admin}/`;
  const stage = await puppet(url);
  try {
    const evil = "<img src=x onerror=alert(1)>";
    const tried = (backend, verdict, status = null, cause = undefined) => ({ backend, verdict, status, cause });
    const base = { time: new Date().toISOString(), outcome: "failed", caller: "app", method: "POST", operation: "chat", deployment: "gpt-4o", status: 200, backend: null, attempts: [], further_attempts: 0, held_ms: null, first_byte_ms: 3, total_ms: 5, ours_ms: .1, stream: false, ended: "completed", error: null };
    const cases = [
      [{ outcome: "succeeded", backend: "france", attempts: [tried("sweden", "throttled", 429), tried("west", "unreachable", null, "connect failed"), tried("france", "served", 200)] }, "served by france after sweden throttled 429 and west unreachable (connect failed)"],
      [{ outcome: "succeeded", backend: "west", held_ms: 240.2, attempts: [tried("west", "served", 200)] }, "held 240 ms, then served by west"],
      [{ status: 503, error: "no_backend", ended: "answered here" }, "failed: 503 no_backend"],
      [{ status: 429, error: "429", ended: "answered here" }, "failed: 429, no backend had room"],
      [{ status: 500, backend: "west", attempts: [tried("west", "failed", 500)] }, "failed: 500 from west"],
      [{ status: 502, error: "backend_failed", ended: "answered here", attempts: [tried("a", "unreachable", null, "dns failed")], further_attempts: 2 }, "failed: 502 backend_failed after a unreachable (dns failed) and 2 more attempts"],
      [{ outcome: "cut", backend: "west", ended: "upstream cut", attempts: [tried("west", "cut_off", 200)] }, "cut off by west"],
      [{ outcome: "cut", backend: "west", attempts: [tried("west", "throttled", 200)] }, "cut off by west, which said throttled"],
      [{ outcome: "cut", backend: "west", ended: "stopped here", attempts: [tried("west", "served", 200)] }, "cut off by Sidestep’s own stop"],
      [{ outcome: "limited", status: 429, error: "caller_limit", ended: "answered here" }, "over its own limit: 429 caller_limit"],
      [{ outcome: "other", status: 0, ended: "caller left", attempts: [tried("west", "abandoned")] }, "the caller left while west was asked"],
      [{ outcome: "other", status: 0, ended: "caller left", held_ms: 800 }, "the caller left after 800 ms in line"],
      [{ outcome: "other", status: 400, backend: "west", attempts: [tried("east", "throttled", 429), tried("west", "passed_back", 400)] }, "answered 400 by west after east throttled 429"],
      [{ caller: evil, deployment: evil, status: 500, backend: evil, attempts: [tried(evil, "failed", 500)] }, `failed: 500 from ${evil}`],
    ];
    const requests = cases.map(([more], n) => ({ ...base, ...more, id: n.toString(16).padStart(16, "0") }));
    const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage();
    await page.route("**/requests*", (route) => route.fulfill({ json: { kept: requests.length, requests, note: null } }));
    await page.goto(stage.url);
    await until("it listens", stage.watched);
    const status = await (await fetch(`${url}status`)).json();
    status.callers.troubled_total = requests.length;
    stage.tell("status", status);
    await page.getByRole("button", { name: "Show more" }).click();
    await until("all are shown", async () => (await told(page)).length === cases.length);
    assert.deepEqual(await told(page), cases.map(([, words]) => words));
    assert.equal(await page.locator("img").count(), 0);
    const colour = (n) => page.locator("#troubles .came b").nth(n).evaluate((one) => getComputedStyle(one).color);
    assert.notEqual(await colour(2), await colour(0), "failures differ from what was served");
    assert.deepEqual(await violations(page), []);
    await page.context().close();
  } finally {
    stage.stop();
    await balancer.stop();
  }
});

describe("what is asked for by hand", () => {
  let balancer, url, stage, page, status, total, hold;
  const asked = [];
  const request = (n) => ({
    id: n.toString(16).padStart(16, "0"), time: new Date().toISOString(), outcome: "succeeded", caller: "app", method: "POST", operation: "chat", deployment: "gpt-4o", status: 200, backend: "west",
    attempts: [], further_attempts: 0, held_ms: null, first_byte_ms: 3, total_ms: 5, ours_ms: .1, stream: false, ended: "completed", error: null,
  });
  const more = (by = 1) => { total += by; status.callers.troubled_total = total; stage.tell("status", status); };
  const ids = () => page.locator("#troubles .id").allTextContents();
  const shows = (n) => until(`${n} are shown, the newest first`, async () => { const all = await ids(); return all.length === n && all[0] === request(total).id; });
  const mark = (selector) => page.locator(selector).first().evaluate((one) => document.getSelection().selectAllChildren(one));
  const waits = async () => (await page.textContent("#requests-note")) === "newer ones wait while you read";
  const find = () => page.getByLabel("Find a request by its id");
  before(async () => {
    const [callers, admin] = await freePorts(2);
    balancer = await serve(settings({ callers, admin, backends: [{ name: "one" }] }));
    url = `http://127.0.0.1:${admin}/`;
    status = await (await fetch(`${url}status`)).json();
  });
  after(() => balancer?.stop());

  const onStage = (name, act) => test(name, async () => {
    [total, hold] = [0, null];
    asked.length = 0;
    stage = await puppet(url);
    page = await (await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage();
    await page.route("**/requests?*", async (route) => {
      const query = new URL(route.request().url()).searchParams, upTo = total;
      asked.push(String(query));
      const answer = await hold?.(query);
      if (answer === "none") return route.abort();
      const n = Math.min(upTo, Number(query.get("each")));
      return route.fulfill({ json: { kept: upTo, requests: Array.from({ length: n }, (_, i) => request(upTo - i)), note: query.get("id") ? "Not here." : null } });
    });
    await page.goto(stage.url);
    await until("it listens", stage.watched);
    await page.locator("#requests").scrollIntoViewIfNeeded();
    try {
      await act();
      await page.context().close();
    } finally {
      stage.stop();
    }
  });

  onStage("more is shown though fewer were being asked for when it was wished", async () => {
    more(40);
    await shows(8);
    let release;
    const held = new Promise((done) => { release = done; });
    hold = () => held;
    more();
    await until("the newest are asked for", () => asked.length === 2);
    await page.getByRole("button", { name: "Show more" }).click();
    hold = null;
    release();
    await shows(32);
    assert.deepEqual(asked, ["each=8", "each=8", "each=32"]);
    await page.getByRole("button", { name: "Show fewer" }).click();
    await shows(8);
  });

  onStage("more is shown by the keyboard while text is marked", async () => {
    more(40);
    await shows(8);
    await mark("#troubles .came");
    more();
    await until("one waits", waits);
    await page.getByRole("button", { name: "Show more" }).press("Enter");
    await shows(32);
    assert.equal(await page.getByRole("button", { name: "Show fewer" }).getAttribute("aria-expanded"), "true");
    more();
    await until("one waits again", waits);
  });

  onStage("a search that is over brings the whole list, whatever is marked", async () => {
    more(3);
    await shows(3);
    assert.ok(await page.locator("#sought").evaluate((one) => one.checkVisibility()), "a screen reader knows the place before anything is said there");
    await mark("#troubles .came");
    more();
    await until("one waits", waits);
    // The field does not get the focus, which would take the mark away.
    const type = (text) => find().evaluate((one, text) => { one.value = text; one.dispatchEvent(new Event("input")); }, text);
    await type("no id");
    await until("it is told", async () => /^An id is/.test(await page.textContent("#sought")));
    assert.ok(!(await page.locator("#troubles").isVisible()));
    assert.deepEqual(asked, ["each=8", "each=8"]);
    await mark("#requests-title");
    await type("");
    await shows(4);
    await until("the list is there", async () => page.locator("#troubles").isVisible());
    assert.ok(!(await page.locator("#untroubled").isVisible()));
    assert.equal(await page.textContent("#sought"), "");
  });

  onStage("that the balancer does not answer is told until it does", async () => {
    more(3);
    await shows(3);
    hold = () => "none";
    await find().fill(request(77).id);
    await until("it is told", async () => (await page.textContent("#sought")) === "The balancer does not answer.");
    hold = null;
    more(0);
    await until("it answers", async () => (await page.textContent("#sought")) === "Not here.");
    const before = asked.length;
    more(0);
    more(0);
    await find().fill("");
    await shows(3);
    assert.equal(asked.length, before, "what was answered is not asked for again");
  });
});

test("refused connections are the headline, for as long as they are of the last minute", async () => {
  const [callers, admin] = await freePorts(2);
  const balancer = await serve(settings({ callers, admin, backends: [{ name: "one" }] }));
  const url = `http://127.0.0.1:${admin}/`;
  const stage = await puppet(url);
  try {
    const page = await (await browser.newContext()).newPage();
    await page.goto(stage.url);
    await until("it listens", stage.watched);
    const status = await (await fetch(`${url}status`)).json();
    const now = (total) => { status.callers.connections_refused_total = total; stage.tell("status", status); };
    const says = (words) => until(words, async () => (await page.textContent("h1")) === words);
    let next = 20;
    const step = (refused, total) => stage.tell("step", { next: ++next, refused: [refused], refused_total: total });
    // 37 more than a minute ago, and 3 just within it.
    stage.tell("past", { step_ms: 5000, steps: 180, next, refused: [37, 3, ...Array(11).fill(0)], refused_total: 40 });
    now(40);
    await says("3 connections were refused in the last minute");
    step(0, 40);
    now(40);
    await says("Ready, and waiting for the first request");
    now(43);
    await says("3 connections were refused in the last minute");
    assert.match(await page.textContent("#subline"), /^limits\.connections is reached; what these callers ask is in no figure here/);
    assert.match(await page.title(), /^! 3 connections/);
    await until("it is told to those who listen", async () => /^3 connections were refused/.test(await page.textContent("#news")));
    step(3, 43);
    for (let i = 0; i < 11; i++) step(0, 43);
    now(43);
    await says("3 connections were refused in the last minute");
    step(0, 43);
    now(43);
    await says("Ready, and waiting for the first request");
    await page.context().close();
  } finally {
    stage.stop();
    await balancer.stop();
  }
});

test("a page opened after connections were refused says so", async () => {
  const [callers, admin] = await freePorts(2);
  const balancer = await serve(`${settings({ callers, admin, backends: [{ name: "one" }] })}\n[limits]\nconnections = 1\n`);
  const held = [];
  try {
    const dial = async () => { const socket = connect(callers, "127.0.0.1"); held.push(socket); await once(socket, "connect"); return socket; };
    await dial();
    for (let i = 0; i < 2; i++) {
      const refused = await dial();
      refused.resume();
      await once(refused, "close");
    }
    const page = await open(browser, `http://127.0.0.1:${admin}/`);
    assert.equal(await page.textContent("h1"), "2 connections were refused in the last minute");
    await page.context().close();
  } finally {
    for (const socket of held) socket.destroy();
    await balancer.stop();
  }
});
