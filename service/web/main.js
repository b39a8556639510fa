// The page's course: the address after # says what is shown, so back, forward and links work by themselves.
//   #                      start           #item=ID&limit=24      neighbours of a stored photo
//   #photo=1&limit=24      neighbours of a photo given in this tab (it is not kept anywhere else)

import * as api from "./api.js";
import { $, pathText, shortName, showConsensus, showFooter, showHits, showProblem, showQuery, showSamples, showWaiting }
  from "./view.js";

const DEFAULT_LIMIT = 24;
const NUM_SAMPLES = 24;
const REMEMBERED = 40;

const photos = new Map(); // number -> { file, url }
const answers = new Map(); // address -> { answer, scroll }: going back shows at once what was there
let service = null;
let loading = null;
let shown = null; // address on show
let underWay = new AbortController();

const currentCollection = () => $("collection").value || service.default_collection;

function parse(address) {
  const parameters = new URLSearchParams(address.replace(/^#/, ""));
  const limit = Number(parameters.get("limit"));
  return {
    item: parameters.get("item"),
    photo: parameters.get("photo"),
    collection: parameters.get("in"),
    limit: [...$("limit").options].some((option) => Number(option.value) === limit) ? limit : DEFAULT_LIMIT,
  };
}

function address(query, limit = Number($("limit").value)) {
  const parameters = new URLSearchParams(query);
  if (limit !== DEFAULT_LIMIT) parameters.set("limit", limit);
  if (currentCollection() !== service.default_collection) parameters.set("in", currentCollection());
  return `#${parameters}`;
}

const hrefOf = (id) => address({ item: id });

function remember(key, entry) {
  answers.delete(key);
  answers.set(key, entry);
  if (answers.size > REMEMBERED) answers.delete(answers.keys().next().value);
}

function announce(text) {
  $("announce").textContent = text;
}

function show(section) {
  for (const id of ["start", "results"]) $(id).hidden = id !== section;
  $("top-pick").hidden = section !== "results";
}

async function showStart() {
  show("start");
  document.title = "LHIER · visual search";
  if (!$("samples").childElementCount) await drawSamples();
}

async function drawSamples() {
  const { items } = await api.randomItems(currentCollection(), NUM_SAMPLES);
  showSamples($("samples"), items, currentCollection(), hrefOf);
  for (const element of [$("shuffle"), $("samples-title")]) element.hidden = items.length === 0;
}

async function showResults(here, key, signal) {
  const local = here.photo === null ? null : photos.get(here.photo);
  if (here.photo !== null && !local) {
    await showStart();
    throw new api.ProblemError(410, "photo_gone", "Photos stay in the tab they were given in: drop it once more.");
  }
  show("results");
  $("found").hidden = false;
  $("limit").value = here.limit;
  const collection = currentCollection();
  const title = local ? local.file.name || "Your photo" : shortName(here.item);
  showQuery({
    kind: local ? "Your photo" : "From the collection",
    title,
    source: local ? local.url : `${api.itemPath(collection, here.item, "thumbnail")}?size=640`,
    isLocal: Boolean(local),
  });
  document.title = `${title} · LHIER`;
  const before = answers.get(key);
  if (!before) {
    $("consensus").hidden = true;
    showWaiting($("hits"), here.limit);
    announce("Searching");
    window.scrollTo({ top: 0 });
  }
  const [answer, stored] = before?.answer ?? await Promise.all([
    local
      ? api.searchPhoto(collection, local.file, here.limit, signal)
      : api.searchItem(collection, here.item, here.limit, signal),
    local ? null : api.item(collection, here.item, signal),
  ]);
  remember(key, { answer: [answer, stored], scroll: before?.scroll ?? 0 });
  if (stored?.path.length) $("query-title").textContent = pathText(stored.path);
  $("query-facts").textContent =
    `${stored ? `${shortName(here.item)} · ` : ""}radius ${answer.query.radius.toFixed(2)}`;
  showConsensus($("consensus"), answer.hits);
  showHits($("hits"), answer.hits, collection, hrefOf);
  const { length } = answer.hits;
  announce(`${length} ${length === 1 ? "neighbour" : "neighbours"}${length ? `, nearest at distance ${answer.hits[0].distance.toFixed(3)}` : ""}`);
  $("results-title").focus({ preventScroll: true });
  if (before) window.scrollTo({ top: before.scroll });
}

async function route() {
  const key = location.hash;
  underWay.abort();
  underWay = new AbortController();
  const { signal } = underWay;
  const here = parse(key);
  if (shown !== null && answers.has(shown)) answers.get(shown).scroll = lastScroll;
  shown = key;
  $("problem").hidden = true;
  try {
    await ready();
    if (signal.aborted) return;
    const known = service.collections.some(({ name }) => name === here.collection);
    chooseCollection(known ? here.collection : service.default_collection);
    if (here.item !== null || here.photo !== null) await showResults(here, key, signal);
    else await showStart();
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    if (!$("results").hidden) {
      $("hits").setAttribute("aria-busy", "false");
      $("found").hidden = true;
      announce("");
    }
    showProblem(error, retriable(error) ? () => { shown = null; route(); } : null);
  }
}

const retriable = ({ status }) => !(status >= 400 && status < 500) || status === 429;

/** Wait until the service has told what it holds; a failure is tried anew by the next who asks. */
function ready() {
  loading ??= start().catch((error) => {
    loading = null;
    throw error;
  });
  return loading;
}

async function start() {
  const found = await api.info();
  $("collection").replaceChildren(...found.collections.map(({ name }) => new Option(name, name)));
  $("collection-picker").hidden = found.collections.length < 2;
  service = found;
}

function chooseCollection(name) {
  const changed = $("collection").value !== name || !$("footer").childElementCount;
  $("collection").value = name;
  if (!changed) return;
  $("samples").replaceChildren();
  showFooter(service, service.collections.find((collection) => collection.name === name));
}

// Where the page stood before the address changed: in the hashchange itself the browser may have scrolled already.
let lastScroll = 0;
addEventListener("scroll", () => { lastScroll = scrollY; }, { passive: true });
history.scrollRestoration = "manual";

/** Search from a photo given by drop, paste, picker or camera. */
async function searchFrom(file) {
  if (!file) return;
  try {
    await ready();
  } catch (error) {
    showProblem(error, () => searchFrom(file));
    return;
  }
  if (file.type && !file.type.startsWith("image/")) {
    showProblem(new api.ProblemError(415, "unsupported_format", `The file ${file.name} is not an image.`));
    return;
  }
  const most = service.limits.image_bytes;
  if (file.size > most) {
    showProblem(new api.ProblemError(413, "image_too_large", `At most ${Math.floor(most / 2 ** 20)} MB can be sent.`));
    return;
  }
  const number = String(photos.size + 1);
  photos.set(number, { file, url: URL.createObjectURL(file) });
  location.hash = address({ photo: number });
}

addEventListener("hashchange", () => {
  if (location.hash !== "#main") route(); // the skip link is no place of its own
});

for (const button of document.querySelectorAll("[data-pick]")) button.addEventListener("click", () => $("file").click());
for (const button of document.querySelectorAll("[data-camera]")) button.addEventListener("click", () => $("camera").click());
for (const input of [$("file"), $("camera")]) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = ""; // the same photo may be chosen again
    searchFrom(file);
  });
}

addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  searchFrom(file);
});

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
let depth = 0; // dragenter and dragleave come for every element on the way
addEventListener("dragenter", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  depth += 1;
  document.body.classList.add("dragging");
});
addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
addEventListener("dragleave", (event) => {
  if (carriesFiles(event)) depth = Math.max(0, depth - 1);
  if (!depth) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  depth = 0;
  document.body.classList.remove("dragging");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  searchFrom(event.dataTransfer.files[0]);
});

// Tiles are links, which Enter follows; Space does the same here, as on a button.
addEventListener("keydown", (event) => {
  if (event.key !== " " || !event.target.matches?.(".tile")) return;
  event.preventDefault();
  event.target.click();
});

$("home").addEventListener("click", (event) => {
  event.preventDefault();
  if (location.hash) location.hash = "";
  else window.scrollTo({ top: 0 });
});
$("shuffle").addEventListener("click", () => drawSamples().catch((error) => showProblem(error)));
$("limit").addEventListener("change", () => {
  const { item, photo } = parse(location.hash);
  location.hash = address(item !== null ? { item } : { photo });
});
$("collection").addEventListener("change", () => {
  $("samples").replaceChildren();
  const name = $("collection").value;
  const next = name === service.default_collection ? "" : `#${new URLSearchParams({ in: name })}`;
  showFooter(service, service.collections.find((collection) => collection.name === name));
  if (location.hash === next) route();
  else location.hash = next;
});

route();
