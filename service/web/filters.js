// Which items may be found: the form, the chips that say what is set, and the API's filter made of them.

import { $, make, shortName } from "./dom.js";
import { FILTERS } from "./address.js";

const OPERATIONS = {
  is: ["is", (value) => ({ match: either(value) })],
  not: ["is not", (value) => ({ match: either(value) })],
  least: ["at least", (value) => ({ range: { gte: bound(value) } })],
  most: ["at most", (value) => ({ range: { lte: bound(value) } })],
  exists: ["is given", () => ({ exists: true })],
};

const isNumber = (text) => text.trim() !== "" && Number.isFinite(Number(text));
const bound = (text) => (isNumber(text) ? Number(text) : text);

/** What was typed, as every value it may stand for: metadata keeps "12", 12 and true apart, a person does not. */
function either(text) {
  if (isNumber(text)) return [text, Number(text)];
  return ["true", "false"].includes(text) ? [text, text === "true"] : text;
}

/** The search options that the set filters stand for: `filter` and `max_distance`, null where there are none. */
export function options({ path, key, op, value, max, under }) {
  const must = [];
  const mustNot = [];
  if (path) must.push({ path });
  if (under) must.push({ node: under });
  if (key) (op === "not" ? mustNot : must).push({ key, ...(OPERATIONS[op] ?? OPERATIONS.is)[1](value) });
  const filter = must.length || mustNot.length ? { must, must_not: mustNot } : null;
  return { filter, max_distance: isNumber(max) ? Number(max) : null };
}

export const areSet = ({ path, key, max, under }) => Boolean(path || key || max || under);

/** Chips of what is set, each with its own way out; `titleOf(id)` gives a node's title, or null. */
export function showChips(list, filters, linkWith, titleOf) {
  const chips = [];
  const chip = (text, without) => {
    const cleared = { ...filters, ...Object.fromEntries(without.map((name) => [name, ""])) };
    const cross = make("a", { href: linkWith(cleared), className: "cross", textContent: "×" });
    cross.setAttribute("aria-label", `Remove the filter: ${text}`);
    chips.push(make("li", { className: "chip" }, make("span", { textContent: text }), cross));
  };
  if (filters.under) chip(`Under “${titleOf(filters.under) ?? "a group"}”`, ["under"]);
  if (filters.path) chip(`Label ${filters.path.split("/").join(" › ")}`, ["path"]);
  if (filters.key) {
    const [words] = OPERATIONS[filters.op] ?? OPERATIONS.is;
    chip([filters.key, words, filters.value].filter(Boolean).join(" "), ["key", "op", "value"]);
  }
  if (filters.max) chip(`Distance at most ${filters.max}`, ["max"]);
  list.replaceChildren(...chips);
  list.hidden = chips.length === 0;
}

/** Put what is set into the form. */
export function fill(filters) {
  for (const name of FILTERS) if (name !== "under") $(`filter-${name}`).value = filters[name];
  if (!filters.op) $("filter-op").value = "is";
  showValue();
}

const seen = { labels: new Set(), keys: new Set() };

/** Remember labels and metadata fields of items, to be offered while typing. */
export function learn(items) {
  for (const { path = [], metadata = {} } of items) {
    path.forEach((_, depth) => {
      if (seen.labels.size < 300) seen.labels.add(path.slice(0, depth + 1).join("/"));
    });
    for (const key of Object.keys(metadata)) if (seen.keys.size < 100 && !/["\\.]/.test(key)) seen.keys.add(key);
  }
  $("known-labels").replaceChildren(...[...seen.labels].sort().map((value) => make("option", { value, label: shortName(value) })));
  $("known-keys").replaceChildren(...[...seen.keys].sort().map((value) => make("option", { value })));
}

export function forget() {
  seen.labels.clear();
  seen.keys.clear();
}

function showValue() {
  $("filter-value-row").hidden = $("filter-op").value === "exists";
}

/** Call `apply(filters)` when the form is sent or cleared; "under" stays as it is but for clearing. */
export function listen(current, apply) {
  $("filter-op").replaceChildren(...Object.entries(OPERATIONS).map(([name, [words]]) => new Option(words, name)));
  $("filter-op").addEventListener("change", showValue);
  $("filter-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const read = (name) => $(`filter-${name}`).value.trim();
    const key = read("key");
    const op = key ? read("op") : "";
    apply({
      path: read("path").replace(/\/+$/, ""), max: read("max"), under: current().under,
      key, op, value: key && op !== "exists" ? read("value") : "",
    });
  });
  $("filter-clear").addEventListener("click", () => apply(Object.fromEntries(FILTERS.map((name) => [name, ""]))));
}
