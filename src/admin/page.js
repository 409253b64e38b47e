"use strict";
// The status page. Hears `/events`, draws what it hears. Everything from outside is put in as text, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const WORDS = {
    admitting: "Admitting", cooling: "Cooling", resting: "Resting after failures", probing: "On trial: one request first",
    refused: "Credential refused", absent: "Deployment not found", drained: "Drained",
  };
  const LETTERS = { a: "admitting", c: "cooling", r: "resting", p: "probing", f: "refused", x: "absent", d: "drained" };
  const ORDER = ["refused", "absent", "resting", "probing", "cooling", "drained", "unknown", "admitting"];
  const RATE_MS = 10000, WHY_MS = 2000, SILENT_MS = 6000, LONGEST_EVENT = 64 * 1024 * 1024, MANY = 8, MANY_LANES = 3, DENSE = 12, FEW = 5;

  // ---- words and numbers

  const grouped = new Intl.NumberFormat("en-US");
  const count = (n) => n < 1e7 ? grouped.format(Math.floor(n)) : `${(n / (n < 1e9 ? 1e6 : 1e9)).toFixed(1)}${n < 1e9 ? "M" : "G"}`;
  const short = (n) => n < 1e4 ? grouped.format(Math.floor(n)) : (n < 1e6 ? `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)}k` : `${(n / 1e6).toFixed(1)}M`).replace(".0", "");
  const rate = (n) => n < 9.95 ? n.toFixed(1) : grouped.format(Math.round(n));
  const several = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
  const pad = (n) => String(n).padStart(2, "0");
  const clock = (ms) => { const d = new Date(ms); return `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`; };
  /** 850 ms, 4.2 s, 1 min 05 s, 3 h 12 min, 2 days 4 h. */
  function span(ms) {
    if (ms < 1000) return `${Math.round(ms)} ms`;
    const s = ms / 1000;
    if (s < 9.95) return `${s.toFixed(1)} s`;
    if (s < 59.5) return `${Math.round(s)} s`;
    const m = Math.round(s / 60);
    if (s < 600) return `${Math.floor(Math.round(s) / 60)} min ${pad(Math.round(s) % 60)} s`;
    if (m < 60) return `${m} min`;
    if (m < 1440) return `${Math.floor(m / 60)} h ${pad(m % 60)} min`;
    return `${several(Math.floor(m / 1440), "day")} ${Math.floor(m % 1440 / 60)} h`;
  }
  const ago = (ms) => ms < 1500 ? "just now" : `${ms < 59500 ? `${Math.round(ms / 1000)} s` : span(Math.round(ms / 60000) * 60000).replace(" 00 s", "")} ago`;
  /** Never rounded up to 100. */
  function share(part, all) {
    if (!all) return "–";
    if (part >= all) return "100 %";
    if (!part) return "0 %";
    return `${(Math.floor(part / all * 1000) / 10).toFixed(1)} %`;
  }
  const number = (n) => typeof n === "number" && Number.isFinite(n) ? n : 0;
  const list = (l) => Array.isArray(l) ? l : [];
  const shownAs = (name) => name || "requests without a deployment";

  // ---- elements

  function make(tag, cls, text) {
    const element = document.createElement(tag);
    if (cls) element.className = cls;
    if (text !== undefined) element.textContent = text;
    return element;
  }
  function draw(tag, attributes) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }
  /** Writes only what differs, so that a selection and a screen reader are left alone. */
  function put(element, text) { if (element.textContent !== text) element.textContent = text; }
  function mark(element, name, value) { if (element.dataset[name] !== value) element.dataset[name] = value; }

  // ---- what is known

  let doc = null, heard = 0;                    // the last document, and when it came (performance.now)
  let past = { step: 5000, steps: 180, next: 0, ended: 0, failed: [], total: 0, lanes: new Map() };
  const points = [];                            // totals of the last seconds, for rates
  const views = new Map();                      // by backend
  const full = new Map();                       // how long a cooldown was when first seen, by lane
  let link = { state: "waiting", since: Date.now(), why: "" };
  const key = (backend, deployment) => `${backend}\u0000${deployment}`;

  function lanesOf(backend) {
    const lanes = list(backend.lanes);
    return lanes.length ? lanes : [{ ...backend, deployment: null, quota: {}, failures: [] }];
  }
  function stateOf(of) { return of.state in WORDS ? of.state : "unknown"; }
  function leftOf(of) { return of.remaining_ms == null ? null : Math.max(0, of.remaining_ms - (performance.now() - heard)); }

  function absorbed(of) {
    const all = list(of.backends).reduce((sum, b) => sum + number(b.throttled_total) + number(b.failed_total), 0);
    return Math.max(0, all - number(of.callers.failed_total));
  }

  function keepPoint() {
    const uptime = number(doc.uptime_seconds), newest = points.at(-1);
    if (newest && uptime < newest.uptime) points.length = 0;
    // Changes come between the seconds; rates need no more than one point for each.
    else if (newest && heard - newest.at < 800) return;
    const lanes = new Map();
    for (const b of list(doc.backends)) {
      for (const lane of lanesOf(b)) lanes.set(key(b.name, lane.deployment ?? ""), [number(lane.requests_total), number(lane.tokens_total)]);
    }
    const tokens = number(doc.tokens.prompt_total) + number(doc.tokens.completion_total);
    const point = { at: heard, uptime, requests: number(doc.callers.requests_total), tokens, lanes };
    points.push(point);
    while (points.length > 2 && heard - points[0].at > 2 * RATE_MS) points.shift();
  }
  function before() { return points.find((p) => heard - p.at <= RATE_MS + 500) ?? points[0]; }
  function perSecond(read) {
    const first = before(), last = points[points.length - 1];
    if (!first || last.at - first.at < 900) return null;
    const from = read(first), to = read(last);
    return from === undefined || to === undefined || to < from ? null : (to - from) * 1000 / (last.at - first.at);
  }

  // ---- the top

  function headline() {
    const backends = list(doc.backends), failed = failedWithin(60000);
    const admitting = backends.filter(admits), away = awayFrom(backends);
    let tone = "good", text = "Everyone is being served";
    if (doc.draining) [tone, text] = ["warm", "Draining: this balancer is about to stop"];
    else if (backends.length && !admitting.length) {
      const back = soonest(away);
      [tone, text] = ["bad", back ? `No backend admits; ${back.who} is back in ${span(leftOf(back.of))}` : "No backend admits"];
    } else if (failed) [tone, text] = ["bad", `${several(failed, "request")} failed in the last minute`];
    else if (unserved(backends)) [tone, text] = ["warm", unserved(backends)];
    else if (!number(doc.callers.requests_total)) text = "Ready, and waiting for the first request";
    put($("headline"), text);
    mark($("headline"), "tone", tone);
    const parts = tone === "bad" && failed ? list(doc.by_caller?.callers).filter((c) => number(c.failed)).slice(0, 2).map((c) => `${c.name}: ${count(number(c.failed))} failed in ${Math.round(lately() / 60000)} min`) : [];
    const told = away.slice(0, 3).map(({ who, of, why }) => {
      const left = leftOf(of);
      return `${who}: ${why}${left == null ? "" : `, back in ${span(left)}`}`;
    });
    if (backends.length && !told.length) parts.push(backends.length === 1 ? "The one backend admits" : `All ${backends.length} backends admit`);
    parts.push(...told);
    if (away.length > told.length) parts.push(`${away.length - told.length} more away`);
    put($("subline"), parts.join(" · "));
    document.title = `${tone === "bad" ? "! " : ""}${tone === "good" && away.length ? `${away.length} away` : text} – Sidestep`;
  }
  /** Requests of callers that failed, since before this page was opened too. */
  function failedWithin(ms) {
    const steps = past.failed.slice(-Math.round(ms / past.step));
    return steps.reduce((a, b) => a + b, 0) + Math.max(0, number(doc.callers.failed_total) - past.total);
  }
  const admits = (of) => stateOf(of) === "admitting" && of.credential !== "missing";
  /** Backends that are away as a whole, and single lanes of the others; those that are back first come first. */
  function awayFrom(backends) {
    const away = [];
    for (const b of backends) {
      const lanes = list(b.lanes);
      if (b.credential === "missing") away.push({ who: b.name, of: {}, why: "no credential" });
      else if (!admits(b) && (lanes.length < 2 || b.drained)) away.push({ who: b.name, of: b, why: (WORDS[b.state] ?? "unknown").toLowerCase() });
      else for (const lane of lanes) if (!admits(lane)) away.push({ who: `${b.name}${lanes.length > 1 ? ` ${shownAs(lane.deployment)}` : ""}`, of: lane, why: (WORDS[lane.state] ?? "unknown").toLowerCase() });
    }
    const left = ({ of }) => of.remaining_ms ?? Infinity;
    return away.sort((x, y) => left(x) - left(y) || 0);
  }
  const soonest = (away) => away.find(({ of }) => of.remaining_ms != null);
  /** A deployment that no backend takes now. One that was never asked for it may still have it. */
  function unserved(backends) {
    const by = new Map();
    for (const b of backends) for (const lane of list(b.lanes)) by.set(lane.deployment, [...(by.get(lane.deployment) ?? []), { who: b.name, of: lane }]);
    for (const [deployment, lanes] of by) {
      const others = backends.length - lanes.length - backends.filter((b) => !admits(b) && !list(b.lanes).some((l) => l.deployment === deployment)).length;
      if (lanes.some(({ of }) => admits(of)) || others > 0) continue;
      const back = soonest(lanes.sort((x, y) => (x.of.remaining_ms ?? Infinity) - (y.of.remaining_ms ?? Infinity)));
      return `No backend admits ${shownAs(deployment)}${back ? `; ${back.who} is back in ${span(leftOf(back.of))}` : ""}`;
    }
    return "";
  }

  function figures() {
    const { callers, tokens } = doc, failed = number(callers.failed_total);
    put($("success"), share(number(callers.succeeded_total), number(callers.succeeded_total) + failed));
    mark($("success"), "tone", failed ? "bad" : "good");
    const requests = perSecond((p) => p.requests);
    put($("success-note"), `${failed ? `${count(failed)} failed of ` : ""}${several(number(callers.requests_total), "request")}${requests == null ? "" : `, ${rate(requests)}/s`}`);
    put($("absorbed"), count(absorbed(doc)));
    put($("absorbed-note"), "429s and errors that no caller saw");
    const prompt = number(tokens.prompt_total), served = prompt + number(tokens.completion_total);
    put($("tokens"), count(served));
    const flow = perSecond((p) => p.tokens);
    put($("tokens-note"), flow == null ? "prompts and answers" : `${rate(flow)}/s now`);
    put($("cached"), share(number(tokens.cached_total), prompt));
    put($("cached-note"), `${count(number(tokens.cached_total))} of ${count(prompt)} prompt tokens`);
    put($("version"), String(doc.version ?? ""));
    put($("about"), `Up ${span(number(doc.uptime_seconds) * 1000)} · callers: ${doc.listen ?? "–"} · ${several(number(callers.in_flight), "request")} in flight · ${several(number(callers.failovers_total), "failover")} · ${count(number(callers.exhausted_total))} exhausted`);
  }

  // ---- who uses it

  const users = new Map();                      // rows by caller
  let everybody = false, usersOrder = "";
  const lately = () => (number(doc.by_caller?.lately_seconds) || 300) * 1000;
  function userRow() {
    const row = make("tr"), name = make("th"), share = make("td", "share"), rail = make("div", "rail");
    name.scope = "row";
    const view = { row, name, fill: make("div", "fill"), part: make("span", "part"), sums: ["Tokens", "Requests", "Failed"].map(() => make("td", "sum")) };
    rail.append(view.fill);
    const box = make("div", "of");
    box.append(rail, view.part);
    share.append(box);
    row.append(name, share, ...view.sums);
    return view;
  }
  function callers() {
    const told = doc.by_caller ?? {}, all = list(told.callers), rest = number(told.others) ? told.rest ?? {} : null;
    const tokens = [...all, rest ?? {}].reduce((sum, one) => sum + number(one.tokens), 0);
    const active = all.filter((one) => number(one.requests)).length;
    $("callers").hidden = !all.length;
    put($("callers-note"), active ? `in the last ${Math.round(lately() / 60000)} minutes` : `nobody in the last ${Math.round(lately() / 60000)} minutes`);
    const shown = (everybody ? all : all.slice(0, FEW)).map((one) => [one.name, one]);
    if (everybody && rest) shown.push([`${several(number(told.others), "other")}`, rest]);
    const seen = new Set();
    shown.forEach(([name, one], place) => {
      const id = place < all.length ? `c${name}` : "rest";
      seen.add(id);
      if (!users.has(id)) users.set(id, userRow());
      const view = users.get(id), part = tokens ? number(one.tokens) / tokens : 0;
      put(view.name, name);
      view.fill.style.transform = `scaleX(${part.toFixed(4)})`;
      put(view.part, tokens ? (part && part < .01 ? "<1 %" : `${Math.round(part * 100)} %`) : "–");
      const sums = [short(number(one.tokens)), count(number(one.requests)), count(number(one.failed))];
      view.sums.forEach((cell, at) => { put(cell, sums[at]); cell.classList.toggle("zero", sums[at] === "0"); });
      view.sums[2].classList.toggle("failed", number(one.failed) > 0);
    });
    for (const id of users.keys()) if (!seen.has(id)) users.delete(id);
    const order = JSON.stringify([...seen]);
    if (order !== usersOrder) { usersOrder = order; $("users").replaceChildren(...[...seen].map((id) => users.get(id).row)); }
    const button = $("all-callers"), more = all.length + number(told.others);
    button.hidden = more <= FEW;
    put(button, everybody ? `Show the first ${FEW}` : `Show all ${count(more)}`);
    button.setAttribute("aria-expanded", String(everybody));
  }
  $("all-callers").addEventListener("click", () => { everybody = !everybody; callers(); });

  // ---- rows

  function laneView() {
    const view = { row: make("li", "lane"), full: 0 };
    const who = make("div", "who"), text = make("div");
    view.mark = draw("svg", { class: "mark", viewBox: "0 0 18 18", "aria-hidden": "true" });
    view.name = make("p", "name");
    view.deployment = make("p", "deployment");
    view.state = make("p", "state");
    text.append(view.name, view.deployment, view.state);
    who.append(view.mark, text);
    const box = make("div", "past");
    view.canvas = make("canvas");
    view.canvas.setAttribute("role", "img");
    box.append(view.canvas);
    view.quota = make("div", "quota");
    // What is left of the quota, and below it what is left of its minute.
    const rails = make("div", "rails"), rail = make("div", "rail");
    view.fill = make("div", "fill");
    rail.append(view.fill);
    view.minute = make("div", "minute");
    rails.append(rail, view.minute);
    const left = make("p");
    [view.count, view.of, view.restart] = [make("b"), make("span"), make("span", "restart")];
    left.append(view.count, view.of, view.restart);
    view.quota.append(rails, left);
    view.row.append(who, box, view.quota);
    view.numbers = ["Requests/s", "Tokens/s", "First byte", "429s absorbed"].map((label) => {
      const cell = make("p", "number"), value = make("span", "value", "–");
      cell.append(make("span", "label", label), make("span", "hidden", `${label}: `), value);
      cell.firstChild.setAttribute("aria-hidden", "true");
      view.row.append(cell);
      return { cell, value };
    });
    view.act = make("div", "act");
    view.row.append(view.act);
    view.canvas.addEventListener("pointermove", (event) => point(view, event));
    view.canvas.addEventListener("pointerleave", unpoint);
    return view;
  }

  /** The sign of a state: a shape of its own for each, and while it cools a pie that empties. */
  function sign(view, state) {
    if (view.signed === state) return;
    view.signed = state;
    const parts = [];
    view.pie = null;
    if (state === "admitting") parts.push(draw("circle", { class: "dot", cx: 9, cy: 9, r: 5 }));
    else if (state === "drained") parts.push(draw("path", { class: "sign", d: "M6.5 4.5v9M11.5 4.5v9" }));
    else if (state === "refused") parts.push(draw("circle", { class: "sign", cx: 9, cy: 9, r: 6 }), draw("path", { class: "sign", d: "M5 5l8 8" }));
    else if (state === "absent") parts.push(draw("circle", { class: "sign", cx: 9, cy: 9, r: 6, "stroke-dasharray": "2.6 3.6" }));
    else if (state === "probing") parts.push(draw("circle", { class: "rim", cx: 9, cy: 9, r: 6 }), draw("circle", { class: "dot", cx: 9, cy: 9, r: 2.5 }));
    else if (state === "cooling" || state === "resting") {
      view.pie = draw("circle", { class: "pie", cx: 9, cy: 9, r: 3, pathLength: 100, "stroke-dasharray": "100 100" });
      parts.push(draw("circle", { class: "rim", cx: 9, cy: 9, r: 7.5 }), view.pie);
    } else parts.push(draw("circle", { class: "rim", cx: 9, cy: 9, r: 6 }));
    view.mark.replaceChildren(...parts);
  }

  function backendView(name) {
    const view = { box: make("li", "backend"), lanes: new Map(), ul: make("ul"), name };
    view.button = make("button", "quiet");
    view.button.type = "button";
    view.button.addEventListener("click", () => ask(name));
    view.details = make("details");
    view.summary = make("summary");
    view.more = make("div", "more");
    view.why = make("div", "why");
    view.details.append(view.summary, view.more);
    view.details.addEventListener("toggle", () => { const b = find(name); if (b) more(view, b); });
    view.box.append(view.ul, view.details);
    return view;
  }
  const find = (name) => list(doc?.backends).find((b) => b.name === name);

  function fillBackend(view, b) {
    const lanes = lanesOf(b), seen = new Set();
    lanes.forEach((lane, place) => {
      const id = lane.deployment ?? "";
      seen.add(id);
      let row = view.lanes.get(id);
      if (!row) { row = laneView(); row.id = key(b.name, id); view.lanes.set(id, row); }
      row.lane = lane;
      fillLane(row, b, lane, place === 0);
      if (view.ul.children[place] !== row.row) view.ul.insertBefore(row.row, view.ul.children[place] ?? null);
      if (place === 0 && view.button.parentNode !== row.act) row.act.append(view.button);
    });
    for (const [id, row] of view.lanes) if (!seen.has(id)) { row.row.remove(); view.lanes.delete(id); }
    put(view.button, b.drained ? "Resume" : "Drain");
    const label = `${b.drained ? "Resume" : "Drain"} ${b.name}`;
    if (view.button.getAttribute("aria-label") !== label) view.button.setAttribute("aria-label", label);
    const failures = lanes.flatMap((lane) => list(lane.failures)).sort((x, y) => x.ago_ms - y.ago_ms);
    put(view.summary, failures.length ? `Last trouble: ${failures[0].cause}, ${ago(failures[0].ago_ms)}` : "Details");
    if (view.details.open) more(view, b);
  }

  function fillLane(row, b, lane, leads) {
    const state = stateOf(lane);
    mark(row.row, "state", state);
    sign(row, state);
    put(row.name, leads ? b.name : "");
    row.name.hidden = !leads;
    put(row.deployment, lane.deployment == null ? "no requests yet" : shownAs(lane.deployment));
    countdown(row);
    const quota = lane.quota ?? {}, limit = number(quota.limit_tokens), remaining = quota.remaining_tokens;
    if (limit && remaining != null) {
      const part = Math.min(1, remaining / limit);
      mark(row.quota, "level", part < .1 ? "out" : part < .25 ? "low" : "well");
      row.fill.style.transform = `scaleX(${part.toFixed(4)})`;
      const restart = quota.restart_ms == null ? null : Math.min(60000, quota.restart_ms);
      row.minute.style.transform = `scaleX(${restart == null || part >= 1 ? 0 : (restart / 60000).toFixed(4)})`;
      put(row.count, short(remaining));
      put(row.of, ` of ${short(limit)} tokens`);
      put(row.restart, restart == null || part >= 1 ? "" : `all again in ${Math.ceil(restart / 1000)} s`);
    } else {
      mark(row.quota, "level", "unknown");
      row.fill.style.transform = row.minute.style.transform = "scaleX(0)";
      put(row.count, "");
      put(row.of, limit ? `of ${short(limit)} tokens` : "quota not told");
      put(row.restart, "");
    }
    const requests = perSecond((p) => p.lanes.get(row.id)?.[0]), tokens = perSecond((p) => p.lanes.get(row.id)?.[1]);
    const texts = [requests == null ? "–" : rate(requests), tokens == null ? "–" : rate(tokens),
      lane.first_byte_ms == null ? "–" : span(lane.first_byte_ms), count(number(lane.throttled_total))];
    const zero = [!requests, !tokens, lane.first_byte_ms == null, !number(lane.throttled_total)];
    row.numbers.forEach(({ cell, value }, place) => { put(value, texts[place]); cell.classList.toggle("zero", zero[place]); });
  }

  function countdown(row) {
    const lane = row.lane, left = leftOf(lane), state = stateOf(lane);
    let text = WORDS[state] ?? "Unknown";
    if (left != null) {
      if (left > row.full || row.counted !== state) row.full = left;
      row.counted = state;
      text += left < 50 ? ", back any moment" : `, ${calm.matches ? span(Math.ceil(left / 1000) * 1000) : span(left)} left`;
      row.pie?.setAttribute("stroke-dasharray", `${(100 * left / Math.max(row.full, 1)).toFixed(1)} 100`);
    } else {
      row.full = 0;
      row.pie?.setAttribute("stroke-dasharray", "100 100");
    }
    put(row.state, text);
  }

  function more(view, b) {
    const facts = make("dl");
    const fact = (name, value) => facts.append(make("dt", "", name), make("dd", "", value));
    fact("Address", String(b.url ?? ""));
    fact("Priority, weight", `${b.priority}, ${b.weight}`);
    if (b.credential === "missing") fact("Credential", "missing");
    if (b.cause) fact("Away because of", b.cause);
    fact("In flight", count(number(b.in_flight)));
    fact("Attempts", `${count(number(b.requests_total))}: ${count(number(b.served_total))} served, ${count(number(b.throttled_total))} throttled, ${count(number(b.failed_total))} failed`);
    fact("Tokens", count(number(b.tokens_total)));
    const left = make("div"), right = make("div");
    left.append(facts);
    const failures = lanesOf(b).flatMap((lane) => list(lane.failures).map((f) => ({ ...f, of: lane.deployment })));
    if (failures.length) {
      const ul = make("ul");
      for (const f of failures.sort((x, y) => x.ago_ms - y.ago_ms)) {
        const li = make("li");
        const where = list(b.lanes).length > 1 ? `${shownAs(f.of)}: ` : "";
        li.append(make("span", "", `${where}${f.cause}`), make("span", "", `${count(f.times)}×`), make("span", "", ago(f.ago_ms)));
        ul.append(li);
      }
      right.append(make("h3", "", "Last troubles"), ul);
    }
    right.append(view.why);
    view.more.replaceChildren(left, right);
    why(view, b);
  }

  /** Who would serve its deployments now; asked every two seconds while somebody looks. */
  async function why(view, b) {
    const now = performance.now();
    if (view.asking || (view.asked && now - view.asked < WHY_MS)) return;
    view.asked = now;
    view.asking = true;
    const lanes = list(b.lanes);
    try {
      const told = await Promise.all(lanes.slice(0, MANY_LANES).map(async (lane) => {
        const query = new URLSearchParams({ deployment: lane.deployment, backend: b.name });
        return [lane, await (await fetch(address(`explain?${query}`), { cache: "no-store", signal: AbortSignal.timeout(SILENT_MS) })).json()];
      }));
      const left = lanes.length - MANY_LANES;
      view.why.replaceChildren(...told.flatMap(([lane, explained]) => {
        const ul = make("ul"), all = list(explained.backends);
        for (const one of all.slice(0, MANY)) {
          const li = make("li", one.turn === "not" ? "not" : "");
          li.append(make("span", "", one.name), make("span", "", one.text));
          ul.append(li);
        }
        if (all.length > MANY) ul.append(make("li", "", `and ${all.length - MANY} more`));
        return [make("h3", "", `Who would serve ${shownAs(lane.deployment)} now`), explained.error ? make("p", "", explained.error) : ul];
      }), ...(left > 0 ? [make("p", "", `and ${left} more deployments`)] : []));
    } catch {
      // Whether the balancer answers is said at the top.
    } finally {
      view.asking = false;
    }
  }

  // ---- the list: groups, order, filter

  let order = "";
  function rows() {
    const backends = list(doc.backends), text = $("filter").value.trim().toLowerCase(), only = $("troubled").checked;
    const many = backends.length > MANY;
    $("tools").hidden = !many;
    $("list").classList.toggle("dense", backends.length > DENSE);
    const shown = backends.filter((b) => (!many || !only || troubled(b)) && (!many || !text ||
      b.name.toLowerCase().includes(text) || list(b.lanes).some((lane) => lane.deployment.toLowerCase().includes(text))));
    const priorities = [...new Set(shown.map((b) => b.priority))].sort((a, b) => a - b);
    const rank = (b) => Math.min(...lanesOf(b).map((lane) => ORDER.indexOf(stateOf(lane))));
    const groups = priorities.map((priority) => {
      const of = shown.filter((b) => b.priority === priority);
      return [priority, many ? of.map((b, at) => [rank(b), at, b]).sort((x, y) => x[0] - y[0] || x[1] - y[1]).map((x) => x[2]) : of];
    });
    for (const b of shown) {
      if (!views.has(b.name)) views.set(b.name, backendView(b.name));
      fillBackend(views.get(b.name), b);
    }
    for (const name of [...views.keys()]) if (!find(name)) views.delete(name);
    arrange(groups, priorities.length > 1);
    $("nothing").hidden = shown.length > 0;
    put($("nothing"), backends.length ? (only && !text ? "All well: no backend is in trouble." : "No backend matches.") : "No backend is set.");
    const counts = new Map();
    const lanes = backends.flatMap(lanesOf);
    for (const lane of lanes) counts.set(stateOf(lane), (counts.get(stateOf(lane)) ?? 0) + 1);
    put($("states"), `${several(lanes.length, "lane")}: ${[...counts].sort((x, y) => y[1] - x[1]).map(([state, n]) => `${n} ${state}`).join(", ")}`);
  }
  const troubled = (b) => stateOf(b) !== "admitting" || b.credential === "missing" || lanesOf(b).some((lane) => stateOf(lane) !== "admitting");

  /** Moves rows only where their order has changed, and not under somebody's hand. */
  function arrange(groups, titled) {
    const wanted = JSON.stringify(groups.map(([priority, of]) => [titled ? priority : null, of.map((b) => b.name)]));
    if (wanted === order) return;
    const members = (text) => JSON.stringify(JSON.parse(text || "[]").flatMap((group) => group[1]).sort());
    const busy = $("list").contains(document.activeElement) || $("list").matches(":hover");
    if (busy && members(wanted) === members(order)) return;
    order = wanted;
    $("list").replaceChildren(...groups.flatMap(([priority, of]) => {
      const ul = make("ul");
      ul.append(...of.map((b) => views.get(b.name).box));
      if (!titled) { ul.setAttribute("aria-labelledby", "backends-title"); return [ul]; }
      const title = make("h3", "group", `Priority ${priority}${of.length > MANY ? ` · ${several(of.length, "backend")}` : ""}`);
      title.id = `priority-${priority}`;
      ul.setAttribute("aria-labelledby", title.id);
      return [title, ul];
    }));
    paintAll();
  }

  // ---- the timeline

  let colours = {};
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    colours = { served: of("--good-fill"), throttled: of("--warm-fill"), failed: of("--bad-fill"), line: of("--line"),
      cooling: of("--warm-band"), resting: of("--bad-band"), refused: of("--bad-band"), absent: of("--bad-band"), probing: of("--look-band"), drained: of("--idle-band") };
  }

  function takePast(told) {
    past = { step: number(told.step_ms) || 5000, steps: number(told.steps) || 180, next: number(told.next), ended: Date.now(), failed: list(told.failed), total: number(told.failed_total), lanes: new Map() };
    for (const lane of list(told.lanes)) {
      past.lanes.set(key(lane.backend, lane.deployment), { served: list(lane.served), throttled: list(lane.throttled), failed: list(lane.failed), states: String(lane.states ?? "") });
    }
  }
  /** False: something in between was missed. */
  function takeStep(told) {
    if (number(told.next) !== past.next + 1) return false;
    past.next++;
    past.ended = Date.now();
    past.failed = [...past.failed, number(list(told.failed).at(-1))].slice(-past.steps);
    past.total = number(told.failed_total);
    const seen = new Set();
    for (const lane of list(told.lanes)) {
      const id = key(lane.backend, lane.deployment);
      seen.add(id);
      if (!past.lanes.has(id)) past.lanes.set(id, { served: [], throttled: [], failed: [], states: "" });
      const track = past.lanes.get(id);
      for (const name of ["served", "throttled", "failed"]) {
        track[name].push(number(list(lane[name]).at(-1)));
        if (track[name].length > past.steps) track[name].shift();
      }
      track.states = (track.states + (String(lane.states ?? "").at(-1) ?? "-")).slice(-past.steps);
    }
    for (const id of [...past.lanes.keys()]) if (!seen.has(id)) past.lanes.delete(id);
    return true;
  }

  function paintAll() {
    if (!colours.served) readColours();
    let most = 4;
    for (const track of past.lanes.values()) for (const n of track.served) if (n > most) most = n;
    for (const view of views.values()) for (const row of view.lanes.values()) paint(row, most);
  }

  function paint(row, most) {
    const track = past.lanes.get(row.id) ?? { served: [], throttled: [], failed: [], states: "" };
    const { canvas } = row, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    const sharp = Math.min(3, devicePixelRatio || 1);
    const [w, h] = [Math.round(width * sharp), Math.round(height * sharp)];
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    const pen = canvas.getContext("2d"), n = track.served.length, dot = Math.round(3 * sharp);
    pen.clearRect(0, 0, w, h);
    const x = (step) => Math.round(w - (n - step) * w / past.steps);
    const floor = h - Math.round(sharp), room = floor - 2 * dot - Math.round(2 * sharp);
    for (let i = 0; i < n; i++) {
      const [from, to] = [x(i), x(i + 1)], band = colours[LETTERS[track.states[i]]];
      if (band) { pen.fillStyle = band; pen.fillRect(from, 0, to - from, floor); }
    }
    pen.fillStyle = colours.line;
    pen.fillRect(0, floor, w, h - floor);
    const hair = Math.max(1, Math.round(sharp / 2));
    for (const third of [0, 1 / 3, 2 / 3, 1]) pen.fillRect(Math.min(w - hair, Math.round(w * third)), 0, hair, h);
    for (let i = 0; i < n; i++) {
      const from = x(i), wide = Math.max(1, x(i + 1) - from - (w / past.steps > 3 * sharp ? Math.round(sharp) : 0));
      if (track.served[i]) {
        const tall = Math.max(Math.round(1.5 * sharp), Math.round(room * track.served[i] / most));
        pen.fillStyle = colours.served;
        pen.fillRect(from, floor - tall, wide, tall);
      }
      if (track.throttled[i]) { pen.fillStyle = colours.throttled; pen.fillRect(from, 0, Math.max(wide, Math.round(2 * sharp)), dot); }
      if (track.failed[i]) { pen.fillStyle = colours.failed; pen.fillRect(from, dot, Math.max(wide, Math.round(2 * sharp)), dot); }
    }
    const sum = (of) => of.reduce((a, b) => a + b, 0);
    const away = [...track.states].filter((letter) => letter in LETTERS && letter !== "a").length * past.step;
    const label = n ? `Last ${span(n * past.step)}: ${count(sum(track.served))} served, ${several(sum(track.throttled), "429")}, ${several(sum(track.failed), "failure")}, away for ${away ? span(away) : "no time"}` : "No past yet";
    if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
  }

  /** The same moment in every row, and its story in words. */
  function point(row, event) {
    const box = row.canvas.getBoundingClientRect(), at = Math.min(box.width - 1, Math.max(0, event.clientX - box.left));
    $("list").style.setProperty("--cursor", `${at}px`);
    $("list").style.setProperty("--cursor-shown", "1");
    const track = past.lanes.get(row.id), back = Math.floor((box.width - at) / box.width * past.steps), i = (track?.served.length ?? 0) - 1 - back;
    const when = clock(past.ended - (back + 1) * past.step);
    if (i < 0 || !(track.states[i] in LETTERS)) { put($("readout"), `${when}: not seen`); return; }
    const parts = [`${count(track.served[i])} served`];
    if (track.throttled[i]) parts.push(several(track.throttled[i], "429"));
    if (track.failed[i]) parts.push(`${count(track.failed[i])} failed`);
    if (track.states[i] !== "a") parts.push(LETTERS[track.states[i]]);
    put($("readout"), `${when}: ${parts.join(", ")}`);
  }
  function unpoint() {
    $("list").style.setProperty("--cursor-shown", "0");
    put($("readout"), "");
  }

  // ---- news for those who listen

  const lastStates = new Map();
  let news = [], newsTimer = 0;
  function tellNews() {
    for (const b of list(doc.backends)) {
      const state = stateOf(b), was = lastStates.get(b.name);
      lastStates.set(b.name, state);
      if (was === undefined || was === state) continue;
      const left = leftOf(b);
      news.push(`${b.name}: ${(WORDS[state] ?? "unknown").toLowerCase()}${left == null ? "" : `, back in ${span(Math.ceil(left / 1000) * 1000)}`}`);
    }
    if (news.length && !newsTimer) {
      newsTimer = setTimeout(() => {
        put($("news"), news.length > 3 ? `${news.length} backends changed state` : news.join(". "));
        [news, newsTimer] = [[], 0];
      }, 1000);
    }
  }

  // ---- drain and resume

  let asked = null;
  function ask(name) {
    const b = find(name);
    if (!b) return;
    asked = { name, verb: b.drained ? "resume" : "drain" };
    const others = list(doc.backends).filter((o) => o.name !== name && stateOf(o) === "admitting").length;
    put($("ask-title"), b.drained ? `Resume ${name}?` : `Drain ${name}?`);
    put($("ask-text"), b.drained ? "It gets requests again at once, as its priority and quota allow."
      : `It gets no new requests; those in flight there go on to their end. ${others ? `${several(others, "other backend")} admit${others === 1 ? "s" : ""} now.` : "No other backend admits now: callers will be refused."} A restart of Sidestep resumes it.`);
    put($("ask-yes"), b.drained ? "Resume" : "Drain");
    put($("ask-problem"), "");
    $("ask").returnValue = "";
    $("ask").showModal();
  }
  $("ask").addEventListener("submit", async (event) => {
    if (event.submitter?.value !== "yes") return;
    event.preventDefault();
    const { name, verb } = asked;
    try {
      const answer = await fetch(address(`backends/${encodeURIComponent(name)}/${verb}`), { method: "POST" });
      if (!answer.ok) throw new Error((await answer.text()).trim().slice(0, 200) || `status ${answer.status}`);
      $("ask").close("yes");
    } catch (problem) {
      put($("ask-problem"), `That did not work: ${problem.message}`);
    }
  });

  // ---- the line to the balancer

  /** Without the name and password that an address may carry: fetch refuses those. */
  const address = (path) => new URL(path, location.origin + location.pathname).href;

  function showLink() {
    const bad = link.state === "lost";
    mark($("link"), "link", link.state);
    document.body.classList.toggle("lost", bad && doc !== null);
    put($("link"), link.state === "live" ? "Live" : bad ? `Connection lost since ${clock(link.since)}${link.why ? `: ${link.why}` : ""}. Trying again.` : "Connecting…");
    if (!bad) return;
    put($("headline"), doc ? `No news since ${clock(link.since)}` : "The balancer does not answer");
    mark($("headline"), "tone", "bad");
    put($("subline"), doc ? "Below is what was known then." : "");
    document.title = "! No connection – Sidestep";
  }
  function setLink(state, why = "") {
    if (state !== link.state) {
      if (link.state === "live" || state === "live") put($("news"), state === "live" ? "Connected" : "Connection lost");
      link = { state, since: Date.now(), why };
    }
    link.why = why;
    showLink();
  }

  function take(name, data) {
    const told = JSON.parse(data);
    if (name === "past") { takePast(told); paintAll(); return; }
    if (name === "step") { if (!takeStep(told)) throw new Error("missed a step"); paintAll(); return; }
    if (name !== "status") return;
    doc = { ...told, callers: told.callers ?? {}, tokens: told.tokens ?? {} };
    heard = performance.now();
    keepPoint();
    headline();
    figures();
    callers();
    rows();
    tellNews();
    setLink("live");
  }

  async function listen() {
    const stop = new AbortController();
    let silence = setTimeout(() => stop.abort(), SILENT_MS), why = "";
    try {
      const answer = await fetch(address("events"), { signal: stop.signal, cache: "no-store" });
      if (!answer.ok) throw new Error((await answer.text()).trim().slice(0, 200));
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        clearTimeout(silence);
        silence = setTimeout(() => stop.abort(), SILENT_MS);
        text += value;
        if (text.length > LONGEST_EVENT) throw new Error("too much at once");
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const [first, ...rest] = text.slice(0, end).split("\n");
          text = text.slice(end + 2);
          if (first.startsWith("event: ")) take(first.slice(7), rest.map((line) => line.replace(/^data: ?/, "")).join("\n"));
        }
      }
    } catch (problem) {
      // A browser's own words for a broken connection say nothing that "lost" does not.
      if (problem.name === "Error") why = problem.message;
    } finally {
      clearTimeout(silence);
      stop.abort();
    }
    setLink("lost", why);
  }

  const pause = (ms) => new Promise((done) => {
    const timer = setTimeout(done, ms);
    addEventListener("online", () => { clearTimeout(timer); done(); }, { once: true });
  });
  (async () => {
    for (let wait = 500; ; wait = Math.min(5000, wait * 2)) {
      const began = performance.now();
      await listen();
      if (performance.now() - began > 10000) wait = 500;
      await pause(wait);
    }
  })();

  // ---- between two documents only the countdowns move

  let moved = 0;
  function move(now) {
    requestAnimationFrame(move);
    if (!doc || link.state !== "live" || now - moved < (calm.matches ? 1000 : 100)) return;
    moved = now;
    let any = false;
    for (const view of views.values()) for (const row of view.lanes.values()) if (row.lane.remaining_ms != null) { countdown(row); any = true; }
    if (any) headline();
  }
  requestAnimationFrame(move);

  $("tools").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["filter", "troubled"]) $(id).addEventListener("input", () => doc && rows());
  let resized = 0;
  addEventListener("resize", () => { cancelAnimationFrame(resized); resized = requestAnimationFrame(paintAll); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); paintAll(); });
})();
