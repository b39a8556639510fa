// The page's course: from the address to the view it names, and from what a person does to an address.

import * as api from "./api.js";
import { format, parse } from "./address.js";
import { $, announce, counted, make } from "./dom.js";
import * as filters from "./filters.js";
import * as intake from "./intake.js";
import { hideProblem, isRetriable, showProblem } from "./problem.js";
import { forgetAnswers, keepScroll, showSearch } from "./search.js";
import { itemLink, link, ready, session, treeOf } from "./session.js";
import { showSamples } from "./tiles.js";
import { showTree } from "./tree.js";
import { showDisk } from "./disk.js";

const NUM_SAMPLES = 24;
const VIEWS = { start: "start", item: "results", photo: "results", node: "results", tree: "tree", disk: "disk" };
const MOST_TOGETHER = 32; // photos that have a common ancestor

let shown = null; // address on show
let underWay = new AbortController();

function show(view) {
  for (const id of new Set(Object.values(VIEWS))) $(id).hidden = id !== VIEWS[view];
  $("top-pick").hidden = VIEWS[view] === "start";
  for (const [id, name] of [["nav-search", "results"], ["nav-tree", "tree"], ["nav-disk", "disk"]]) {
    const current = VIEWS[view] === name || (name === "results" && view === "start");
    if (current) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
}

async function route() {
  const address = location.hash;
  underWay.abort();
  underWay = new AbortController();
  const { signal } = underWay;
  const place = parse(address);
  if (shown !== null) keepScroll(shown, lastScroll);
  shown = address;
  hideProblem();
  try {
    await ready();
    if (signal.aborted) return;
    choose(place);
    const cancel = () => {
      underWay.abort();
      $("found").hidden = true;
      announce("Search cancelled");
      showProblem(new api.ProblemError(0, "cancelled", "The search was cancelled."), again);
    };
    show(place.view);
    if (VIEWS[place.view] === "results") await showSearch(place, address, signal, cancel);
    else if (place.view === "tree") await showTree(place, signal);
    else if (place.view === "disk") await showDisk(place, signal);
    else await showStart();
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    if (error.code === "photo_gone") await showStart().catch(() => {});
    if (!$("results").hidden) {
      $("hits").setAttribute("aria-busy", "false");
      $("found").hidden = true;
      announce("");
    }
    showProblem(error, isRetriable(error) && error.code !== "photo_gone" ? again : null);
  }
}

const again = () => {
  shown = null;
  route();
};

async function showStart() {
  show("start");
  document.title = "LHIER · visual search";
  if (!$("samples").childElementCount) await drawSamples();
  // Links of the tiles carry the filters that were set when they were drawn: they are drawn anew when these change.
  $("within").hidden = !session.here.filters.under;
  filters.showChips($("start-chips"), session.here.filters, (set) => link({ view: "start", filters: set }), () => null);
}

async function drawSamples() {
  const { items } = await api.randomItems(session.collection, NUM_SAMPLES);
  filters.learn(items);
  showSamples($("samples"), items, session.collection, itemLink);
  for (const element of [$("shuffle"), $("samples-title")]) element.hidden = items.length === 0;
}

/** Make the place's collection the one on show. */
function choose(place) {
  const { service } = session;
  const known = service.collections.some(({ name, fault }) => name === place.collection && fault === null);
  const name = known ? place.collection : service.default_collection;
  const changed = name !== session.collection;
  const filtered = JSON.stringify(place.filters) !== JSON.stringify(session.here.filters);
  session.here = place;
  session.collection = name;
  if (changed || filtered) $("samples").replaceChildren();
  for (const [id, view] of [["nav-search", "start"], ["nav-tree", "tree"], ["nav-disk", "disk"], ["home", "start"]]) {
    $(id).href = link({ view, filters: {} });
  }
  if (!changed) return;
  filters.forget();
  showCollections();
  showFooter();
  for (const id of ["nav-tree", "nav-disk"]) $(id).hidden = true;
  treeOf(name).then((tree) => {
    if (session.collection !== name) return;
    for (const id of ["nav-tree", "nav-disk"]) $(id).hidden = tree === null;
  }, () => {});
}

function showCollections() {
  const { service, collection } = session;
  $("collection").replaceChildren(...service.collections.map(({ name, fault }) => {
    const option = new Option(fault === null ? name : `${name} (unavailable)`, name);
    option.disabled = fault !== null;
    return option;
  }));
  $("collection").value = collection;
  $("collection-picker").hidden = service.collections.length < 2;
}

function showFooter() {
  const { service, collection: name } = session;
  const { count } = service.collections.find((collection) => collection.name === name) ?? {};
  const many = (count ?? 0).toLocaleString("en");
  $("start-count").textContent = count > 1 ? `among ${many} photos` : "in the collection";
  $("footer").replaceChildren(
    make("span", { textContent: `${counted(count ?? 0, "photo", "photos")} in “${name}”` }),
    make("span", {}, "Model ", make("code", { textContent: service.model_hash }), ` · ${service.backbone}`),
    make("span", { textContent: `Hyperbolic space of ${service.embedding_dim} dimensions, curvature −${Number(service.c.toPrecision(4))}` }),
    make("span", { textContent: `LHIER ${service.version}` }),
  );
}

/** Search from photos given by drop, paste, picker or camera. */
async function searchFrom(files, add) {
  try {
    await ready();
  } catch (error) {
    showProblem(error, () => searchFrom(files, add));
    return;
  }
  const { image_bytes: mostBytes, images } = session.service.limits;
  const most = Math.min(images, MOST_TOGETHER);
  const here = parse(location.hash);
  const beside = add && here.view === "photo" ? here.id.split(".") : [];
  const wrong = files.find(({ type }) => type && !type.startsWith("image/"));
  const heavy = files.find(({ size }) => size > mostBytes);
  if (wrong) return showProblem(new api.ProblemError(415, "unsupported_format", `The file ${wrong.name} is not an image.`));
  if (heavy) return showProblem(new api.ProblemError(413, "image_too_large", `At most ${Math.floor(mostBytes / 2 ** 20)} MB can be sent.`));
  if (files.length + beside.length > most) {
    return showProblem(new api.ProblemError(422, "too_many_images", `At most ${most} photos can be searched from together.`));
  }
  const numbers = files.map((file) => {
    const number = String(session.photos.size + 1);
    session.photos.set(number, { file, url: URL.createObjectURL(file), embedding: null });
    return number;
  });
  location.hash = link({ view: "photo", id: [...beside, ...numbers].join(".") });
}

// Where the page stood before the address changed: in the hashchange itself the browser may have scrolled already.
let lastScroll = 0;
addEventListener("scroll", () => { lastScroll = scrollY; }, { passive: true });
history.scrollRestoration = "manual";

addEventListener("hashchange", () => {
  if (location.hash !== "#main") route(); // the skip link is no place of its own
});

// Tiles are links, which Enter follows; Space does the same here, as on a button.
addEventListener("keydown", (event) => {
  if (event.key !== " " || !event.target.matches?.(".tile")) return;
  event.preventDefault();
  event.target.click();
});

$("home").addEventListener("click", (event) => {
  event.preventDefault();
  if (location.hash) location.hash = $("home").hash;
  else window.scrollTo({ top: 0 });
});
$("shuffle").addEventListener("click", () => drawSamples().catch((error) => showProblem(error)));
$("limit").addEventListener("change", () => {
  location.hash = link({ ...parse(location.hash), limit: Number($("limit").value) });
});
$("collection").addEventListener("change", () => {
  const name = $("collection").value;
  forgetAnswers();
  const next = format({ view: "start", collection: name === session.service.default_collection ? null : name });
  location.hash = next;
});
intake.listen(searchFrom);
filters.listen(() => parse(location.hash).filters, (set) => {
  $("filters").open = false;
  location.hash = link({ ...parse(location.hash), level: 0, filters: set });
});

// Where there is little room the photos come first.
$("steps-part").open = matchMedia("(min-width: 821px)").matches;
route();
