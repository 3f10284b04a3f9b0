// One request, whole.

import { askTwice } from "./ask.js";
import { bdi, byId, el, put, said } from "./dom.js";
import { bytes, DASH, dollars, duration, exactDollars, fullTime, number } from "./format.js";
import { address, go, here } from "./place.js";
import { arrivals, forget } from "./plots.js";
import { badge, focusRow } from "./table.js";

const panel = byId("detail");
const AGAIN = 700;

let shown = null;
let asking = null;
let timer = null;
let opened = new Map();
let plot = null; // of what is shown

export async function showDetail({ again = false } = {}) {
  const { id } = here();
  clearTimeout(timer);
  if (!id) return hideDetail();
  if (shown !== id) {
    plot = null;
    forget(panel);
    put(panel, [top(id, null), el("p", { class: "quiet pad" }, "Loading …")]);
    opened = new Map();
  } else if (!again) return undefined;
  const wasClosed = panel.hidden;
  panel.hidden = false;
  document.body.classList.add("has-detail");
  const isNew = shown !== id;
  shown = id;
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    const [row, exact] = await askTwice(`/api/rows/${encodeURIComponent(id)}`, signal);
    if (signal.aborted) return undefined;
    show(row, exact);
    if (row.status === "processing") timer = setTimeout(() => showDetail({ again: true }), AGAIN);
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    put(panel, [top(id, null), el("p", { class: "pad", role: "alert" }, error.message)]);
  }
  if (isNew) panel.scrollTop = 0;
  if (wasClosed) panel.querySelector(".close")?.focus();
  return undefined;
}

function hideDetail() {
  if (panel.hidden) return;
  asking?.abort();
  const id = shown;
  const inside = panel.contains(document.activeElement);
  shown = null;
  panel.hidden = true;
  plot = null;
  forget(panel);
  panel.replaceChildren();
  document.body.classList.remove("has-detail");
  if (inside) focusRow(id);
}

export const closeDetail = () => go({ id: null });

function top(id, row) {
  const name = row ? (row.model ?? row.response_model ?? row.path ?? "Request") : "Request";
  return el(
    "header",
    { class: "detail-top" },
    el("div", {}, el("h2", { id: "detail-title" }, bdi(name)), row ? badge(row.status) : null),
    el("button", { type: "button", class: "close", "aria-label": "Close the detail", title: "Close (Esc)", onclick: closeDetail }, "×"),
    el("p", { class: "ids" }, row ? el("time", { datetime: row.created }, fullTime(row.created)) : null, row ? " · " : null, el("code", {}, bdi(id))),
  );
}

function show(row, exact) {
  const record = isObject(row.record) ? row.record : {};
  const scroll = panel.scrollTop;
  const focus = document.activeElement?.dataset?.focus;
  const closing = panel.contains(document.activeElement) && document.activeElement.classList.contains("close");
  plot = arrivals(row, plot);
  forget(panel, plot);
  put(panel, [
    top(row.id, row),
    failure(row, record),
    figures(row, record),
    section("answer", "Answer", answer(row, record), { open: true }),
    plot ? section("arrivals", "Arrival", [plot.made], { open: true }) : null,
    section("request", "Request", request(row, exact), { open: false, about: bytes(row.request_bytes) }),
    section("usage", "Usage and cost", usage(row, record), { open: true }),
    section("integrity", "Integrity", integrity(row, record), { open: row.anomalies > 0, about: row.anomalies ? `${number(row.anomalies)} notes` : "nothing odd" }),
    section("native", "Native response", json(exact.record?.response), { about: "as the provider would have sent it unstreamed" }),
    section("tape", "Raw tape", tape(record.raw_response)),
    section("about", "About", about(row, exact)),
    section("record", "Whole record", json(exact.record)),
  ]);
  plot?.draw();
  panel.scrollTop = scroll;
  if (focus) panel.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
  else if (closing) panel.querySelector(".close").focus();
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function section(name, title, inside, { open = false, about: note = null } = {}) {
  if (!inside || (Array.isArray(inside) && !inside.flat().some(Boolean))) return null;
  const isOpen = opened.get(name) ?? open;
  return el(
    "details",
    { class: `section section-${name}`, open: isOpen, ontoggle: (event) => opened.set(name, event.target.open) },
    el("summary", { "data-focus": name }, el("h3", {}, title), note ? el("span", { class: "quiet" }, note) : null),
    el("div", { class: "section-in" }, inside),
  );
}

// ---------------------------------------------------------------------- parts

function failure(row, record) {
  const error = isObject(record.error_details) ? record.error_details : {};
  const message = row.error_message ?? error.message;
  if (!message && !row.error_type) return null;
  const head = [row.error_type, row.error_code !== row.error_type ? row.error_code : null, row.http_status ? `HTTP ${row.http_status}` : null, error.param ? `parameter ${error.param}` : null, error.retryable === true ? "may be retried" : null].filter(Boolean).join(" · ");
  return el("div", { class: "failure" }, el("strong", {}, bdi(head || "Error")), message ? said(String(message), "said plain") : null);
}

function figures(row, record) {
  const usage_ = isObject(record.token_usage) ? record.token_usage : {};
  const figure = (name, value, note) => el("div", {}, el("dt", {}, name), el("dd", { class: "num" }, value, note ? el("span", { class: "quiet" }, " ", note) : null));
  const speed = row.time_per_output_token_ms ? `${(1000 / row.time_per_output_token_ms).toFixed(0)} tokens/s` : null;
  return el(
    "dl",
    { class: "facts" },
    figure("First token", duration(row.time_to_first_token_ms)),
    figure("Latency", duration(row.latency_ms)),
    figure("Per output token", duration(row.time_per_output_token_ms), speed),
    figure("Longest gap", duration(row.max_gap_ms)),
    figure("Tokens", ...tokens(row, usage_)),
    figure("Cost", dollars(row.cost), row.cost_complete === false ? "incomplete" : null),
    figure("Chunks", row.stream ? number(row.chunks) : "not streamed", row.response_bytes === null ? null : bytes(row.response_bytes)),
    figure("Finish", row.finish_reason ? bdi(row.finish_reason) : DASH, row.raw_finish_reason && row.raw_finish_reason !== row.finish_reason ? bdi(row.raw_finish_reason) : null),
  );
}

function tokens(row, usage_) {
  const known = row.prompt_tokens ?? row.completion_tokens ?? null;
  const guess = row.estimated_completion_tokens ?? null;
  if (known === null && guess !== null) return [`≈ ${number(row.estimated_prompt_tokens)} → ${number(guess)}`, "estimated"];
  return [`${number(row.prompt_tokens)} → ${number(row.completion_tokens)}`, usage_.source && usage_.source !== "provider" ? usage_.source : null];
}

function answer(row, record) {
  const found = [];
  const choices = Array.isArray(record.choices) && record.choices.length > 1 ? record.choices.filter(isObject) : null;
  if (choices) {
    for (const choice of choices) found.push(el("h4", {}, `Choice ${choice.index}`, choice.finish_reason ? el("span", { class: "quiet" }, " ", bdi(choice.finish_reason)) : null), message(choice.message));
  } else found.push(message(record.output_message, record.tool_calls));
  const heard = record.transcription_output;
  if (isObject(heard)) found.push(typeof heard.text === "string" ? said(heard.text) : json(heard));
  if (record.image_generation_output) found.push(el("h4", {}, "Images"), json(record.image_generation_output));
  if (record.audio_output) found.push(el("h4", {}, "Audio"), json(record.audio_output));
  if (record.passthrough_output) found.push(el("h4", {}, "Body"), json(record.passthrough_output));
  if (found.flat(Infinity).some(Boolean)) return found;
  const none = row.status === "processing" ? "Nothing has come yet." : row.record === null ? "The answer was not kept." : "No text came.";
  return [el("p", { class: "quiet" }, none)];
}

function message(from, calls) {
  if (!isObject(from)) return calls ? toolCalls(calls) : [];
  const found = [];
  if (from.reasoning) found.push(el("div", { class: "reasoning" }, el("h4", {}, "Reasoning"), text(from.reasoning)));
  if (from.content) found.push(text(from.content));
  if (from.refusal) found.push(el("h4", {}, "Refusal"), text(from.refusal));
  if (isObject(from.audio) && from.audio.transcript) found.push(el("h4", {}, "Spoken"), text(from.audio.transcript));
  found.push(...toolCalls(from.tool_calls ?? calls));
  if (isObject(from.function_call)) found.push(...toolCalls([{ function: from.function_call, arguments_complete: true }]));
  if (Array.isArray(from.images) && from.images.length) found.push(el("h4", {}, "Images"), json(from.images));
  if (Array.isArray(from.annotations) && from.annotations.length) found.push(el("details", { class: "inner" }, el("summary", {}, `${from.annotations.length} annotations`), json(from.annotations)));
  return found;
}

const text = (value) => (typeof value === "string" ? said(value) : json(value));

function toolCalls(calls) {
  if (!Array.isArray(calls)) return [];
  return calls.filter(isObject).map((call) => {
    const name = call.function?.name ?? call.custom?.name ?? "tool";
    const given = call.function?.arguments ?? call.custom?.input ?? "";
    return el(
      "div",
      { class: "call" },
      el("div", { class: "call-top" }, el("span", { class: "quiet" }, "calls "), bdi(name, { class: "call-name" }), call.arguments_complete === false ? el("span", { class: "note-bad" }, "arguments cut off") : null, call.id ? el("code", { class: "quiet" }, bdi(call.id)) : null),
      said(pretty(given), "said code"),
    );
  });
}

function pretty(given) {
  if (typeof given !== "string") return JSON.stringify(given, null, 2);
  try {
    return JSON.stringify(JSON.parse(given), null, 2);
  } catch {
    return given;
  }
}

function json(value) {
  return value === null || value === undefined ? null : said(typeof value === "string" ? value : JSON.stringify(value, null, 2), "said code");
}

function request(row, exact) {
  const asked = row.request;
  if (asked === null && row.params === null) return null;
  const found = isObject(asked) ? turns(asked) : [];
  return [...found, el("details", { class: "inner", open: !found.length }, el("summary", {}, "As JSON"), json(exact.request ?? exact.params))];
}

// What was said to the model, in the words of whichever API it was.
function turns(asked) {
  const found = [];
  const add = (role, value) => {
    const words = spoken(value);
    if (words) found.push(el("div", { class: "turn" }, el("h4", {}, bdi(role)), said(words)));
  };
  if (asked.system) add("system", asked.system);
  if (asked.systemInstruction) add("system", asked.systemInstruction.parts);
  if (asked.instructions) add("instructions", asked.instructions);
  for (const each of lists(asked.messages, asked.contents, asked.input)) {
    if (isObject(each)) add(each.role ?? each.type ?? "input", each.content ?? each.parts ?? each.output ?? each.arguments);
  }
  if (typeof asked.input === "string") add("input", asked.input);
  if (typeof asked.prompt === "string") add("prompt", asked.prompt);
  return found;
}

const lists = (...values) => values.filter(Array.isArray).flat();

function spoken(value) {
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return value.map(spoken).filter(Boolean).join("\n");
  if (!isObject(value)) return "";
  if (typeof value.text === "string") return value.text;
  return value.content !== undefined ? spoken(value.content) : `[${value.type ?? Object.keys(value)[0] ?? "part"}]`;
}

const NAMES = { prompt_tokens: "Input", completion_tokens: "Output", total_tokens: "Total", cached_read_tokens: "read from cache", cached_write_tokens: "written to cache", reasoning_tokens: "reasoning", audio_tokens: "audio", image_tokens: "image", text_tokens: "text" };

function usage(row, record) {
  const said_ = isObject(record.token_usage) ? record.token_usage : null;
  const guess = isObject(record.estimated_usage) ? record.estimated_usage : null;
  return [said_ ? usageTable(said_, said_.source) : el("p", { class: "quiet" }, "The provider told no usage."), guess ? [el("h4", {}, "Estimated from the text, never billed"), usageTable(guess, "estimated")] : null, bill(row, record)];
}

function usageTable(from, source) {
  const line = (name, value, under) => (value === null || value === undefined ? null : el("tr", { class: under ? "sub" : null }, el("th", { scope: "row" }, name), el("td", { class: "num" }, number(value))));
  const parts = (of) => (isObject(of) ? Object.entries(of).map(([name, value]) => (typeof value === "number" ? line(NAMES[name] ?? name.replaceAll("_", " "), value, true) : null)) : null);
  return el("table", { class: "plain" }, el("caption", {}, "Tokens", el("span", { class: "quiet" }, ` said by: ${source}`)), el("tbody", {}, line("Input", from.prompt_tokens), parts(from.prompt_tokens_details), line("Output", from.completion_tokens), parts(from.completion_tokens_details), line("Total", from.total_tokens), line("Seconds", from.seconds)));
}

// The arithmetic: units times rate, line by line.
function bill(row, record) {
  const cost = isObject(record.cost) ? record.cost : null;
  if (!cost) return el("p", { class: "quiet" }, `No cost: ${row.cost_reason ?? record.cost_reason ?? "nothing to price"}.`);
  const details = isObject(cost.details) ? cost.details : {};
  const lines = isObject(details.components) ? Object.entries(details.components).filter(([, each]) => isObject(each)) : [];
  const foot = el("tr", {}, el("th", { scope: "row", colspan: lines.length ? 3 : 1 }, "Total", cost.complete === false ? " of what has a price" : null), el("td", { class: "num" }, exactDollars(cost.total_cost)));
  const head = el("tr", {}, el("th", { scope: "col" }, "Part"), el("th", { scope: "col", class: "num" }, "Units"), el("th", { scope: "col", class: "num" }, "Rate"), el("th", { scope: "col", class: "num" }, "Cost"));
  const rows = lines.map(([name, each]) => el("tr", {}, el("th", { scope: "row" }, bdi(name.replaceAll("_", " "))), el("td", { class: "num" }, number(each.units)), el("td", { class: "num" }, rate(name, each.rate)), el("td", { class: "num" }, exactDollars(each.cost))));
  const priced = isObject(details.priced_as) ? Object.values(details.priced_as).filter((each) => typeof each === "string").join(" · ") : details.priced_as;
  return [
    el("table", { class: "plain bill" }, el("caption", {}, "Cost", el("span", { class: "quiet" }, ` from: ${cost.source ?? "catalog"}`)), lines.length ? el("thead", {}, head) : null, el("tbody", {}, rows), el("tfoot", {}, foot)),
    priced ? el("p", { class: "quiet" }, "Priced as ", bdi(priced)) : null,
    Array.isArray(details.incomplete) && details.incomplete.length ? el("ul", { class: "doubts" }, details.incomplete.map((each) => el("li", {}, bdi(each)))) : null,
  ];
}

function rate(name, value) {
  if (value === null || value === undefined) return "no price";
  const perMillion = value > 0 && value < 0.001;
  return perMillion ? `${exactDollars(Number((value * 1e6).toPrecision(12)))} per million` : exactDollars(value);
}

function integrity(row, record) {
  const told = isObject(record.integrity) ? record.integrity : null;
  if (!told) return null;
  const codes = Array.isArray(told.anomalies) ? told.anomalies : [];
  const facts = Object.entries(told).filter(([name, value]) => name !== "anomalies" && !(Array.isArray(value) && !value.length));
  return [
    codes.length ? el("ul", { class: "codes" }, codes.map((code) => el("li", {}, el("code", {}, bdi(code))))) : null,
    list(facts.map(([name, value]) => [name.replaceAll("_", " "), value === true ? "yes" : value === false ? "no" : Array.isArray(value) ? value.join(", ") : number(value)])),
  ];
}

function tape(value) {
  if (!value) return null;
  let lines = value;
  if (typeof value === "string") {
    try {
      lines = JSON.parse(value);
    } catch {
      return said(value, "said code");
    }
  }
  return Array.isArray(lines) ? said(lines.map((each) => (typeof each === "string" ? each : JSON.stringify(each))).join("\n"), "said code") : json(lines);
}

function about(row, exact) {
  const pairs = [
    ["Path", row.path && `${row.method ?? ""} ${row.path}`],
    ["Upstream", row.upstream],
    ["Provider", row.provider],
    ["Format", row.format],
    ["Kind", row.stream_type],
    ["Model asked", row.model],
    ["Model served", row.response_model],
    ["HTTP status", row.http_status],
    ["Began", fullTime(row.created)],
    ["Ended", row.ended && fullTime(row.ended)],
    ["First chunk", row.time_to_first_chunk_ms === null ? null : duration(row.time_to_first_chunk_ms)],
    ["First content", row.time_to_first_content_ms === null ? null : duration(row.time_to_first_content_ms)],
    ["Client", row.client],
    ["User agent", row.user_agent],
    ["Attempt", row.attempt ? row.attempt + 1 : null],
    ["Response id", row.response_id],
    ["Service tier", row.service_tier],
    ["Cache", row.cache_hit],
    ["Trace", row.trace_id],
    ["Process", row.status === "processing" ? row.instance : null],
  ];
  const linked = [
    row.session_id ? ["Session", el("a", { href: address({ view: "requests", id: null, filters: [["session_id", row.session_id], ["since", "all"]] }) }, bdi(row.session_id))] : null,
    row.parent_id ? ["Retry of", el("a", { href: address({ ...here(), id: row.parent_id }) }, bdi(row.parent_id))] : null,
  ].filter(Boolean);
  return [list([...pairs, ...linked]), more("Metadata", row.metadata), more("Request headers", row.headers), more("Parameters", exact.params), more("Tools offered", exact.tools)];
}

function more(title, value) {
  if (value === null || value === undefined) return null;
  return el("details", { class: "inner" }, el("summary", {}, title), isObject(value) && Object.values(value).every((each) => typeof each === "string") ? list(Object.entries(value)) : json(value));
}

function list(pairs) {
  const found = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "pairs" }, found.map(([name, value]) => [el("dt", {}, bdi(name)), el("dd", {}, value instanceof Node ? value : bdi(value))]));
}
