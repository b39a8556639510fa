// The map: what is fetched for it, its clock, its labels, and the card of what is chosen.

import * as api from "./api.js";
import { $, announce, counted, make, shortName, titleOf } from "./dom.js";
import { listen, ZOOM } from "./disk_gestures.js";
import { paint } from "./disk_painter.js";
import { Photos } from "./disk_photos.js";
import { Scene } from "./disk_scene.js";
import { View } from "./disk_view.js";
import { itemLink, link, NO_TREE, session, treeOf } from "./session.js";
import { stamp } from "./tiles.js";

const NODES = 300;
const ITEMS = 1200;
const SETTLE_MS = 420;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const stage = $("stage");
const canvas = $("canvas");
const context = canvas.getContext("2d");
const view = new View();
const photos = new Photos(() => draw());
const widths = new Map();
const buttons = new Map(); // number of a node -> its label's button
let scene = null;
let inks = null;
let drawn = ""; // what the scene shows: collection, node, version of the tree
let frame = 0;
let last = 0;
let motion = null; // { step, begun }: a view on its way

/** Show the map of what lies under the node that the address names, or of everything. */
export async function showDisk(place, signal) {
  const { collection } = session;
  document.title = "Map · LHIER";
  const tree = await treeOf(collection);
  signal.throwIfAborted();
  $("disk-none").hidden = tree !== null;
  $("disk-none").textContent = NO_TREE;
  $("disk-whole").hidden = tree === null;
  if (tree === null) return;
  $("disk-list").href = link({ view: "tree", id: place.id, filters: {} });
  const wanted = `${collection} ${place.id} ${session.treeVersion}`;
  if (drawn !== wanted) {
    stage.setAttribute("aria-busy", "true");
    const asked = { node: place.id || null, nodes: NODES, items: ITEMS };
    setScene(await api.projection(collection, asked, signal).finally(() => stage.removeAttribute("aria-busy")));
    drawn = wanted;
  }
  const { placed } = session;
  if (placed?.collection === collection) scene.mark(placed);
  if (scene.pin >= 0) choose(scene.pin, `Here belongs ${placed.title}`);
  resize();
  announce($("disk-facts").textContent);
}

function setScene(found) {
  scene = new Scene(found);
  buttons.clear();
  $("disk-labels").replaceChildren();
  $("map-card").hidden = true;
  view.reset();
  motion = null;
  const [root] = found.nodes;
  $("disk-title").textContent = root.parent === null && root.depth === 0 ? "Map" : titleOf(root);
  const shown = ({ length }, all) => `${length < all ? `${length.toLocaleString("en")} of ` : ""}${all.toLocaleString("en")}`;
  $("disk-facts").textContent = `${shown(found.nodes, found.of_nodes)} groups and ${shown(found.items, found.of_items)} photos: `
    + "the general in the centre, the specific at the rim";
}

/** Paint at the next frame. */
function draw() {
  frame ||= requestAnimationFrame(tick);
}

function tick(now) {
  frame = 0;
  if (scene === null || $("disk").hidden || $("disk-whole").hidden) return;
  const elapsed = Math.min(50, now - last);
  last = now;
  const moving = advance(now);
  const ready = (i) => photos.get(scene.thumbnail(i)) !== undefined;
  scene.arrange(view, ready);
  photos.want(scene.wanted.map((i) => scene.thumbnail(i)));
  const fading = scene.fade(elapsed, ready, calm.matches);
  inks ??= readInks();
  paint(context, scene, view, (i) => photos.get(scene.thumbnail(i)), inks);
  placeLabels();
  if (moving || fading) draw();
}

function advance(now) {
  if (motion === null) return false;
  motion.begun ??= now;
  const share = calm.matches ? 1 : Math.min(1, (now - motion.begun) / SETTLE_MS);
  motion.step(share < 1 ? 1 - (1 - share) ** 3 : 1);
  if (share === 1) motion = null;
  return motion !== null;
}

function go(step) {
  motion = { step, begun: null };
  draw();
}

function measure(text) {
  if (!widths.has(text)) {
    context.font = "600 13px system-ui, sans-serif";
    widths.set(text, Math.min(170, context.measureText(text).width));
  }
  return widths.get(text);
}

function placeLabels() {
  const found = scene.labels(view, measure);
  const seen = new Set();
  for (const { i, x, y } of found) {
    const label = buttons.get(i) ?? makeLabel(i);
    label.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translateX(-50%)`;
    label.hidden = false;
    seen.add(i);
  }
  for (const [i, label] of buttons) if (!seen.has(i)) label.hidden = true;
}

function makeLabel(i) {
  const { size } = scene.points[i];
  const title = scene.titles[i];
  const label = make("button", { type: "button", textContent: title });
  label.setAttribute("aria-label", `${title}, ${counted(size, "photo", "photos")}`);
  label.addEventListener("focus", () => {
    scene.focused = i;
    draw();
  });
  label.addEventListener("blur", () => {
    scene.focused = -1;
    draw();
  });
  label.addEventListener("click", () => {
    choose(i);
    centre([scene.xs[i], scene.ys[i]]);
  });
  buttons.set(i, label);
  $("disk-labels").append(label);
  return label;
}

const centre = (point) => go(view.towards(point));

/** Show the card of a point, which says what it is and leads on; `words` above it. */
function choose(i, words = null) {
  scene.chosen = i;
  const card = $("map-card");
  card.hidden = i < 0;
  draw();
  if (i < 0) return;
  const point = scene.points[i];
  const isNode = i < scene.numNodes;
  const title = isNode ? scene.titles[i] : shortName(point.id);
  const below = isNode ? counted(point.size, "photo", "photos") : `in “${scene.titles[scene.parents[i]]}”`;
  const links = isNode
    ? [way("Show its photos", link({ view: "tree", id: point.id, filters: {} })),
      i > 0 ? way("Only this group", link({ view: "disk", id: point.id, filters: {} })) : null]
    : [way("More like this", itemLink(point.id)), way("Its group", link({ view: "tree", id: point.parent, filters: {} }))];
  card.replaceChildren(
    stamp(isNode ? point.exemplar : point, "stamp large"),
    make("div", {}, ...(words ? [make("p", { className: "eyebrow", textContent: words })] : []),
      make("p", { className: "title", textContent: title }), make("p", { className: "facts", textContent: below }),
      make("div", { className: "actions" }, ...links)),
  );
  announce(`${title}, ${below}`);
}

const way = (textContent, href) => make("a", { className: "button small", href, textContent });

function resize() {
  const { width, height } = stage.getBoundingClientRect();
  if (!width || !height) return;
  const dense = Math.min(2, devicePixelRatio || 1);
  canvas.width = Math.round(width * dense);
  canvas.height = Math.round(height * dense);
  context.setTransform(dense, 0, 0, dense, 0, 0);
  view.resize(width, height);
  draw();
}

/** The sheet's colours, as a canvas takes them: only an element tells what they come to. */
function readInks() {
  const probe = make("i");
  stage.append(probe);
  const read = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const found = {
    disk: read("--disk"), rim: read("--line"), muted: read("--muted"), accent: read("--mark"),
    branches: Array.from({ length: 12 }, (_, i) => read(`--branch-${i}`)),
  };
  probe.remove();
  return found;
}

function recolour() {
  inks = null;
  draw();
}

listen(stage, view, {
  moved: draw,
  grabbed: () => { motion = null; },
  clicked: (x, y) => choose(scene.at(x, y)),
  centred: centre,
  reset: () => go(view.home()),
});
for (const [id, factor] of [["disk-in", ZOOM], ["disk-out", 1 / ZOOM]]) {
  $(id).addEventListener("click", () => {
    view.zoom(factor);
    draw();
  });
}
$("disk-reset").addEventListener("click", () => go(view.home()));
new ResizeObserver(resize).observe(stage);
addEventListener("themechange", recolour);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
