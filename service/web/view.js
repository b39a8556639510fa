// From answers to elements. No requests and no state in here, except through the functions handed in.

import { itemPath, load } from "./api.js";

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; text is always text, never markup. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Path, most general first, as a sentence for people and for screen readers. */
export const pathText = (path) => path.join(" › ");

/** Last part of an id that looks like a path. */
export const shortName = (id) => id.split("/").pop() || id;

function photo(frame, path, alt) {
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

function tile(href, collection, id, label, ...below) {
  const frame = make("div", { className: "photo" });
  photo(frame, itemPath(collection, id, "thumbnail"), "");
  const link = make("a", { className: "tile", href, draggable: false }, frame, ...below);
  link.dataset.id = id;
  link.setAttribute("aria-label", label);
  return make("li", {}, link);
}

export function showSamples(list, items, collection, hrefOf) {
  list.replaceChildren(
    ...items.map(({ id, path }) => {
      const name = path.length ? pathText(path) : shortName(id);
      const made = tile(hrefOf(id), collection, id, `Search from ${name}`);
      made.firstChild.title = name;
      return made;
    }),
  );
}

export function showHits(list, hits, collection, hrefOf) {
  const nearest = hits[0]?.distance ?? 0;
  const span = (hits.at(-1)?.distance ?? 0) - nearest || 1;
  list.classList.remove("waiting");
  list.setAttribute("aria-busy", "false");
  if (!hits.length) {
    list.replaceChildren(make("li", { className: "empty", textContent: "Nothing else is in this collection yet." }));
    return;
  }
  list.replaceChildren(
    ...hits.map((hit) => {
      const bar = make("span", { className: "bar" }, make("i"));
      bar.style.setProperty("--part", `${(100 * (hit.distance - nearest)) / span}%`);
      const leaf = hit.path.at(-1) ?? shortName(hit.id);
      const crumbs = make("span", { className: "crumbs" }, make("b", { textContent: leaf }));
      if (hit.path.length > 1) crumbs.append(pathText(hit.path.slice(0, -1)));
      const measure = make(
        "span", { className: "measure", title: "Geodesic distance; the dot stands between the nearest and the farthest shown" },
        make("span", { textContent: hit.distance.toFixed(3) }), bar,
      );
      const label = `${hit.path.length ? pathText(hit.path) : leaf}, distance ${hit.distance.toFixed(3)}`;
      return tile(hrefOf(hit.id), collection, hit.id, label, make("span", { className: "caption" }, crumbs, measure));
    }),
  );
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

/** The photo or item that is searched from. `source` is a path of the service or an object URL. */
export function showQuery({ kind, title, source, isLocal }) {
  $("query-kind").textContent = kind;
  $("query-title").textContent = title;
  $("query-facts").textContent = "";
  const frame = $("query-frame");
  if (!isLocal) {
    photo(frame, source, title);
    return;
  }
  const image = make("img", { alt: title, src: source });
  image.addEventListener("load", () => image.classList.add("ready"));
  frame.classList.remove("missing");
  frame.replaceChildren(image);
}

export function showProblem(error, retry) {
  const box = $("problem");
  const text = make("p", {}, make("strong", { textContent: headline(error) }), ` ${error.message[0].toUpperCase()}${error.message.slice(1)}`);
  if (error.requestId && error.status >= 500) text.append(` (request ${error.requestId})`);
  box.replaceChildren(text);
  if (retry) {
    const again = make("button", { type: "button", className: "button small", textContent: "Try again" });
    again.addEventListener("click", retry);
    box.append(again);
  }
  box.hidden = false;
}

function headline({ status, code }) {
  if (code === "item_not_found") return "This photo is not in the collection.";
  if (status === 413) return "That photo is too large.";
  if (status === 415 || status === 422) return "That photo cannot be used.";
  if (status === 429 || status === 504) return "The service is busy.";
  return "That did not work.";
}

export function showFooter({ version, model_hash, backbone, embedding_dim, c }, collection) {
  const count = collection.count.toLocaleString("en");
  $("start-count").textContent = collection.count > 1 ? `among ${count} photos` : "in the collection";
  $("footer").replaceChildren(
    make("span", { textContent: `${count} photos in “${collection.name}”` }),
    make("span", {}, "Model ", make("code", { textContent: model_hash }), ` · ${backbone}`),
    make("span", { textContent: `Hyperbolic space of ${embedding_dim} dimensions, curvature −${Number(c.toPrecision(4))}` }),
    make("span", { textContent: `LHIER ${version}` }),
  );
}
