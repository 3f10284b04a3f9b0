// Puts the page together: what the address says is what is shown, and what the gateway tells changes it.

import { ask } from "./ask.js";
import { byId } from "./dom.js";
import { closeDetail, showDetail } from "./detail.js";
import { fillFilters, offer, startFilters } from "./filters.js";
import { number } from "./format.js";
import { pause, startLive } from "./live.js";
import { hideOverview, showOverview } from "./overview.js";
import { go, here, onMove, query } from "./place.js";
import { current, firstPage, markOpen, onPage, showRows, startTable, step } from "./table.js";

const QUIET = 400;
const OVERVIEW_EVERY = 5000;
const REST = 5;

let asking = null;
let filtersShown = null;
let counted = null;

async function showList() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const params = query(here().filters);
  params.set("limit", "50");
  if (current()) params.set("cursor", current());
  const page = await ask(`/api/rows?${params}`, signal);
  if (signal.aborted) return;
  showRows(page);
  counted?.abort();
  counted = new AbortController();
  const total = await ask(`/api/count?${query(here().filters, ["sort", "cursor", "limit"])}`, counted.signal);
  byId("rows-count").textContent = number(total.requests);
}

// Whatever goes wrong is said above the page, and taken away when it went well again.
const troubles = new Map();
function tell(where, message) {
  if (message) troubles.set(where, message);
  else troubles.delete(where);
  const text = [...new Set(troubles.values())].join(" ");
  if (byId("trouble").textContent !== text) byId("trouble").textContent = text;
  byId("trouble").hidden = !text;
}

async function safely(where, work) {
  try {
    await work();
    tell(where, null);
  } catch (error) {
    if (error.name === "AbortError") return;
    tell(where, error.message);
    if (error.status === undefined) console.error(error);
  }
}

function show() {
  const place = here();
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === place.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("view-requests").hidden = place.view !== "requests";
  byId("view-overview").hidden = place.view !== "overview";
  const now = JSON.stringify([place.view, place.filters]);
  if (now !== filtersShown) {
    filtersShown = now;
    fillFilters();
    firstPage();
    refresh();
  }
  markOpen();
  safely("detail", showDetail);
}

function refresh() {
  if (here().view === "overview") return safely("list", showOverview);
  hideOverview();
  return safely("list", showList);
}

// The log has changed. What takes the log long to answer is asked less often.
let waiting = false;
let next = 0;
function soon() {
  if (waiting || current()) return;
  waiting = true;
  setTimeout(
    async () => {
      const begun = Date.now();
      await refresh();
      const rest = here().view === "overview" ? OVERVIEW_EVERY : QUIET;
      next = Date.now() + Math.max(rest, REST * (Date.now() - begun));
      waiting = false;
    },
    Math.max(QUIET, next - Date.now()),
  );
}

async function offerNames() {
  for (const [list, by] of [["models", "model"], ["providers", "provider"], ["upstreams", "upstream"], ["formats", "format"], ["finishes", "finish_reason"]]) {
    const found = await ask(`/api/statistics?by=${by}&top=50&since=7d`);
    offer(list, found.map((each) => each.group[by]));
  }
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = event.target.closest("input, select, textarea");
  if (event.key === "Escape") {
    if (writing && writing.value && writing.type === "search") return;
    if (here().id) closeDetail();
    else if (writing) writing.blur();
    return;
  }
  if (writing) return;
  const inDetail = byId("detail").contains(event.target);
  const moves = { j: 1, k: -1, ...(inDetail ? {} : { ArrowDown: 1, ArrowUp: -1 }) };
  if (event.key in moves && here().view === "requests") {
    event.preventDefault();
    step(moves[event.key]);
  } else if (event.key === "/") {
    event.preventDefault();
    byId("search").focus();
  } else if (event.key === "o") {
    go({ view: here().view === "overview" ? "requests" : "overview", id: null });
  }
}

function liveSwitch() {
  const button = byId("live-switch");
  let paused = false;
  const states = { live: "live", offline: "reconnecting", paused: "paused" };
  const say = (state) => {
    byId("live-state").textContent = states[state];
    button.dataset.state = state;
  };
  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(!paused));
    pause(paused);
    if (paused) say("paused");
    else refresh();
  });
  return say;
}

for (const link of document.querySelectorAll("[data-view]")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go({ view: link.dataset.view, id: null });
  });
}
const say = liveSwitch();
startTable();
startFilters();
onPage(() => refresh());
onMove(show);
document.addEventListener("keydown", keys);
show();
startLive({
  log: (gone) => {
    soon();
    if (gone.includes(here().id)) safely("detail", () => showDetail({ again: true }));
  },
  trouble: (message) => tell("live", message),
  state: say,
});
offerNames().catch(() => {}); // suggestions only; what is wrong with the log is said elsewhere
