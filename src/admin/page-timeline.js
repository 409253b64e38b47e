"use strict";
// The strips of the last fifteen minutes, one for each lane, and the cursor that reads a moment of them: by mouse, by
// finger, by keys.
const Timeline = (() => {
  const { count, several, clock, span, number, list, put } = Words;
  const LETTERS = { a: "admitting", c: "cooling", r: "resting", p: "on trial", f: "credential refused", x: "deployment not found", d: "drained" };
  const BANDS = { c: "--warm-band", r: "--bad-band", f: "--bad-band", x: "--bad-band", p: "--look-band", d: "--idle-band" };
  const LOST = ["failed", "refused"];         // requests, connections
  const NOTHING = { served: [], throttled: [], failed: [], states: "" };

  // ---- what was told

  let past = { step: 5000, steps: 180, next: 0, ended: 0, callers: {}, lanes: new Map() };

  function takePast(told) {
    past = { step: number(told.step_ms) || 5000, steps: number(told.steps) || 180, next: number(told.next), ended: Date.now(), callers: {}, lanes: new Map() };
    for (const of of LOST) past.callers[of] = { steps: list(told[of]), total: number(told[`${of}_total`]) };
    for (const lane of list(told.lanes)) {
      past.lanes.set(Words.key(lane.backend, lane.deployment), { served: list(lane.served), throttled: list(lane.throttled), failed: list(lane.failed), states: String(lane.states ?? "") });
    }
    tellUntold(told);
    paint();
  }
  /** False: something in between was missed. */
  function takeStep(told) {
    if (number(told.next) !== past.next + 1) return false;
    past.next++;
    past.ended = Date.now();
    for (const of of LOST) {
      const steps = [...past.callers[of]?.steps ?? [], number(list(told[of]).at(-1))].slice(-past.steps);
      past.callers[of] = { steps, total: number(told[`${of}_total`]) };
    }
    const seen = new Set();
    for (const lane of list(told.lanes)) {
      const id = Words.key(lane.backend, lane.deployment);
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
    tellUntold(told);
    paint();
    return true;
  }
  /** A bound of the balancer's: beyond it no more lanes have a strip. */
  function tellUntold(told) {
    const untold = number(told.untold), note = document.getElementById("untold");
    note.hidden = !untold;
    put(note, `The past of ${several(untold, "more lane")} is not kept.`);
  }
  /** What callers did not get, since before this page was opened too; `total` is what is told now. */
  function within(ms, of, total) {
    const lost = past.callers[of];
    if (!lost) return 0;
    return lost.steps.slice(-Math.round(ms / past.step)).reduce((a, b) => a + b, 0) + Math.max(0, total - lost.total);
  }
  const trackOf = (row) => past.lanes.get(row.id) ?? NOTHING;

  // ---- how it is drawn

  let rows = [];                                // all that are shown, from top to bottom
  let colours = null;
  function readColours() {
    const style = getComputedStyle(document.documentElement), of = (name) => style.getPropertyValue(name).trim();
    colours = { served: of("--good-fill"), throttled: of("--warm-fill"), failed: of("--bad-fill"), line: of("--line") };
    for (const [letter, name] of Object.entries(BANDS)) colours[letter] = of(name);
  }
  function paint() {
    if (!colours) readColours();
    let most = 4;
    for (const track of past.lanes.values()) for (const n of track.served) if (n > most) most = n;
    for (const row of rows) {
      strip(row, most);
      // What has the focus changes by keys only.
      if (document.activeElement !== row.canvas || !row.canvas.ariaValueText) tell(row);
    }
    if (cursor) show();
  }
  /** The rows in their present order; one of them is reached by Tab, the others from there by arrows. */
  function arrange(shown) {
    rows = shown;
    if (!rows.includes(home)) home = rows[0] ?? null;
    for (const row of rows) row.canvas.tabIndex = row === home ? 0 : -1;
    if (cursor && !rows.includes(cursor.row)) hide();
    paint();
  }

  function strip(row, most) {
    const track = trackOf(row), { canvas } = row, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    const sharp = Math.min(3, devicePixelRatio || 1);
    const [w, h] = [Math.round(width * sharp), Math.round(height * sharp)];
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    const pen = canvas.getContext("2d"), n = track.served.length, dot = Math.round(3 * sharp);
    pen.clearRect(0, 0, w, h);
    const x = (step) => Math.round(w - (n - step) * w / past.steps);
    const floor = h - Math.round(sharp), room = floor - 2 * dot - Math.round(2 * sharp);
    for (let i = 0; i < n; i++) {
      const [from, to] = [x(i), x(i + 1)], letter = track.states[i];
      if (letter in BANDS) { pen.fillStyle = colours[letter]; pen.fillRect(from, 0, to - from, floor); }
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
  }

  // ---- in words

  function summary(track) {
    const sum = (of) => of.reduce((a, b) => a + b, 0), n = track.served.length;
    const away = [...track.states].filter((letter) => letter in LETTERS && letter !== "a").length * past.step;
    return n ? `Last ${span(n * past.step)}: ${count(sum(track.served))} served, ${several(sum(track.throttled), "429")}, ${several(sum(track.failed), "failure")}, away for ${away ? span(away) : "no time"}` : "No past yet";
  }
  /** One step, `back` from the newest. */
  function moment(track, back) {
    const i = track.served.length - 1 - back, when = clock(past.ended - (back + 1) * past.step);
    if (!(track.states[i] in LETTERS)) return `${when}: not seen`;
    const parts = [`${count(track.served[i])} served`];
    if (track.throttled[i]) parts.push(several(track.throttled[i], "429"));
    if (track.failed[i]) parts.push(`${count(track.failed[i])} failed`);
    if (track.states[i] !== "a") parts.push(LETTERS[track.states[i]]);
    return `${when}: ${parts.join(", ")}`;
  }
  function set(element, values) {
    for (const [name, value] of Object.entries(values)) if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
  /** What a screen reader says of a strip: all of it, or the moment at the cursor. */
  function tell(row) {
    set(row.canvas, { "aria-label": `${row.title}, the last 15 minutes`, "aria-valuemax": past.steps });
    set(row.canvas, { "aria-valuenow": past.steps, "aria-valuetext": summary(trackOf(row)) });
  }

  // ---- the cursor

  let home = null;                              // the row that Tab reaches
  let cursor = null;                            // its row, the number of its step, and what moves it
  const tip = Words.make("p", "tip");
  tip.setAttribute("aria-hidden", "true");

  function move(row, at, by) {
    const oldest = past.next - past.steps;
    cursor = { row, at: Math.max(oldest, Math.min(past.next - 1, at)), by };
    show();
    if (by !== "keys") return;
    set(row.canvas, { "aria-valuenow": cursor.at - oldest + 1, "aria-valuetext": tip.textContent });
  }
  /** The same moment in every row, and its story in words. */
  function show() {
    const back = Math.min(past.steps - 1, past.next - 1 - cursor.at), share = 100 * (1 - (back + .5) / past.steps);
    const list = document.getElementById("list").style;
    list.setProperty("--cursor", `${share.toFixed(2)}%`);
    list.setProperty("--cursor-shown", "1");
    put(tip, moment(trackOf(cursor.row), back));
    tip.style.left = `${share.toFixed(2)}%`;
    tip.style.transform = `translateX(${-share.toFixed(2)}%)`;
    if (tip.parentNode !== cursor.row.past) cursor.row.past.append(tip);
  }
  function hide() {
    const row = cursor?.row;
    cursor = null;
    document.getElementById("list").style.setProperty("--cursor-shown", "0");
    tip.remove();
    if (row) tell(row);
  }

  function point(row, event) {
    const box = row.canvas.getBoundingClientRect(), at = Math.min(box.width - 1, Math.max(0, event.clientX - box.left));
    move(row, past.next - 1 - Math.floor((box.width - at) / box.width * past.steps), event.pointerType);
  }
  function press(row, event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = cursor?.row === row ? cursor.at : past.next - 1, minute = Math.round(60000 / past.step);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, PageDown: at - minute, PageUp: at + minute, Home: -Infinity, End: Infinity }[event.key];
    const other = rows[rows.indexOf(row) + ({ ArrowUp: -1, ArrowDown: 1 }[event.key] ?? 0)];
    if (to !== undefined) move(row, to, "keys");
    else if (event.key === "Escape" && cursor) hide();
    else if (other && other !== row) {
      move(other, at, "keys");
      other.canvas.focus();
    } else if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
    event.preventDefault();
  }

  /** Gives a row its strip. */
  function attach(row) {
    row.past = Words.make("div", "past");
    row.canvas = Words.make("canvas");
    set(row.canvas, { role: "slider", tabindex: -1, "aria-valuemin": 1, "aria-valuemax": past.steps, "aria-valuenow": past.steps, "aria-describedby": "strip-keys" });
    row.past.append(row.canvas);
    const { canvas } = row;
    for (const name of ["pointerdown", "pointermove"]) canvas.addEventListener(name, (event) => point(row, event));
    // A finger that was lifted leaves its moment to be read.
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse" && cursor?.by === "mouse") hide(); });
    canvas.addEventListener("keydown", (event) => press(row, event));
    canvas.addEventListener("focus", () => {
      if (home) home.canvas.tabIndex = -1;
      home = row;
      canvas.tabIndex = 0;
      if (canvas.matches(":focus-visible")) move(row, cursor?.at ?? past.next - 1, "keys");
    });
    canvas.addEventListener("blur", () => { if (cursor?.row === row && cursor.by === "keys") hide(); else tell(row); });
  }
  document.addEventListener("pointerdown", (event) => { if (cursor && event.target.tagName !== "CANVAS") hide(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); paint(); });
  let resized = 0;
  addEventListener("resize", () => { cancelAnimationFrame(resized); resized = requestAnimationFrame(paint); });

  return { takePast, takeStep, within, attach, arrange, paint };
})();
