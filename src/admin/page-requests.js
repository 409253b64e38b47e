"use strict";
// The last requests that met trouble: which backend served each, and why. Asked of `/requests` when the status says that
// there are new ones, while somebody can see them.
const Requests = (() => {
  const { count, several, clock, span, number, list, make, put, mark } = Words;
  const $ = (id) => document.getElementById(id);
  const FEW = 8, EACH = 8, MORE = 32, ASK_MS = 900, TYPED_MS = 150;
  const DATED_MS = 20 * 3600 * 1000;            // an older one tells its day too: the hour alone could be today's

  // ---- one request in words

  const words = (verdict) => String(verdict).replaceAll("_", " ");
  /** As the log says it: `west throttled 429`, `west unreachable (connect failed)`. */
  const tried = (a) => `${a.backend} ${words(a.verdict)}${a.status >= 400 ? ` ${a.status}` : ""}${a.cause ? ` (${a.cause})` : ""}`;
  function after(attempts, further = 0) {
    if (!attempts.length) return "";
    const all = [...attempts.map(tried), ...(further ? [`${several(further, "more attempt")}`] : [])];
    return ` after ${all.length > 1 ? `${all.slice(0, -1).join(", ")} and ${all.at(-1)}` : all[0]}`;
  }
  /** Of one request what it came to, and how it came to that. */
  function story(r) {
    const attempts = list(r.attempts), further = number(r.further_attempts), last = further ? null : attempts.at(-1);
    const before = last ? attempts.slice(0, -1) : attempts, waited = r.held_ms == null ? "" : `held ${span(r.held_ms)}, then `;
    const code = `${r.status}${r.error && r.error !== String(r.status) ? ` ${r.error}` : ""}`;
    if (r.outcome === "limited") return ["over its own limit", `: ${code}`];
    if (r.outcome === "cut") {
      const said = last && !["served", "cut_off"].includes(last.verdict) ? `, which said ${words(last.verdict)}` : "";
      return [r.ended === "stopped here" ? "cut off by Sidestep’s own stop" : `cut off by ${r.backend ?? "its backend"}${said}`, after(before, further)];
    }
    if (r.outcome === "failed") {
      if (!r.status) return ["failed: Sidestep stopped before the answer began", after(attempts, further)];
      const none = r.error === "429" && !attempts.length ? ", no backend had room" : "";
      return [`${waited}failed: ${code}${r.backend ? ` from ${r.backend}` : ""}${none}`, r.backend && attempts.length < 2 ? "" : after(attempts, further)];
    }
    if (r.ended === "caller left" && !r.status) {
      const where = last?.verdict === "abandoned" ? ` while ${last.backend} was asked` : "";
      const held = r.held_ms == null ? "" : ` after ${span(r.held_ms)} in line`;
      return [`the caller left${where || held}`, after(where ? before : attempts, further)];
    }
    if (r.outcome === "succeeded") return [`${waited}served by ${r.backend ?? "Sidestep"}`, after(before, further)];
    return [`${waited}answered ${code}${r.backend ? ` by ${r.backend}` : ""}`, after(r.backend ? before : attempts, further)];
  }
  /** What stands in the log besides. */
  function facts(r) {
    const tokens = r.prompt_tokens == null ? [] : [`${count(number(r.prompt_tokens))} + ${count(number(r.completion_tokens))} tokens${r.estimated ? ", estimated" : ""}`];
    const first = r.first_byte_ms == null ? [] : [`first byte ${span(r.first_byte_ms)}`];
    return [`${r.method} ${r.operation}${r.stream ? ", a stream" : ""}`, `status ${r.status}`, ...first, `Sidestep’s own part ${number(r.ours_ms).toFixed(1)} ms`, ...tokens, r.ended].join(" · ");
  }
  function when(r) {
    const ms = Date.parse(r.time), day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
    return Date.now() - ms > DATED_MS ? `${day.format(ms)} ${clock(ms).slice(0, 5)}` : clock(ms);
  }

  function row(r, whole) {
    const li = make("li", "request"), time = make("time", "when", when(r)), who = make("p", "for"), what = make("p", "came");
    mark(li, "outcome", String(r.outcome));
    time.dateTime = String(r.time);
    who.append(make("b", "", r.caller ?? "anonymous"), ` · ${r.deployment ?? r.operation}`);
    const [first, rest] = story(r);
    what.append(make("b", "", first), rest);
    const text = make("div", "what");
    text.append(what);
    if (whole) text.append(make("p", "facts", facts(r)));
    li.append(time, who, text, make("p", "took", r.total_ms < 1 ? "<1 ms" : span(number(r.total_ms))), make("code", "id", String(r.id)));
    return li;
  }

  // ---- the list

  const rows = new Map();                       // those that are shown, by id
  let told = { kept: 0, requests: [] };         // the last answer
  let all = false;
  let hovered = false, waits = false;           // the mouse is on the list; something new is not shown yet
  let wished = false;                           // what comes was asked for by hand: it does not wait
  const kindOf = (r) => r.outcome === "failed" && r.status === 429 ? "throttled" : r.outcome === "cut" ? "failed" : r.outcome === "other" ? "succeeded" : r.outcome;
  /** A few of all kinds, so that the one that failed is seen among a hundred that were served in the end. */
  function chosen() {
    const ranks = new Map(), ranked = list(told.requests).map((r, at) => {
      const kind = kindOf(r), rank = ranks.get(kind) ?? 0;
      ranks.set(kind, rank + 1);
      return { r, at, rank };
    });
    if (!all) ranked.sort((x, y) => x.rank - y.rank || x.at - y.at).splice(FEW);
    return ranked.sort((x, y) => x.at - y.at).map(({ r }) => r);
  }
  /** Nothing moves under somebody's hand, nor what is marked. */
  function busy() {
    const marked = document.getSelection();
    return hovered || (marked && !marked.isCollapsed && $("requests").contains(marked.anchorNode));
  }
  function show() {
    if (sought) return;
    const wanted = chosen(), fresh = wanted.filter((r) => !rows.has(r.id)).length;
    waits = !wished && fresh > 0 && rows.size > 0 && busy();
    put($("requests-note"), waits ? "newer ones wait while you read" : total > 0 ? `${several(total, "request")} since the start` : "");
    if (waits) return;
    if (each() <= extent) wished = false;
    const seen = new Set(wanted.map((r) => r.id));
    for (const [id, li] of rows) if (!seen.has(id)) { li.remove(); rows.delete(id); }
    wanted.forEach((r, place) => {
      if (!rows.has(r.id)) rows.set(r.id, row(r, false));
      const li = rows.get(r.id);
      if ($("troubles").children[place] !== li) $("troubles").insertBefore(li, $("troubles").children[place] ?? null);
    });
    $("troubles").hidden = !wanted.length;
    $("untroubled").hidden = wanted.length > 0 || total !== 0;
    $("all-troubles").hidden = number(told.kept) <= FEW;
    put($("all-troubles"), all ? "Show fewer" : "Show more");
    $("all-troubles").setAttribute("aria-expanded", String(all));
  }

  // ---- asking

  let total = -1, answered = -1;                // how many there have been, and had been at the last answer
  let extent = 0;                               // how many of each kind the last answer could hold
  const each = () => all ? MORE : EACH;
  let seen = false, asking = false, asked = -Infinity, later = 0;
  const address = (query) => new URL(`requests?${new URLSearchParams(query)}`, location.origin + location.pathname).href;
  const fetched = async (query) => (await fetch(address(query), { cache: "no-store", signal: AbortSignal.timeout(6000) })).json();
  async function ask() {
    if (asking || sought || !seen || document.hidden || total < 0 || (total === answered && each() <= extent)) return;
    const wait = asked + ASK_MS - performance.now();
    clearTimeout(later);
    if (wait > 0) { later = setTimeout(ask, wait); return; }
    const upTo = total, of = each();
    [asking, asked] = [true, performance.now()];
    try {
      told = total ? await fetched({ each: of }) : { kept: 0, requests: [] };
      [answered, extent] = [upTo, of];
      show();
    } catch {
      wished = false;
      return;                                   // Whether the balancer answers is said at the top.
    } finally {
      asking = false;
    }
    ask();                                      // what was wished or has come meanwhile
  }
  /** A status document has come. */
  function hear(callers) {
    total = number(callers.troubled_total);
    if (total < answered) answered = -1;        // it began anew
    if (sought && missed !== null && total !== missed) seek();
    ask();
  }
  new IntersectionObserver((entries) => { seen = entries.at(-1).isIntersecting; ask(); }, { rootMargin: "400px" }).observe($("requests"));

  // ---- finding one

  let sought = "", typed = 0;                   // what is looked for
  let missed = null;                            // how many there were when it was not found; -1 if nobody answered
  async function seek() {
    const id = sought.match(/\b[0-9a-f]{16}\b/i)?.[0].toLowerCase(), text = sought;
    missed = null;
    let had = total, answer = { requests: [], note: "An id is 16 hexadecimal digits, such as d8341cfa6d40bf72." };
    try {
      if (id) answer = await fetched({ id });
    } catch {
      [had, answer.note] = [-1, "The balancer does not answer."];
    }
    if (text !== sought) return;
    const [found] = list(answer.requests);
    if (!found && id) missed = had;
    put($("sought"), found ? "This request met trouble:" : String(answer.note ?? "Not found."));
    $("found").replaceChildren(...(found ? [row(found, true)] : []));
  }
  function find() {
    sought = $("id").value.trim();
    $("requests-note").hidden = sought !== "";
    if (sought) {
      for (const id of ["troubles", "untroubled", "all-troubles"]) $(id).hidden = true;
      seek();
      return;
    }
    put($("sought"), "");
    $("found").replaceChildren();
    wished = true;
    show();
    ask();
  }
  $("id").addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(find, TYPED_MS); });
  $("find").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typed); find(); });
  $("to-requests").addEventListener("click", (event) => {
    event.preventDefault();
    $("requests").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    $("id").focus({ preventScroll: true });
  });
  $("all-troubles").addEventListener("click", () => {
    [all, wished, asked] = [!all, true, -Infinity];
    show();
    ask();
  });
  // Not `:hover`, which stays where a finger has tapped.
  $("troubles").addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") hovered = true; });
  $("troubles").addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "mouse") return;
    hovered = false;
    show();
  });
  document.addEventListener("selectionchange", () => { if (waits) show(); });
  document.addEventListener("visibilitychange", () => ask());

  return { hear };
})();
