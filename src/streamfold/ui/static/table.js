// The list of requests: sorted, paged, and updated in place.

import { bdi, byId, el, keep, put } from "./dom.js";
import { dollars, duration, fullTime, number, short, when } from "./format.js";
import { address, go, here } from "./place.js";

const COLUMNS = [
  { name: "Time", sort: "created", className: "c-time" },
  { name: "Outcome", className: "c-status" },
  { name: "Model", className: "c-model" },
  { name: "Tokens", hint: "in → out", sort: "total_tokens", className: "c-tokens num" },
  { name: "Cost", sort: "cost", className: "c-cost num" },
  { name: "First token", sort: "time_to_first_token_ms", className: "c-ttft num" },
  { name: "Latency", sort: "latency_ms", className: "c-latency num" },
  { name: "Chunks", sort: "chunks", className: "c-chunks num" },
];

const body = el("tbody", { role: "rowgroup" });
const head = el("thead", { role: "rowgroup" });
const table = el("table", { class: "rows", role: "table", "aria-labelledby": "rows-title" }, head, body);
const empty = el("div", { class: "empty", hidden: true });
const previous = el("button", { type: "button", onclick: back }, "← Newer");
const next = el("button", { type: "button", onclick: forward }, "Older →");
const pages = el("nav", { class: "pages", "aria-label": "Pages", hidden: true }, previous, next);

let cursors = [];
let following = null;

export function startTable() {
  put(byId("rows"), [table, empty, pages]);
  table.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-key]");
    if (!row || event.ctrlKey || event.metaKey || getSelection().toString()) return;
    event.preventDefault();
    go({ id: row.dataset.key });
  });
}

export const current = () => cursors.at(-1) ?? null;

export function firstPage() {
  cursors = [];
}

let wanted = () => {};
export const onPage = (hear) => (wanted = hear);

function forward() {
  if (!following) return;
  cursors.push(following);
  wanted();
}

function back() {
  cursors.pop();
  wanted();
}

function showHead() {
  const sort = new Map(here().filters).get("sort") ?? "-created";
  const cells = COLUMNS.map((column) => {
    const label = [column.name, column.hint ? el("small", {}, ` ${column.hint}`) : null];
    if (!column.sort) return el("th", { role: "columnheader", scope: "col", class: column.className }, label);
    const down = sort === `-${column.sort}`;
    const up = sort === column.sort;
    const button = el(
      "button",
      { type: "button", "data-sort": column.sort, onclick: () => sortBy(down ? column.sort : `-${column.sort}`) },
      label,
      down || up ? el("span", { class: "arrow", "aria-hidden": "true" }, down ? "↓" : "↑") : null,
    );
    const order = down ? "descending" : up ? "ascending" : null;
    return el("th", { role: "columnheader", scope: "col", class: column.className, "aria-sort": order }, button);
  });
  const focused = document.activeElement?.dataset?.sort;
  put(head, [el("tr", { role: "row" }, cells)]);
  if (focused) head.querySelector(`[data-sort="${focused}"]`)?.focus();
}

function sortBy(sort) {
  const filters = here().filters.filter(([name]) => name !== "sort");
  if (sort !== "-created") filters.push(["sort", sort]);
  go({ filters });
}

export function showRows(page) {
  showHead();
  following = page.next_cursor;
  keep(body, page.rows, (row) => row.id, makeRow, updateRow);
  const none = !page.rows.length;
  table.hidden = none;
  empty.hidden = !none;
  pages.hidden = !cursors.length && !following;
  previous.disabled = !cursors.length;
  next.disabled = !following;
  const sorted = new Map(here().filters).get("sort") ?? "-created";
  previous.textContent = sorted === "-created" ? "← Newer" : "← Back";
  next.textContent = sorted === "-created" ? "Older →" : "More →";
  if (none) showEmpty();
  markOpen();
}

function showEmpty() {
  const narrowed = here().filters.some(([name]) => !["since", "until", "sort"].includes(name));
  put(empty, [
    el("p", { class: "empty-title" }, narrowed ? "No request fits these filters." : "No requests in this time."),
    narrowed
      ? el("p", {}, "Take one away above, or look at a longer time.")
      : [
          el("p", {}, "Point a client at this gateway, and its requests appear here as they happen:"),
          el("pre", { class: "code", tabindex: 0 }, `OPENAI_BASE_URL=${location.origin}/openai/v1\nANTHROPIC_BASE_URL=${location.origin}/anthropic`),
        ],
  ]);
}

function makeRow(row) {
  const link = el("a", { class: "open", draggable: "false" });
  const cells = COLUMNS.map((column) => el("td", { role: "cell", class: column.className }));
  cells[0].append(link);
  const made = el("tr", { role: "row" }, cells);
  made.dataset.key = row.id;
  return made;
}

function updateRow(made, row) {
  const [time, status, model, tokens, cost, ttft, latency, chunks] = made.children;
  const link = time.firstElementChild;
  link.textContent = when(row.created);
  link.title = fullTime(row.created);
  link.href = address({ ...here(), id: row.id });
  put(status, [badge(row.status), aside(row)]);
  const name = row.model ?? row.response_model;
  put(model, [
    name ? bdi(name, { class: "model" }) : el("span", { class: "quiet" }, "no model"),
    el("span", { class: "under" }, bdi(row.upstream ?? row.provider ?? "")),
  ]);
  put(tokens, tokensOf(row));
  put(cost, [row.cost === null ? el("span", { class: "quiet", title: row.cost_reason ?? "" }, "–") : dollars(row.cost), row.cost_complete === false ? el("abbr", { title: "Some part had no price" }, "+") : null]);
  put(ttft, [duration(row.time_to_first_token_ms)]);
  put(latency, [duration(row.latency_ms)]);
  put(chunks, [row.stream ? number(row.chunks) : el("span", { class: "quiet" }, "whole")]);
}

function tokensOf(row) {
  if (row.prompt_tokens === null && row.completion_tokens === null) {
    const guess = row.estimated_completion_tokens;
    return guess === null ? ["–"] : [el("span", { class: "quiet", title: "estimated from the text" }, `≈ ${short(row.estimated_prompt_tokens)} → ${short(guess)}`)];
  }
  return [short(row.prompt_tokens), el("span", { class: "quiet" }, " → "), short(row.completion_tokens)];
}

function aside(row) {
  const text = row.error_type ?? (row.finish_reason && row.finish_reason !== "stop" ? row.finish_reason : null);
  const odd = row.anomalies ? el("abbr", { class: "odd", title: `${row.anomalies} integrity notes` }, "⚠") : null;
  return [text ? bdi(text, { class: "why" }) : null, odd];
}

export function badge(status) {
  return el("span", { class: `badge s-${/^[a-z]+$/.test(status) ? status : "unknown"}` }, el("span", { class: "dot", "aria-hidden": "true" }), bdi(status));
}

export function markOpen() {
  const { id } = here();
  for (const each of body.children) {
    const open = each.dataset.key === id;
    each.classList.toggle("is-open", open);
    const link = each.querySelector("a");
    if (open) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

// Moves the focus up or down the list; with a row open, the next one is opened.
export function step(by) {
  const links = [...body.querySelectorAll("a.open")];
  if (!links.length) return;
  const { id } = here();
  let at = links.indexOf(document.activeElement);
  if (at < 0 && id) at = links.findIndex((each) => each.closest("tr").dataset.key === id);
  const target = links[at < 0 ? 0 : Math.min(Math.max(at + by, 0), links.length - 1)];
  target.focus();
  target.scrollIntoView({ block: "nearest" });
  if (id) go({ id: target.closest("tr").dataset.key }, { replace: true });
}

export function focusRow(id) {
  [...body.children].find((each) => each.dataset.key === id)?.querySelector("a")?.focus();
}
