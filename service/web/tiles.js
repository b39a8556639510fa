// Photos as tiles: samples, hits, a node's items. A tile is a link to what is like it.

import { itemPath, load } from "./api.js";
import { make, pathText, shortName } from "./dom.js";

/** Show the photo at `path` in `frame`; null where the collection keeps none. */
export function photo(frame, path, alt) {
  if (path === null) {
    frame.replaceChildren();
    frame.classList.add("missing");
    return;
  }
  const image = make("img", { alt, draggable: false });
  image.addEventListener("load", () => image.classList.add("ready"));
  image.addEventListener("error", () => {
    image.remove();
    frame.classList.add("missing");
  });
  frame.replaceChildren(image);
  frame.classList.remove("missing");
  load(image, path);
}

/** A small picture of an item for lists of nodes, without words: the text beside it says what it is. */
export function stamp(exemplar, className = "stamp") {
  const frame = make("span", { className });
  photo(frame, exemplar?.thumbnail ? `${exemplar.thumbnail}?size=160` : null, "");
  return frame;
}

function tile(href, id, thumbnail, label, ...below) {
  const frame = make("div", { className: "photo" });
  photo(frame, thumbnail, "");
  frame.append(make("span", { className: "more-like", ariaHidden: "true", textContent: "More like this" }));
  const link = make("a", { className: "tile", href, draggable: false }, frame, ...below);
  link.dataset.id = id;
  link.setAttribute("aria-label", label);
  return make("li", {}, link);
}

export function showSamples(list, items, collection, hrefOf) {
  list.replaceChildren(
    ...items.map(({ id, path }) => {
      const name = path.length ? pathText(path) : shortName(id);
      const made = tile(hrefOf(id), id, itemPath(collection, id, "thumbnail"), `Search from ${name}`);
      made.firstChild.title = name;
      return made;
    }),
  );
}

/**
 * Append tiles of items with a distance. `scale`: the distances between which the bars run.
 * Returns the first new tile.
 */
export function addTiles(list, items, hrefOf, scale) {
  const span = scale.far - scale.near || 1;
  const made = items.map(({ id, path, distance, thumbnail }) => {
    const bar = make("span", { className: "bar" }, make("i"));
    bar.style.setProperty("--part", `${Math.min(100, Math.max(0, (100 * (distance - scale.near)) / span))}%`);
    const leaf = path.at(-1) ?? shortName(id);
    const crumbs = make("span", { className: "crumbs" }, make("b", { textContent: leaf }));
    if (path.length > 1) crumbs.append(pathText(path.slice(0, -1)));
    const measure = make(
      "span", { className: "measure", title: "Geodesic distance; the dot stands between the nearest and the farthest shown" },
      make("span", { textContent: distance.toFixed(3) }), bar,
    );
    const label = `${path.length ? pathText(path) : leaf}, distance ${distance.toFixed(3)}`;
    return tile(hrefOf(id), id, thumbnail || null, label, make("span", { className: "caption" }, crumbs, measure));
  });
  list.append(...made);
  return made[0]?.firstChild ?? null;
}

/** Where bars begin and end. */
export const scaleOf = (items) => ({ near: items[0]?.distance ?? 0, far: items.at(-1)?.distance ?? 0 });

export function clearTiles(list) {
  list.classList.remove("waiting");
  list.setAttribute("aria-busy", "false");
  list.replaceChildren();
}

export function showEmpty(list, ...text) {
  clearTiles(list);
  list.append(make("li", { className: "empty" }, ...text));
}

export function showWaiting(list, count) {
  list.classList.add("waiting");
  list.setAttribute("aria-busy", "true");
  list.replaceChildren(
    ...Array.from({ length: Math.min(count, 24) }, () =>
      make("li", { ariaHidden: "true" }, make("div", { className: "photo" }), make("div", { className: "line" }),
        make("div", { className: "line" }))),
  );
}

/** Follow the most frequent label down the tree: what are most neighbours, and most of those? */
export function consensus(hits) {
  const levels = [];
  let agreeing = hits;
  for (let depth = 0; ; depth += 1) {
    const votes = new Map();
    for (const { path } of agreeing) if (path.length > depth) votes.set(path[depth], (votes.get(path[depth]) ?? 0) + 1);
    // The first of equals is the nearest: Map keeps the order of arrival.
    const [label, count] = [...votes].reduce((best, vote) => (vote[1] > best[1] ? vote : best), ["", 0]);
    if (!count) return levels;
    levels.push({ label, count });
    agreeing = agreeing.filter(({ path }) => path[depth] === label);
  }
}

/** What most hits are called: words for where no tree says it with probabilities. */
export function showConsensus(element, hits) {
  const levels = consensus(hits);
  element.hidden = levels.length === 0;
  element.replaceChildren("Most often");
  levels.forEach(({ label, count }) => {
    const level = make("span", { className: "level" }, label, make("small", { textContent: `${count} of ${hits.length}` }));
    level.style.setProperty("--part", `${(100 * count) / hits.length}%`);
    element.append(level);
  });
}
