// The figures and plots over a time, of the requests that fit the filters.

import { ask } from "./ask.js";
import { byId, el, put } from "./dom.js";
import { dollars, duration, number, percent, short } from "./format.js";
import { costs, figure, forget, outcomes, percentiles, spread, tokens } from "./plots.js";
import { here, query } from "./place.js";

const root = byId("view-overview");
const MEASURES = {
  latency_ms: ["Latency", duration],
  time_to_first_token_ms: ["Time to first token", duration],
  time_per_output_token_ms: ["Time per output token", duration],
  completion_tokens: ["Output tokens", (value) => number(Math.round(value))],
  cost: ["Cost", dollars],
};

// What is asked for: each figure costs the database time.
const PLOTTED = ["by_status", "latency_ms", "time_to_first_token_ms", "prompt_tokens", "completion_tokens", "cached_tokens", "cached_write_tokens", "reasoning_tokens"];
const SUMMED = ["streamed", "total_tokens", "without_usage", "cost", "without_cost"];

let parts = null;
let measure = "latency_ms";
let asking = null;

function build() {
  const figures = {
    outcomes: figure("Requests by outcome", null, "wide"),
    latency: figure("Latency", "from request to end"),
    first: figure("Time to first token", "from request to first output"),
    tokens: figure("Tokens by kind"),
    costs: figure("Cost by model"),
    spread: figure("Distribution", null, "wide"),
  };
  const choice = el("select", { "aria-label": "What is distributed", onchange: () => { measure = choice.value; showOverview(); } }, Object.entries(MEASURES).map(([value, [name]]) => el("option", { value }, name)));
  figures.spread.made.querySelector("figcaption").append(choice);
  const tiles = el("dl", { class: "tiles" });
  put(root, [el("h2", { class: "hidden" }, "Overview"), tiles, el("div", { class: "figures" }, Object.values(figures).map((each) => each.made))]);
  parts = { ...figures, tiles };
}

export async function showOverview() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  if (!parts) build();
  const params = query(here().filters, ["sort", "cursor", "limit"]);
  const narrow = root.clientWidth < 500;
  const with_ = (more) => `${new URLSearchParams([...params, ...Object.entries(more)])}`;
  const [total, buckets, models, found] = await Promise.all([
    ask(`/api/statistics?${with_({ figures: [...PLOTTED, ...SUMMED] })}`, signal),
    ask(`/api/series?${with_({ buckets: narrow ? 30 : 60, figures: PLOTTED })}`, signal),
    ask(`/api/statistics?${with_({ by: "model", top: 50, figures: "cost" })}`, signal),
    ask(`/api/histogram?${with_({ of: measure, bins: narrow ? 15 : 40 })}`, signal),
  ]);
  if (signal.aborted) return;
  showTiles(total);
  await Promise.all([
    outcomes(parts.outcomes, buckets, total),
    percentiles(parts.latency, buckets, total, "latency_ms", ["p50", "p95", "p99"]),
    percentiles(parts.first, buckets, total, "time_to_first_token_ms", ["p50", "p95"]),
    tokens(parts.tokens, buckets, total),
    costs(parts.costs, models),
    spread(parts.spread, found, MEASURES[measure][0].toLowerCase() + (measure.endsWith("_ms") ? ", ms" : ""), MEASURES[measure][1]),
  ]);
}

export function hideOverview() {
  asking?.abort();
  if (!parts) return;
  forget(root);
  parts = null;
  root.replaceChildren();
}

function showTiles(total) {
  const tile = (name, value, about) => el("div", { class: "tile" }, el("dt", {}, name), el("dd", {}, el("span", { class: "big num" }, value), about ? el("span", { class: "quiet" }, about) : null));
  const p = (spread) => [duration(spread.p50), spread.p95 === null ? null : `p95 ${duration(spread.p95)}`];
  put(parts.tiles, [
    tile("Requests", number(total.requests), `${number(total.streamed)} streamed`),
    tile("Success", percent(total.success_rate), total.by_status.error ? `${number(total.by_status.error)} ${total.by_status.error === 1 ? "error" : "errors"}` : "of those finished"),
    tile("First token, median", ...p(total.time_to_first_token_ms)),
    tile("Latency, median", ...p(total.latency_ms)),
    tile("Tokens", short(total.total_tokens), total.without_usage ? `${number(total.without_usage)} requests without` : `${short(total.completion_tokens)} of them out`),
    tile("Cost", dollars(total.cost), total.without_cost ? `${number(total.without_cost)} requests without` : null),
  ]);
}
