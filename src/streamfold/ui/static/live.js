// The requests under way: cards whose text grows, and the news that the log has changed.

import { bdi, byId, el, keep, put } from "./dom.js";
import { events } from "./ask.js";
import { duration, number } from "./format.js";
import { go } from "./place.js";

const KEPT = 6000; // characters of each text; the detail shows the whole
const cards = byId("cards");
const streams = new Map();

let stop = null;
let hear = { log: () => {}, trouble: () => {}, state: () => {} };
let version = null;

export function startLive(listeners) {
  hear = { ...hear, ...listeners };
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  setInterval(showAges, 500);
  connect();
}

let paused = false;
export function pause(yes) {
  paused = yes;
  if (yes) disconnect();
  else connect();
}

function disconnect() {
  stop?.abort();
  stop = null;
}

async function connect() {
  if (paused || stop || document.hidden) return;
  stop = new AbortController();
  const { signal } = stop;
  let wait = 500;
  while (!signal.aborted) {
    try {
      let first = true;
      for await (const news of events("/api/live", signal)) {
        if (first) {
          streams.clear();
          hear.state("live");
        }
        first = false;
        wait = 500;
        take(news);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 403) hear.trouble(error.message);
    }
    if (signal.aborted) return;
    hear.state("offline");
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, 10_000);
  }
}

function take(news) {
  for (const id of news.gone) streams.delete(id);
  for (const sight of news.streams) {
    const texts = streams.get(sight.id)?.texts ?? {};
    for (const [name, part] of Object.entries(sight.parts)) {
      const before = part.more ? (texts[name]?.text ?? "") : "";
      const text = before + part.text;
      const cut = text.length > KEPT;
      texts[name] = { text: cut ? text.slice(-KEPT / 2) : text, cut: cut || (part.more ? texts[name]?.cut : part.at > 0) };
    }
    streams.set(sight.id, { row: sight.row, texts });
  }
  show(news.under_way);
  hear.trouble(news.trouble);
  if (version !== null && (version !== news.log || news.gone.length)) hear.log(news.gone);
  version = news.log;
}

function show(underWay) {
  const order = [...streams.entries()].sort(([, a], [, b]) => (a.row.created < b.row.created ? 1 : -1));
  keep(cards, order, ([id]) => id, makeCard, updateCard);
  byId("flight-none").hidden = order.length > 0;
  byId("flight").classList.toggle("is-empty", !order.length);
  const count = underWay > order.length && order.length ? `${number(underWay)}, the newest ${order.length} shown` : number(underWay);
  byId("flight-count").textContent = underWay ? count : "";
}

function makeCard([id]) {
  return el(
    "button",
    { type: "button", class: "card", onclick: () => go({ id }) },
    el("span", { class: "card-head" }, el("span", { class: "dot s-processing", "aria-hidden": "true" }), el("strong"), el("span", { class: "under" }), el("span", { class: "age num" })),
    el("span", { class: "card-text", dir: "auto" }),
    el("span", { class: "card-foot" }),
  );
}

function updateCard(card, [, { row, texts }]) {
  const [top, text, foot] = card.children;
  put(top.children[1], [bdi(row.model ?? row.response_model ?? row.path ?? "request")]);
  put(top.children[2], [bdi(row.upstream ?? row.provider ?? "")]);
  card.dataset.since = String(Date.parse(row.created));
  const parts = ["reasoning", "content", "tools"].filter((name) => texts[name]?.text);
  keep(
    text,
    parts,
    (name) => name,
    (name) => el("span", { class: `part part-${name}`, dir: "auto" }),
    (each, name) => {
      const now = (texts[name].cut ? "… " : "") + texts[name].text;
      // What is there already stays, so that a growing text costs what is new in it.
      const node = each.firstChild;
      if (node && now.startsWith(node.data)) node.appendData(now.slice(node.length));
      else each.textContent = now;
    },
  );
  text.scrollTop = text.scrollHeight;
  const waiting = row.chunks ? null : row.http_status ? "answer begins" : "waiting for the answer";
  put(foot, [
    waiting ?? `${number(row.chunks)} chunks`,
    row.time_to_first_token_ms === null ? null : ` · first ${duration(row.time_to_first_token_ms)}`,
    row.max_gap_ms === null ? null : ` · gap ${duration(row.max_gap_ms)}`,
  ]);
}

function showAges() {
  for (const card of cards.children) {
    const age = Math.max(0, Date.now() - Number(card.dataset.since));
    card.querySelector(".age").textContent = age < 60_000 ? `${(age / 1000).toFixed(1)} s` : duration(age);
  }
}

export const isLive = (id) => streams.has(id);
