// A search: from the place in the address to the query, its path and its hits, page by page.

import * as api from "./api.js";
import { $, announce, button, counted, titleOf as spoken } from "./dom.js";
import * as filters from "./filters.js";
import { showBranches, showNoTree, showPath, showPathWaiting } from "./path.js";
import { hideProblem, isRetriable, showProblem } from "./problem.js";
import { queryOf, showFacts, showQuery } from "./query.js";
import { itemLink, link, session, treeOf } from "./session.js";
import { addTiles, clearTiles, scaleOf, showConsensus, showEmpty, showWaiting } from "./tiles.js";

const REMEMBERED = 40;
const SLOW_MS = 2500;
let queried = null; // view and id of the query on show
const answers = new Map(); // address -> { found, path, scroll }: going back shows at once what was there

export const forgetAnswers = () => answers.clear();

/** Note where the page stood when an address was left. */
export function keepScroll(address, scroll) {
  if (answers.has(address)) answers.get(address).scroll = scroll;
}

function remember(address, entry) {
  answers.delete(address);
  answers.set(address, entry);
  if (answers.size > REMEMBERED) answers.delete(answers.keys().next().value);
}

/** Show the search that `place` stands for; `address` is what it is remembered by, `cancel` gives it up. */
export async function showSearch(place, address, signal, cancel) {
  const title = showQuery(place);
  document.title = `${title} · LHIER`;
  showFrame(place);
  const before = answers.get(address);
  const name = `${session.collection} ${place.view} ${place.id}`;
  const isSame = name === queried; // another level, page size or filter: its path stays, and so does the focus in it
  queried = name;
  if (!isSame) showPathWaiting();
  if (!before) {
    $("consensus").hidden = true;
    $("zoomed").hidden = true;
    showWaiting($("hits"), place.limit);
    announce("Searching");
    if (!isSame) window.scrollTo({ top: 0 });
  }
  const found = before?.found ?? await slowly(ask(place, signal), signal, cancel);
  if (!before) remember(address, { found, path: null, scroll: 0 });
  const entry = answers.get(address);
  showFound(place, entry, signal);
  if (!$("path").contains(document.activeElement)) $("results-title").focus({ preventScroll: true });
  if (before && !isSame) window.scrollTo({ top: before.scroll });
  entry.path ??= await pathOf(place, found, signal);
  if (signal.aborted) return;
  showWhere(place, entry, title);
}

/** Everything that the hits need; what the tree says of the query may come later. */
async function ask(place, signal) {
  const { collection } = session;
  const { query, each } = await queryOf(place, signal);
  const tree = await treeOf(collection).catch(() => null);
  const common = each && tree ? await api.commonAncestor(collection, each, signal).catch(onlyUnfitted) : null;
  const point = common ? { embedding: common.centre.embedding } : query;
  const zoomed = place.level && tree ? await api.zoom(collection, point, place.level, place.limit, signal) : null;
  const [page, stored, node] = await Promise.all([
    zoomed ? null : api.search(collection, { query: point, limit: place.limit, ...filters.options(place.filters) }, signal),
    place.view === "item" ? api.item(collection, place.id, signal) : null,
    place.view === "node" ? api.node(collection, place.id, signal) : null,
  ]);
  const hits = zoomed ? zoomed.items : page.hits;
  return { point, common, zoomed, stored, node, hits, cursor: page?.next_cursor ?? null, radius: page?.query.radius };
}

function onlyUnfitted(error) {
  if (error.code === "tree_not_fitted" || error.code === "tree_not_found") return null;
  throw error;
}

/** What the tree says of the query: `{ path }`, or `{ why }` in words where it says nothing. */
async function pathOf(place, { point }, signal) {
  try {
    if (!await treeOf(session.collection)) return { why: undefined };
    return { path: await api.ancestors(session.collection, point, signal) };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { why: error.message };
  }
}

function showFrame(place) {
  $("found").hidden = false;
  $("limit").value = place.limit;
  $("filters").hidden = place.level !== 0;
  filters.fill(place.filters);
  filters.showChips($("chips"), place.level ? {} : place.filters, (set) => link({ ...place, filters: set }), titleOf);
  $("results-title").textContent = "Nearest neighbours";
  $("more").hidden = true;
}

const titles = new Map();
export const learnTitle = (node) => titles.set(node.id, spoken(node));
const titleOf = (id) => titles.get(id) ?? null;

function showFound(place, entry, signal) {
  const { found } = entry;
  const { hits, zoomed } = found;
  showFacts(place, found);
  showHits(hits, place);
  filters.learn(hits);
  $("zoomed").hidden = !zoomed;
  if (zoomed) {
    $("results-title").textContent = spoken(zoomed.node);
    showBranches(place, zoomed);
  }
  if (place.filters.under && !titleOf(place.filters.under)) nameUnder(place, signal);
  const nearest = hits.length ? `, nearest at distance ${hits[0].distance.toFixed(3)}` : "";
  announce(`${counted(hits.length, zoomed ? "photo" : "neighbour", zoomed ? "photos" : "neighbours")}${nearest}`);
  offerMore(place, entry, signal);
}

function showHits(hits, place) {
  const list = $("hits");
  if (hits.length) {
    clearTiles(list);
    addTiles(list, hits, itemLink, scaleOf(hits));
    return;
  }
  const set = filters.areSet(place.filters);
  showEmpty(list, set ? "Nothing that the filters let through. " : "Nothing else is in this collection yet.");
  if (set) list.firstChild.append(button("Clear the filters", () => { location.hash = link({ ...place, filters: {} }); }));
}

async function nameUnder(place, signal) {
  try {
    learnTitle(await api.node(session.collection, place.filters.under, signal));
    filters.showChips($("chips"), place.filters, (set) => link({ ...place, filters: set }), titleOf);
  } catch {
    // The search itself says when the node is gone.
  }
}

function offerMore(place, entry, signal) {
  const control = $("more");
  control.hidden = entry.found.cursor === null;
  control.disabled = false;
  control.onclick = async () => {
    control.disabled = true;
    announce("Searching");
    try {
      await addPage(place, entry.found, signal);
      hideProblem();
    } catch (error) {
      if (error.name === "AbortError") return;
      showProblem(error, isRetriable(error) ? () => { answers.clear(); dispatchEvent(new Event("hashchange")); } : null);
    }
    if (!signal.aborted) offerMore(place, entry, signal);
  };
}

async function addPage(place, found, signal) {
  const { filter, max_distance: most } = filters.options(place.filters);
  const page = await api.search(session.collection,
    { query: found.point, cursor: found.cursor, limit: place.limit, filter, max_distance: most }, signal);
  const first = addTiles($("hits"), page.hits, itemLink, scaleOf(found.hits));
  found.hits = [...found.hits, ...page.hits];
  found.cursor = page.next_cursor;
  filters.learn(page.hits);
  announce(`${counted(page.hits.length, "more neighbour", "more neighbours")}, ${found.hits.length} in all`);
  first?.focus({ preventScroll: true });
}

function showWhere(place, { found, path: told }, title) {
  if (!told.path) {
    if (!found.zoomed) showConsensus($("consensus"), found.hits);
    showNoTree(told.why);
    return;
  }
  showPath(place, told.path, found.common, found.zoomed);
  session.placed = {
    collection: session.collection,
    title: $("query-title").textContent || title,
    nodes: told.path.nodes.map(({ id }) => id),
    item: place.view === "item" ? place.id : null,
  };
}

/** Tell a person who waits long that it goes on, and let them give up. */
async function slowly(promise, signal, cancel) {
  const timer = setTimeout(() => {
    $("slow").hidden = false;
    announce("Still searching");
  }, SLOW_MS);
  $("cancel").onclick = cancel;
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    $("slow").hidden = true;
  }
}
