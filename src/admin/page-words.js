"use strict";
// How the page writes states, numbers, durations and text.
const Words = (() => {
  const STATES = {
    admitting: "Admitting", cooling: "Cooling", resting: "Resting", probing: "On trial: one request first",
    refused: "Credential refused", absent: "Deployment not found", drained: "Drained", unused: "Not in use: no credential",
  };
  const grouped = new Intl.NumberFormat("en-US");
  const count = (n) => n < 1e7 ? grouped.format(Math.floor(n)) : `${(n / (n < 1e9 ? 1e6 : 1e9)).toFixed(1)}${n < 1e9 ? "M" : "G"}`;
  const short = (n) => n < 1e4 ? grouped.format(Math.floor(n)) : (n < 1e6 ? `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)}k` : `${(n / 1e6).toFixed(1)}M`).replace(".0", "");
  const rate = (n) => n < 9.95 ? n.toFixed(1) : grouped.format(Math.round(n));
  const several = (n, noun, nouns = `${noun}s`) => `${count(n)} ${n === 1 ? noun : nouns}`;
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
  /** Time left, without a rush of milliseconds at its end. */
  const wait = (ms) => ms < 1000 ? `${(ms / 1000).toFixed(1)} s` : span(ms);
  /** The same in whole seconds, where it stands in a sentence. */
  const soon = (ms) => ms < 50 ? "any moment" : `in ${ms < 59000 ? `${Math.ceil(ms / 1000)} s` : span(ms)}`;
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
  const key = (backend, deployment) => `${backend}\u0000${deployment}`;
  const cut = (text) => { const all = String(text); return all.length > 120 ? `${all.slice(0, 119)}…` : all; };
  const shownAs = (name) => name || "requests without a deployment";

  const SVG = "http://www.w3.org/2000/svg";
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

  return { STATES, count, short, rate, several, clock, span, wait, soon, ago, share, number, list, key, cut, shownAs, make, draw, put, mark };
})();
