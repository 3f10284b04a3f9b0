// Where we are: the address holds the view, the open row and the filters, so that it can be kept, sent and gone back to.

const OURS = new Set(["view", "id"]);
export const USUAL = "24h";

export function here() {
  const params = new URLSearchParams(location.search);
  const filters = [...params].filter(([key, value]) => !OURS.has(key) && value !== "");
  return { view: params.get("view") === "overview" ? "overview" : "requests", id: params.get("id"), filters };
}

// The filters as the API wants them: without a time, the usual one; `since=all` means none.
export function query(filters, drop = []) {
  const params = new URLSearchParams(filters.filter(([key]) => !drop.includes(key)));
  if (!params.has("since") && !params.has("until")) params.set("since", USUAL);
  if (params.get("since") === "all") params.delete("since");
  return params;
}

export function address({ view, id, filters }) {
  const params = new URLSearchParams();
  if (view !== "requests") params.set("view", view);
  for (const [key, value] of filters) params.append(key, value);
  if (id) params.set("id", id);
  const text = params.toString();
  return text ? `/?${text}` : "/";
}

const told = new Set();
export const onMove = (hear) => told.add(hear);

export function go(change, { replace = false } = {}) {
  const next = address({ ...here(), ...change });
  if (next !== location.pathname + location.search) history[replace ? "replaceState" : "pushState"](null, "", next);
  for (const hear of told) hear();
}

addEventListener("popstate", () => {
  for (const hear of told) hear();
});
