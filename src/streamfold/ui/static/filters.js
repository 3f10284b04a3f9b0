// The filter bar: what is typed there goes into the address, what is in the address is shown there.

import { bdi, byId, el, put } from "./dom.js";
import { go, here, USUAL } from "./place.js";

const form = byId("filters");
const NAMES = new Set([...form.elements].map((each) => each.name).filter(Boolean));
const LATER = 300;

const shown = new Map([
  ["http_status", "HTTP"],
  ["session_id", "session"],
  ["finish_reason", "finish"],
  ["error_type", "error"],
  ["min_latency_ms", "latency ≥"],
  ["min_time_to_first_token_ms", "first token ≥"],
  ["min_total_tokens", "tokens ≥"],
  ["min_cost", "cost ≥"],
]);

function written() {
  const found = [];
  for (const each of form.elements) {
    if (!each.name || each.name === "since") continue;
    const value = each.type === "checkbox" ? (each.checked ? each.value : "") : each.value.trim();
    if (value) found.push([each.name, value]);
  }
  const since = byId("since").value;
  if (since === "range") {
    const from = moment(byId("range-from").value);
    const to = moment(byId("range-to").value);
    found.push(["since", from ?? "all"]);
    if (to) found.push(["until", to]);
  } else if (since !== USUAL) found.push(["since", since || "all"]);
  const [key, ...rest] = byId("metadata").value.split("=");
  if (key.trim() && rest.length) found.push([`metadata.${key.trim()}`, rest.join("=").trim()]);
  // What has no field here (from a link) stays.
  const kept = here().filters.filter(([name]) => !NAMES.has(name) && !["since", "until"].includes(name) && !name.startsWith("metadata."));
  return [...found, ...kept.filter(([name]) => name !== "cursor")];
}

function moment(text) {
  const found = text ? new Date(text) : null;
  return found && !Number.isNaN(found.getTime()) ? found.toISOString() : null;
}

function local(text) {
  const found = new Date(text);
  if (Number.isNaN(found.getTime())) return "";
  return new Date(found.getTime() - found.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

let timer = null;
function soon() {
  clearTimeout(timer);
  timer = setTimeout(() => go({ filters: written() }, { replace: true }), LATER);
}

export function fillFilters() {
  const { filters } = here();
  const values = new Map(filters);
  for (const each of form.elements) {
    if (!each.name || each.name === "since" || each === document.activeElement) continue;
    if (each.type === "checkbox") each.checked = values.has(each.name);
    else each.value = values.get(each.name) ?? "";
  }
  const since = values.get("since") ?? USUAL;
  const choices = [...byId("since").options].map((each) => each.value);
  const isRange = values.has("until") || (since !== "all" && !choices.includes(since));
  const choosing = byId("since").value === "range" && !byId("range").hidden && !isRange && since === "all";
  if (!choosing) byId("since").value = isRange ? "range" : since === "all" ? "" : since;
  byId("range").hidden = byId("since").value !== "range";
  if (isRange) {
    byId("range-from").value = since === "all" ? "" : local(since);
    byId("range-to").value = values.has("until") ? local(values.get("until")) : "";
  }
  const about = filters.find(([name]) => name.startsWith("metadata."));
  if (byId("metadata") !== document.activeElement) {
    byId("metadata").value = about ? `${about[0].slice("metadata.".length)}=${about[1]}` : "";
  }
  showChips(filters);
}

function showChips(filters) {
  const active = filters.filter(([name]) => !["since", "until", "sort", "cursor"].includes(name));
  byId("chips").hidden = !active.length;
  const chips = active.map(([name, value]) =>
    el(
      "button",
      {
        type: "button",
        class: "chip",
        title: "Remove this filter",
        onclick: () => go({ filters: here().filters.filter((each) => !(each[0] === name && each[1] === value)) }),
      },
      `${shown.get(name) ?? name.replaceAll("_", " ")}: `,
      bdi(value === "true" && ["missing_cost", "everywhere"].includes(name) ? "yes" : value),
      el("span", { "aria-hidden": "true", class: "x" }, "×"),
    ),
  );
  const clear = el(
    "button",
    { type: "button", class: "chip clear", onclick: () => go({ filters: filters.filter(([name]) => ["since", "until"].includes(name)) }) },
    "Clear all",
  );
  put(byId("chips"), [...chips, active.length > 1 ? clear : null]);
}

export function offer(list, values) {
  put(byId(list), values.filter(Boolean).map((value) => el("option", { value })));
}

export function startFilters() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    go({ filters: written() });
  });
  form.addEventListener("input", soon);
  form.addEventListener("change", (event) => {
    if (event.target.id === "since" && event.target.value === "range") byId("range").hidden = false;
    soon();
  });
  byId("more-switch").addEventListener("click", () => showMore(byId("more").hidden));
  showMore(here().filters.some(([name]) => byId("more").querySelector(`[name="${CSS.escape(name)}"]`)));
}

function showMore(yes) {
  byId("more").hidden = !yes;
  byId("more-switch").setAttribute("aria-expanded", String(yes));
}
