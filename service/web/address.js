// What the part of the address after # says, and how to say it: back, forward and links work by themselves.
//   #                 start                 #item=ID        neighbours of a stored photo
//   #photo=1.2        neighbours of photos given in this tab (they are not kept anywhere else)
//   #node=ID          neighbours of a node's centre
//   #tree=ID          the tree, at a node   #disk=ID        the map of what is under a node
// and beside these: in, limit, level (zoom), path, key, op, value, max, under (filters).

export const DEFAULT_LIMIT = 24;
export const LIMITS = [12, 24, 48, 96];
export const FILTERS = ["path", "key", "op", "value", "max", "under"];
const VIEWS = ["item", "photo", "node", "tree", "disk"];

/** The place that an address names: `view`, its `id`, and the rest. */
export function parse(hash) {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  const view = VIEWS.find((name) => parameters.has(name)) ?? "start";
  const limit = Number(parameters.get("limit"));
  const level = Number(parameters.get("level"));
  return {
    view,
    id: parameters.get(view) ?? "",
    collection: parameters.get("in"),
    limit: LIMITS.includes(limit) ? limit : DEFAULT_LIMIT,
    level: Number.isInteger(level) && Math.abs(level) <= 64 ? level : 0,
    filters: Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""])),
  };
}

/** The address of a place; what is as it is by default is left out. */
export function format({ view, id = "", collection = null, limit = DEFAULT_LIMIT, level = 0, filters = {} }) {
  const parameters = new URLSearchParams();
  if (view !== "start") parameters.set(view, id);
  if (limit !== DEFAULT_LIMIT) parameters.set("limit", limit);
  if (level) parameters.set("level", level);
  for (const name of FILTERS) if (filters[name]) parameters.set(name, filters[name]);
  if (collection !== null) parameters.set("in", collection);
  return `#${parameters}`;
}
