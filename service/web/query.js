// What is searched from: photos of this tab, a stored item, or a node. Its point, and how it is shown.

import * as api from "./api.js";
import { $, counted, make, pathText, shortName, titleOf } from "./dom.js";
import { centroid } from "./lorentz.js";
import { session } from "./session.js";
import { photo } from "./tiles.js";

/** Photos given in this tab, by a place's id; throws when one of them is gone. */
export function photosOf(id) {
  const numbers = [...new Set(id.split("."))];
  const found = numbers.map((number) => session.photos.get(number));
  if (found.some((one) => !one)) {
    throw new api.ProblemError(410, "photo_gone", "Photos stay in the tab they were given in: drop it once more.");
  }
  return found;
}

/** The query of the place on show, as the API takes it; several photos become their middle. */
export async function queryOf(place, signal) {
  if (place.view === "item") return { query: { item_id: place.id }, each: null };
  if (place.view === "node") return { query: { node_id: place.id }, each: null };
  const photos = photosOf(place.id);
  await embedAll(photos, signal);
  const each = photos.map(({ embedding }) => ({ embedding }));
  if (each.length === 1) return { query: each[0], each: null };
  return { query: { embedding: centroid(photos.map(({ embedding }) => embedding), session.service.c) }, each };
}

async function embedAll(photos, signal) {
  const missing = photos.filter(({ embedding }) => !embedding);
  if (!missing.length) return;
  const { results } = await api.embed(missing.map(({ file }) => file), signal);
  results.forEach(({ embedding }, i) => { missing[i].embedding = embedding; });
  const failed = results.findIndex(({ error }) => error);
  if (failed < 0) return;
  const { status, error } = results[failed];
  const detail = photos.length > 1 ? `${missing[failed].file.name}: ${error.detail}` : error.detail;
  throw new api.ProblemError(status, error.code, detail);
}

/** The query beside its hits. What is known only later is filled in by `showFacts`. */
export function showQuery(place) {
  const frame = $("query-frame");
  $("add").hidden = place.view !== "photo";
  const kinds = { item: "From the collection", node: "The middle of a group" };
  $("query-kind").textContent = kinds[place.view] ?? "Your photo";
  $("query-facts").textContent = "";
  frame.className = "frame";
  let title = shortName(place.id);
  if (place.view === "item") {
    photo(frame, `${api.itemPath(session.collection, place.id, "thumbnail")}?size=640`, title);
  } else if (place.view === "node") {
    title = "A group";
    frame.replaceChildren();
  } else {
    const photos = photosOf(place.id);
    title = photos.length > 1 ? counted(photos.length, "photo", "photos") : photos[0].file.name || "Your photo";
    if (photos.length > 1) $("query-kind").textContent = "Your photos, together";
    frame.classList.toggle("several", photos.length > 1);
    frame.replaceChildren(...photos.map(({ url, file }) => {
      const image = make("img", { alt: file.name || "Your photo", src: url });
      image.addEventListener("load", () => image.classList.add("ready"));
      return image;
    }));
  }
  $("query-title").textContent = title;
  return title;
}

/** What the answers tell about the query: its radius, and of a stored one its labels or its node's title. */
export function showFacts(place, { radius, stored, node }) {
  if (stored?.path.length) $("query-title").textContent = pathText(stored.path);
  if (node) {
    $("query-title").textContent = titleOf(node);
    photo($("query-frame"), node.exemplars[0]?.thumbnail ? `${node.exemplars[0].thumbnail}?size=640` : null, "");
  }
  const facts = [stored ? shortName(place.id) : null, node ? counted(node.size, "photo", "photos") : null];
  if (radius !== undefined) facts.push(`radius ${radius.toFixed(2)}`);
  $("query-facts").textContent = facts.filter(Boolean).join(" · ");
}
