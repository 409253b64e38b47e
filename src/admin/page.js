"use strict";
// The status page. Hears `/events`, draws what it hears. Everything from outside is put in as text, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const { STATES, count, short, rate, several, clock, span, wait, soon, ago, share, number, list, key, cut, shownAs, make, draw, put, mark } = Words;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const ORDER = ["unused", "refused", "absent", "resting", "probing", "cooling", "drained", "unknown", "admitting"];
  const RATE_MS = 10000, WHY_MS = 2000, SILENT_MS = 6000, LONGEST_EVENT = 64 * 1024 * 1024, MANY = 8, MANY_LANES = 3, DENSE = 12, FEW = 5;

  // ---- what is known

  let doc = null, heard = 0;                    // the last document, and when it came (performance.now)
  const points = [];                            // totals of the last seconds, for rates
  const views = new Map();                      // by backend
  const rowOf = new WeakMap();                  // by list item
  let link = { state: "waiting", since: Date.now(), why: "" };

  function lanesOf(backend) {
    const lanes = list(backend.lanes);
    return lanes.length ? lanes : [{ ...backend, deployment: null, quota: {}, failures: [] }];
  }
  function stateOf(of) { return of.state in STATES ? of.state : "unknown"; }
  function leftOf(of) { return of.remaining_ms == null ? null : Math.max(0, of.remaining_ms - (performance.now() - heard)); }

  /** A backend without its credential is not in use, whatever it would admit. */
  function withUnused(backends) {
    return list(backends).map((b) => b.credential !== "missing" || b.drained ? b
      : { ...b, state: "unused", remaining_ms: null, lanes: list(b.lanes).map((lane) => ({ ...lane, state: "unused", remaining_ms: null })) });
  }
  /** An older balancer does not tell it: then what came to nothing and did not reach a caller. */
  function absorbed() {
    if (doc.callers.absorbed_total != null) return number(doc.callers.absorbed_total);
    const all = doc.backends.reduce((sum, b) => sum + number(b.throttled_total) + number(b.failed_total), 0);
    return Math.max(0, all - number(doc.callers.failed_total));
  }

  function keepPoint() {
    const uptime = number(doc.uptime_seconds), newest = points.at(-1);
    if (newest && uptime < newest.uptime) points.length = 0;
    // Changes come between the seconds; rates need no more than one point for each.
    else if (newest && heard - newest.at < 800) return;
    const lanes = new Map();
    for (const b of doc.backends) {
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

  /** What is said first: its colour, its words, and what kind of words they are, which changes more rarely. */
  function verdict(backends, away) {
    const failed = Timeline.within(60000, "failed", number(doc.callers.failed_total)), gone = unserved(backends);
    const unused = backends.filter((b) => stateOf(b) === "unused");
    if (doc.draining) return ["warm", "Draining: this balancer is about to stop", "draining"];
    if (backends.length && !backends.some(admits)) {
      const back = soonest(away);
      return ["bad", back ? `No backend admits; ${back.who} is back ${soon(leftOf(back.of))}` : "No backend admits", "none admits"];
    }
    if (failed) return ["bad", `${several(failed, "request")} failed in the last minute`, "failed"];
    if (refused()) return ["bad", `${several(refused(), "connection was", "connections were")} refused in the last minute`, "connections"];
    if (gone) return ["warm", gone.text, gone.kind];
    const well = number(doc.callers.requests_total) ? "Everyone is being served" : "Ready, and waiting for the first request";
    if (!unused.length) return ["good", well, well];
    const who = unused.length === 1 ? `${unused[0].name} has` : `${count(unused.length)} backends have`;
    return ["warm", `${well.replace(/,.*/, "")}, but ${who} no credential`, who];
  }
  /** Connections beyond the bound in the last minute. */
  const refused = () => Timeline.within(60000, "refused", number(doc.callers.connections_refused_total));
  let kind = "";
  function headline() {
    const away = awayFrom(doc.backends), [tone, text, of] = verdict(doc.backends, away), all = doc.backends.length;
    kind = of;
    put($("headline"), text);
    mark($("headline"), "tone", tone);
    const parts = of === "failed" ? list(doc.by_caller?.callers).filter((c) => number(c.failed)).slice(0, 2).map((c) => `${c.name}: ${count(number(c.failed))} failed in ${Math.round(lately() / 60000)} min`) : [];
    if (refused()) parts.push(`${of === "connections" ? "" : `${several(refused(), "connection")} refused: `}limits.connections is reached; what these callers ask is in no figure here`);
    const told = away.slice(0, 3).map(({ who, of, why }) => {
      const left = leftOf(of);
      return `${who}: ${why}${left == null ? "" : `, back ${soon(left)}`}`;
    });
    if (all && !told.length) parts.push(all === 1 ? "The one backend admits" : `All ${all} backends admit`);
    parts.push(...told);
    if (away.length > told.length) parts.push(`${away.length - told.length} more away`);
    put($("subline"), parts.join(" · "));
    document.title = `${tone === "bad" ? "! " : ""}${tone === "good" && away.length ? `${away.length} away` : text} – Sidestep`;
  }
  const admits = (of) => stateOf(of) === "admitting";
  const inWords = (of) => of.state === "resting" ? "resting after failures" : (STATES[of.state] ?? "unknown").toLowerCase();
  /** Backends that are away as a whole, and single lanes of the others; first those that wait for an operator, then by who is back first. */
  function awayFrom(backends) {
    const away = [];
    for (const b of backends) {
      const lanes = list(b.lanes);
      if (stateOf(b) === "unused") away.push({ who: b.name, of: b, why: `not in use, no credential${b.credential_cause ? ` (${cut(b.credential_cause)})` : ""}` });
      else if (!admits(b) && (lanes.length < 2 || b.drained)) away.push({ who: b.name, of: b, why: inWords(b) });
      else for (const lane of lanes) if (!admits(lane)) away.push({ who: named(b, lane), of: lane, why: inWords(lane) });
    }
    const left = ({ of }) => of.state === "unused" ? -1 : of.remaining_ms ?? Infinity;
    return away.sort((x, y) => left(x) - left(y) || 0);
  }
  /** A lane as one says it: by its deployment where its backend has several. */
  const named = (b, lane) => list(b.lanes).length > 1 ? `${b.name} ${shownAs(lane.deployment)}` : b.name;
  const soonest = (away) => away.find(({ of }) => of.remaining_ms != null);
  /** A deployment that no backend takes now. One that was never asked for it may still have it. */
  function unserved(backends) {
    const by = new Map();
    for (const b of backends) for (const lane of list(b.lanes)) by.set(lane.deployment, [...(by.get(lane.deployment) ?? []), { who: b.name, of: lane }]);
    for (const [deployment, lanes] of by) {
      const others = backends.length - lanes.length - backends.filter((b) => !admits(b) && !list(b.lanes).some((l) => l.deployment === deployment)).length;
      if (lanes.some(({ of }) => admits(of)) || others > 0) continue;
      const back = soonest(lanes.sort((x, y) => (x.of.remaining_ms ?? Infinity) - (y.of.remaining_ms ?? Infinity)));
      const text = `No backend admits ${shownAs(deployment)}`;
      return { kind: text, text: `${text}${back ? `; ${back.who} is back ${soon(leftOf(back.of))}` : ""}` };
    }
    return null;
  }

  function figures() {
    const { callers, tokens } = doc, failed = number(callers.failed_total);
    put($("success"), share(number(callers.succeeded_total), number(callers.succeeded_total) + failed));
    mark($("success"), "tone", failed ? "bad" : "good");
    const requests = perSecond((p) => p.requests);
    const broken = number(callers.cut_total), limited = number(callers.limited_total);
    const failures = failed ? `${count(failed)} failed${broken ? `, ${count(broken)} of them cut off,` : ""} of ` : "";
    put($("success-note"), `${failures}${several(number(callers.requests_total), "request")}${requests == null ? "" : `, ${rate(requests)}/s`}${limited ? `; ${count(limited)} over limit` : ""}`);
    put($("absorbed"), count(absorbed()));
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
    const view = { row, name, fill: make("div", "fill"), part: make("span", "part"), sums: ["sum wide", "sum", "sum limited", "sum"].map((cls) => make("td", cls)) };
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
    $("callers").classList.toggle("some-limited", [...all, rest ?? {}].some((one) => number(one.limited)));
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
      const sums = [short(number(one.tokens)), ...[one.requests, one.limited, one.failed].map((n) => count(number(n)))];
      view.sums.forEach((cell, at) => { put(cell, sums[at]); cell.classList.toggle("zero", sums[at] === "0"); });
      view.sums[3].classList.toggle("failed", number(one.failed) > 0);
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
    Timeline.attach(view);
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
    view.row.append(who, view.past, view.quota);
    view.numbers = ["Requests/s", "Tokens/s", "First byte", "429s absorbed"].map((label) => {
      const cell = make("p", "number"), value = make("span", "value", "–");
      cell.append(make("span", "label", label), make("span", "hidden", `${label}: `), value);
      cell.firstChild.setAttribute("aria-hidden", "true");
      view.row.append(cell);
      return { cell, value };
    });
    view.act = make("div", "act");
    view.row.append(view.act);
    rowOf.set(view.row, view);
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
    else if (state === "unused") parts.push(draw("circle", { class: "sign", cx: 9, cy: 9, r: 6 }), draw("path", { class: "sign", d: "M6 9h6" }));
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
    put(view.summary, stateOf(b) === "unused" && b.credential_cause ? `No credential: ${cut(b.credential_cause)}` : failures.length ? `Last trouble: ${failures[0].cause}, ${ago(failures[0].ago_ms)}` : "Details");
    if (view.details.open) more(view, b);
  }

  function fillLane(row, b, lane, leads) {
    const state = stateOf(lane);
    mark(row.row, "state", state);
    sign(row, state);
    put(row.name, leads ? b.name : "");
    row.name.hidden = !leads;
    row.title = lane.deployment == null ? b.name : `${b.name} ${shownAs(lane.deployment)}`;
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
    const saved = number(lane.absorbed_total ?? lane.throttled_total);
    const requests = perSecond((p) => p.lanes.get(row.id)?.[0]), tokens = perSecond((p) => p.lanes.get(row.id)?.[1]);
    const texts = [requests == null ? "–" : rate(requests), tokens == null ? "–" : rate(tokens),
      lane.first_byte_ms == null ? "–" : span(lane.first_byte_ms), count(saved)];
    const zero = [!requests, !tokens, lane.first_byte_ms == null, !saved];
    row.numbers.forEach(({ cell, value }, place) => { put(value, texts[place]); cell.classList.toggle("zero", zero[place]); });
  }

  function countdown(row) {
    const lane = row.lane, left = leftOf(lane), state = stateOf(lane);
    let text = STATES[state] ?? "Unknown";
    if (left != null) {
      if (left > row.full || row.counted !== state) row.full = left;
      row.counted = state;
      text += left < 50 ? ", back any moment" : `, ${calm.matches ? wait(Math.ceil(left / 1000) * 1000) : wait(left)} left`;
      row.pie?.setAttribute("stroke-dasharray", `${(100 * left / Math.max(row.full, 1)).toFixed(1)} 100`);
    } else {
      row.full = 0;
      row.pie?.setAttribute("stroke-dasharray", "100 100");
    }
    put(row.state, text);
  }

  function more(view, b) {
    // What somebody is about to copy stays as it is.
    const chosen = document.getSelection();
    if (chosen && !chosen.isCollapsed && view.more.contains(chosen.anchorNode)) return;
    const facts = make("dl");
    const fact = (name, value) => facts.append(make("dt", "", name), make("dd", "", value));
    fact("Address", String(b.url ?? ""));
    fact("Priority, weight", `${b.priority}, ${b.weight}`);
    const next = b.credential_next_try_seconds == null ? "" : `; next try in ${span(b.credential_next_try_seconds * 1000)}`;
    if (b.credential === "missing") fact("Credential", `missing${b.credential_cause ? `: ${b.credential_cause}` : ""}${next}`);
    else if (b.credential_cause) fact("Credential", `cannot be renewed: ${b.credential_cause}${next}`);
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

  let order = "", strips = [];
  function rows() {
    const backends = doc.backends, text = $("filter").value.trim().toLowerCase(), only = $("troubled").checked;
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
    const seen = [...$("list").querySelectorAll(".lane")].map((row) => rowOf.get(row));
    if (seen.length !== strips.length || seen.some((row, place) => row !== strips[place])) { strips = seen; Timeline.arrange(seen); }
    $("nothing").hidden = shown.length > 0;
    put($("nothing"), backends.length ? (only && !text ? "All well: no backend is in trouble." : "No backend matches.") : "No backend is set.");
    const counts = new Map();
    const lanes = backends.flatMap(lanesOf);
    for (const lane of lanes) counts.set(stateOf(lane), (counts.get(stateOf(lane)) ?? 0) + 1);
    put($("states"), `${several(lanes.length, "lane")}: ${[...counts].sort((x, y) => y[1] - x[1]).map(([state, n]) => `${n} ${state === "unused" ? "not in use" : state}`).join(", ")}`);
  }
  /** What is left of all quotas together, by deployment; those with the least left first. */
  function quotas() {
    const part = (one) => one.remaining_tokens / one.limit_tokens;
    const told = list(doc.deployments).filter((one) => number(one.limit_tokens)).sort((x, y) => part(x) - part(y));
    const texts = told.slice(0, MANY_LANES).map((one) => `${one.name} ${short(number(one.remaining_tokens))} of ${short(one.limit_tokens)}`);
    if (told.length > texts.length) texts.push(`${told.length - texts.length} more`);
    put($("left"), texts.length ? `Tokens left: ${texts.join(", ")}` : "");
  }
  const troubled = (b) => !admits(b) || !lanesOf(b).every(admits);

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
  }

  // ---- news for those who listen

  // A cooldown is every day's work, and the headline says where it matters: it is read there, and not called out.
  const LOUD = new Set(["resting", "refused", "absent", "drained", "unused"]);
  const lastStates = new Map();
  let news = [], newsTimer = 0, lastKind = "";
  function tellNews() {
    for (const b of doc.backends) {
      const whole = list(b.lanes).length < 2 || LOUD.has(stateOf(b));
      for (const one of whole ? [b] : [b, ...b.lanes]) tellState(one === b ? b.name : named(b, one), one);
    }
    const changed = lastKind && lastKind !== kind;
    lastKind = kind;
    if (changed || (news.length && !newsTimer)) {
      clearTimeout(newsTimer);
      newsTimer = setTimeout(() => {
        put($("news"), [...changed ? [$("headline").textContent] : [], ...news.length > 3 ? [`${news.length} lanes changed state`] : news].join(". "));
        [news, newsTimer] = [[], 0];
      }, 1000);
    }
  }
  function tellState(who, of) {
    const state = stateOf(of), was = lastStates.get(who), left = leftOf(of);
    if (state === "probing") return;
    lastStates.set(who, state);
    if (was === undefined || was === state || !(LOUD.has(state) || LOUD.has(was))) return;
    news.push(`${who}: ${inWords(of)}${left == null ? "" : `, back ${soon(left)}`}`);
  }

  // ---- drain and resume

  let asked = null;
  function ask(name) {
    const b = find(name);
    if (!b) return;
    asked = { name, verb: b.drained ? "resume" : "drain" };
    const others = doc.backends.filter((o) => o.name !== name && admits(o)).length;
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
    if (name === "past") { Timeline.takePast(told); return; }
    if (name === "step") { if (!Timeline.takeStep(told)) throw new Error("missed a step"); return; }
    if (name !== "status") return;
    doc = { ...told, callers: told.callers ?? {}, tokens: told.tokens ?? {}, backends: withUnused(told.backends) };
    heard = performance.now();
    keepPoint();
    headline();
    figures();
    callers();
    rows();
    quotas();
    Requests.hear(doc.callers);
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
})();
