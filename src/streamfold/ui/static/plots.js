// Plots, drawn by plotly.js, which is fetched when there is something to draw.
//
// Two rules about it. It reads a kind of markup in the texts it is given, so names that somebody else chose go through
// `plain`. And it makes style elements: the policy refuses those with text, and `styled` says that they are there.

import { el, put } from "./dom.js";
import { dollars, duration, number, short } from "./format.js";

let loading = null;

function plotly() {
  loading ??= new Promise((resolve, reject) => {
    // plotly.js has a library for maps in it, which brings its styles unless it finds them by this id.
    document.head.append(el("meta", { id: "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53" }));
    const script = el("script", { src: "/ui/plotly.min.js" });
    script.onload = () => resolve(globalThis.Plotly);
    script.onerror = () => {
      loading = null;
      reject(new Error("no plotly"));
    };
    document.head.append(script);
  });
  return loading;
}

const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const fit = (text, most = 26) => ([...text].length > most ? [...text].slice(0, most - 1).join("") + "…" : text);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const STATUS_COLOURS = { success: "ok", error: "bad", cancelled: "warm", truncated: "hot", timeout: "violet", abandoned: "grey", empty: "grey-2", processing: "accent" };

function layout(more = {}, width = 0) {
  const axis = { gridcolor: colour("line"), linecolor: colour("line-2"), zeroline: false, tickfont: { color: colour("text-2"), size: 11 }, automargin: true, fixedrange: true, title: { font: { size: 11, color: colour("text-2") } } };
  const { xaxis, yaxis, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colour("text") },
    margin: { l: 8, r: 8, t: 8, b: 8 },
    height: 220,
    bargap: 0.15,
    dragmode: false,
    hovermode: "x unified",
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line-2"), font: { color: colour("text"), size: 12 } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11, color: colour("text-2") }, itemclick: "toggle", traceorder: "normal" },
    showlegend: true,
    xaxis: { ...axis, showgrid: false, tickangle: 0, nticks: Math.max(4, Math.floor((width || 600) / 65)), ...xaxis },
    yaxis: { ...axis, rangemode: "tozero", ...yaxis },
    axis,
    ...rest,
  };
}

// Long times are drawn in seconds, short ones in milliseconds.
const timeScale = (most) => (most > 5000 ? { by: 1000, unit: " s", name: "s" } : { by: 1, unit: " ms", name: "ms" });

const drawn = new Map();

async function draw(where, make) {
  drawn.set(where, make);
  let Plotly;
  try {
    Plotly = await plotly();
  } catch {
    put(where, [el("p", { class: "quiet" }, 'Plots need plotly: pip install "streamfold[ui]"')]);
    return;
  }
  if (drawn.get(where) !== make || !where.isConnected) return;
  const { traces, about } = make(where.clientWidth);
  const { axis, ...rest } = about;
  if (!where.classList.contains("js-plotly-plot")) where.replaceChildren();
  await Plotly.react(where, traces, rest, { displayModeBar: false, responsive: true, showTips: false });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [where, make] of drawn) {
    if (where.isConnected) draw(where, make);
    else drawn.delete(where);
  }
});

// Plots that are no longer shown are given back, all but the one that is to be drawn on.
export function forget(root, kept = null) {
  for (const where of [...drawn.keys()]) {
    if (!root.contains(where) || where === kept?.frame.where) continue;
    drawn.delete(where);
    globalThis.Plotly?.purge(where);
  }
}

export function figure(title, about, className = "") {
  const where = el("div", { class: "plot", role: "img", "aria-label": title });
  const summary = el("p", { class: "summary" });
  const made = el("figure", { class: `figure ${className}` }, el("figcaption", {}, el("h3", {}, title), about ? el("span", { class: "quiet" }, about) : null), where, summary);
  return { made, where, tell: (text) => { summary.textContent = text; where.setAttribute("aria-label", `${title}: ${text}`); } };
}

// ---------------------------------------------------------------------- one request

// When the pieces came: above, how many had come by when; below, how long each was waited for. The plot of a request
// under way grows: `before` is what was made of it the last time, and is drawn on.
export function arrivals(row, before = null) {
  const at = (Array.isArray(row.arrivals) ? row.arrivals : []).map(Number).filter(Number.isFinite);
  if (!at.length) return null;
  const frame = before?.frame ?? figure("Arrival of the answer", null, "arrivals");
  const { made, where, tell } = frame;
  const waits = at.slice(1).map((each, index) => each - at[index]);
  const longest = waits.reduce((most, gap) => Math.max(most, gap), 0);
  const thinned = at.length >= 500 && row.chunks > at.length;
  const first = row.time_to_first_token_ms;
  tell(
    [
      `${number(at.length)} ${at.length === 1 ? "read" : "reads"}${thinned ? " (thinned out; the longest gaps are kept)" : ""} within ${duration(at.at(-1))}${row.status === "processing" ? " so far" : ""}`,
      first === null ? null : `first token after ${duration(first)}`,
      at.length > 1 ? `longest gap ${duration(longest)}` : null,
    ].filter(Boolean).join(", ") + ".",
  );
  const make = (width) => {
    const scale = timeScale(at.at(-1));
    const x = at.map((each) => each / scale.by);
    const line = { x: [0, ...x], y: [0, ...at.map((_, index) => index + 1)], type: "scatter", mode: at.length > 120 ? "lines" : "lines+markers", line: { shape: "hv", color: colour("accent"), width: 2 }, marker: { size: 4, color: colour("accent") }, fill: "tozeroy", fillcolor: colour("accent-soft"), name: "reads", hovertemplate: `%{y} reads by %{x:.2f}${scale.unit}<extra></extra>` };
    // The wait for the first piece is marked above, and would leave the gaps no room here.
    const bars = { x: x.slice(1), y: waits, type: "scatter", mode: "markers", yaxis: "y2", name: "gap", marker: { size: 4, color: waits.map((gap) => (gap === longest && longest > 0 ? colour("bad") : colour("text-2"))) }, error_y: { type: "data", symmetric: false, array: waits.map(() => 0), arrayminus: waits, width: 0, thickness: 1.5, color: colour("line-3") }, hovertemplate: `%{y:.1f} ms before the read at %{x:.2f}${scale.unit}<extra></extra>` };
    const shapes = first === null ? [] : [{ type: "line", x0: first / scale.by, x1: first / scale.by, y0: 0, y1: 1, yref: "paper", line: { color: colour("ok"), width: 1.5, dash: "dot" } }];
    const notes = first === null ? [] : [{ x: first / scale.by, y: 1, yref: "paper", yanchor: "bottom", xanchor: "left", text: `first token ${duration(first)}`, showarrow: false, font: { size: 11, color: colour("ok") } }];
    const about = layout({ height: 270, hovermode: "closest", showlegend: false, margin: { l: 8, r: 8, t: 22, b: 8 }, shapes, annotations: notes, xaxis: { ticksuffix: scale.unit, range: [0, x.at(-1) * 1.02 || 1], anchor: "y2" }, yaxis: { domain: [0.42, 1], title: { text: "reads", font: { size: 11, color: colour("text-2") } } } }, width);
    about.yaxis2 = { ...about.axis, domain: [0, 0.32], rangemode: "tozero", nticks: 3, title: { text: "gap, ms", font: { size: 11, color: colour("text-2") } } };
    return { traces: [line, bars], about };
  };
  return { frame, made, draw: () => draw(where, make) };
}

// ---------------------------------------------------------------------- many

// The day stands below the first of its hours; with the year, as plotly.js has it, two would touch on a phone.
const TICKS = [
  { dtickrange: [null, 59_999], value: "%H:%M:%S\n%-d %b" },
  { dtickrange: [60_000, 86_399_999], value: "%H:%M\n%-d %b" },
  { dtickrange: [86_400_000, null], value: "%-d %b\n%Y" },
];

const middle = (bucket) => new Date((Date.parse(bucket.start) + Date.parse(bucket.end)) / 2);
const span = (buckets) => (buckets.length ? { range: [buckets[0].start, buckets.at(-1).end].map((each) => localTime(new Date(each))) } : {});
// plotly.js draws times as they are written, so they are written in the reader's zone.
const localTime = (moment) => new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, -1);

export function outcomes({ where, tell }, buckets, total) {
  const present = Object.keys(STATUS_COLOURS).filter((status) => total.by_status[status]);
  tell(present.map((status) => `${number(total.by_status[status])} ${status}`).join(", ") || "No requests.");
  const x = buckets.map((each) => localTime(middle(each)));
  return draw(where, (width) => ({
    traces: present.map((status) => ({ x, y: buckets.map((each) => each.statistics.by_status[status] ?? 0), type: "bar", name: status, marker: { color: colour(STATUS_COLOURS[status]) } })),
    about: layout({ barmode: "stack", xaxis: { type: "date", tickformatstops: TICKS, ...span(buckets) } }, width),
  }));
}

export function percentiles({ where, tell }, buckets, total, column, which) {
  tell(total[column].p50 === null ? "No values." : which.map((p) => `${p} ${duration(total[column][p])}`).join(", ") + ".");
  const x = buckets.map((each) => localTime(middle(each)));
  const scale = timeScale(Math.max(0, ...buckets.flatMap((each) => which.map((p) => each.statistics[column][p] ?? 0))));
  const colours = { p50: "accent", p95: "warm", p99: "bad" };
  return draw(where, (width) => ({
    traces: which.map((p) => ({ x, y: buckets.map((each) => over(each.statistics[column][p], scale.by)), type: "scatter", mode: "lines+markers", name: p, connectgaps: false, line: { color: colour(colours[p]), width: 2 }, marker: { size: 4 }, text: buckets.map((each) => duration(each.statistics[column][p])), hovertemplate: `%{text}<extra>${p}</extra>` })),
    about: layout({ xaxis: { type: "date", tickformatstops: TICKS, ...span(buckets) }, yaxis: { ticksuffix: scale.unit, rangemode: "tozero" } }, width),
  }));
}

export const KINDS = [
  ["input", "accent", (s) => less(s.prompt_tokens, s.cached_tokens, s.cached_write_tokens)],
  ["input from cache", "accent-2", (s) => s.cached_tokens],
  ["input into cache", "violet", (s) => s.cached_write_tokens],
  ["output", "ok", (s) => less(s.completion_tokens, s.reasoning_tokens)],
  ["reasoning", "warm", (s) => s.reasoning_tokens],
];
const less = (whole, ...parts) => (whole === null ? null : Math.max(0, parts.reduce((left, part) => left - (part ?? 0), whole)));

const over = (value, by) => (value === null ? null : value / by);

export function tokens({ where, tell }, buckets, total) {
  const kinds = KINDS.filter(([, , of]) => of(total));
  tell(kinds.map(([name, , of]) => `${short(of(total))} ${name}`).join(", ") || "No token counts.");
  const x = buckets.map((each) => localTime(middle(each)));
  return draw(where, (width) => ({
    traces: kinds.map(([name, tone, of]) => ({ x, y: buckets.map((each) => of(each.statistics) ?? 0), type: "bar", name, marker: { color: colour(tone) } })),
    about: layout({ barmode: "stack", xaxis: { type: "date", tickformatstops: TICKS, ...span(buckets) } }, width),
  }));
}

export function costs({ where, tell }, groups) {
  const found = groups.filter((each) => each.cost).sort((a, b) => b.cost - a.cost).slice(0, 10);
  const sum = groups.reduce((left, each) => left + (each.cost ?? 0), 0);
  tell(found.length ? `${dollars(sum)} in all; most for ${fit(found[0].group.model ?? "no model", 40)} (${dollars(found[0].cost)}).` : "No costs are known.");
  const rows = found.reverse();
  return draw(where, (width) => ({
    traces: [{ x: rows.map((each) => each.cost), y: rows.map((_, index) => index), type: "bar", orientation: "h", marker: { color: colour("accent") }, text: rows.map((each) => dollars(each.cost)), textposition: "auto", cliponaxis: false, hoverinfo: "none", textfont: { size: 11 } }],
    about: layout({ showlegend: false, hovermode: false, height: Math.max(120, 40 + rows.length * 28), xaxis: { tickprefix: "$", nticks: 4, exponentformat: "none" }, yaxis: { tickvals: rows.map((_, index) => index), ticktext: rows.map((each) => plain(fit(each.group.model ?? "no model"))), showgrid: false } }, width),
  }));
}

export function spread({ where, tell }, found, label, unit) {
  tell(found.count ? `${number(found.count)} values from ${unit(found.bins[0].low)} to ${unit(found.bins.at(-1).high)}; ${number(found.missing)} requests have none.` : "No values.");
  return draw(where, (width) => ({
    traces: [{ x: found.bins.map((each) => (each.low + each.high) / 2), y: found.bins.map((each) => each.count), width: found.bins.map((each) => (each.high - each.low) * 0.95 || 1), type: "bar", marker: { color: colour("accent") }, text: found.bins.map((each) => `${unit(each.low)} to ${unit(each.high)}: ${number(each.count)}`), textposition: "none", hovertemplate: "%{text}<extra></extra>" }],
    about: layout({ showlegend: false, hovermode: "closest", xaxis: { title: { text: label, font: { size: 11, color: colour("text-2") } } } }, width),
  }));
}

