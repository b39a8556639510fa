// The tree as a list that opens and closes (the ARIA tree pattern), beside the node that is chosen.

import * as api from "./api.js";
import { $, announce, counted, make, percent, titleOf } from "./dom.js";
import { isAlone, showNode } from "./node.js";
import { link, NO_TREE, session, treeChanged, treeOf } from "./session.js";
import { stamp } from "./tiles.js";

const CHILDREN = 200;
const FEW = 3;
const rows = new Map(); // id -> { node, item, parent, children: [id] or null }
let drawn = null; // collection whose tree is in the page
let version = -1; // of the tree that is

/** Show the tree, opened down to the node that the address names, if it names one. */
export async function showTree(place, signal) {
  const { collection } = session;
  document.title = "Groups · LHIER";
  const tree = await treeOf(collection);
  signal.throwIfAborted();
  $("tree-none").hidden = tree !== null;
  $("tree-none").textContent = NO_TREE;
  $("tree-panes").hidden = tree === null;
  if (tree === null) return;
  if (drawn !== collection || version !== session.treeVersion) await draw(tree, collection, signal);
  $("tree-panes").classList.toggle("has-node", place.id !== "");
  $("node").hidden = true;
  if (!place.id && isAlone()) {
    choose(null);
    return;
  }
  const told = await api.node(collection, place.id || tree.root.id, signal).catch((error) => {
    if (error.code === "node_not_found") treeChanged();
    throw error;
  });
  for (const { id } of [...told.ancestors].reverse()) await open(id, signal);
  choose(told.id);
  await showNode(told, collection, signal, retitle);
}

async function draw({ tree, root }, collection, signal) {
  rows.clear();
  drawn = collection;
  version = session.treeVersion;
  $("tree-facts").textContent =
    `${counted(tree.items, "photo", "photos")} in ${counted(tree.nodes, "group", "groups")}, ${counted(tree.depth, "level", "levels")} deep`
    + (tree.changed ? ` · ${tree.changed.toLocaleString("en")} changed since it was built` : "");
  const list = $("tree-list");
  list.replaceChildren(row(root, null));
  reach(root.id);
  await open(root.id, signal);
  // A tree that begins with few branches is opened a little farther.
  const { children } = rows.get(root.id);
  if (children?.length <= FEW) await Promise.all(children.map((id) => open(id, signal)));
}

function row(node, parent) {
  const { id, size, num_children: branches } = node;
  const title = titleOf(node);
  const words = make("span", { className: "words" }, make("b", { textContent: title }), make("small", { textContent: facts(node) }));
  const chevron = make("span", { className: "chevron", ariaHidden: "true" });
  const stamps = make("span", { className: "stamps" }, ...node.exemplars.slice(0, 3).map((one) => stamp(one)));
  const line = make("div", { className: "row" }, chevron, stamps, words);
  const item = make("li", { role: "treeitem", tabIndex: -1, ariaLevel: String(depthOf(parent) + 1), ariaSelected: "false" }, line);
  item.dataset.id = id;
  item.setAttribute("aria-label", `${title}, ${counted(size, "photo", "photos")}`);
  if (branches) item.ariaExpanded = "false";
  chevron.addEventListener("click", (event) => {
    event.stopPropagation();
    toggle(id);
  });
  line.addEventListener("click", () => {
    reach(id);
    location.hash = link({ view: "tree", id, filters: {} });
    open(id).catch(() => {});
  });
  rows.set(id, { node, item, parent, children: null });
  return item;
}

function facts({ size, label, label_share: share }) {
  const count = counted(size, "photo", "photos");
  return label.length && share < 1 ? `${count} · ${percent(share)} ${label.at(-1)}` : count;
}

const depthOf = (id) => (id === null ? 0 : 1 + depthOf(rows.get(id).parent));
const isOpen = (id) => rows.get(id).item.ariaExpanded === "true";

/** Open a node, fetching its children the first time. */
async function open(id, signal) {
  const entry = rows.get(id);
  if (!entry || !entry.node.num_children || isOpen(id)) return;
  entry.item.ariaExpanded = "true";
  if (entry.children === null) {
    entry.item.setAttribute("aria-busy", "true");
    try {
      const { nodes } = await api.nodes(drawn, { parent: id, depth: 1, limit: CHILDREN }, signal);
      if (entry.children === null) addChildren(entry, nodes.slice(1));
    } catch (error) {
      entry.item.ariaExpanded = "false";
      throw error;
    } finally {
      entry.item.removeAttribute("aria-busy");
    }
  }
  entry.item.querySelector(":scope > ul").hidden = false;
}

function addChildren(entry, nodes) {
  entry.children = nodes.map(({ id }) => id);
  const group = make("ul", { role: "group" }, ...nodes.map((node) => row(node, entry.node.id)));
  entry.item.append(group);
}

function close(id) {
  if (!isOpen(id)) return;
  const { item } = rows.get(id);
  item.ariaExpanded = "false";
  const group = item.querySelector(":scope > ul");
  if (group) group.hidden = true;
}

const toggle = (id) => (isOpen(id) ? close(id) : open(id).catch(() => {}));

/** Make one row the one that Tab leads to. */
function reach(id, focus = false) {
  for (const other of $("tree-list").querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
  const { item } = rows.get(id);
  item.tabIndex = 0;
  if (focus) item.focus();
}

function choose(id) {
  for (const item of $("tree-list").querySelectorAll("[aria-selected='true']")) item.ariaSelected = "false";
  if (id === null || !rows.has(id)) return;
  rows.get(id).item.ariaSelected = "true";
  reach(id);
  rows.get(id).item.querySelector(".row").scrollIntoView({ block: "nearest" });
}

function retitle(node) {
  treeChanged();
  version = session.treeVersion; // here the new title is all there is to it
  const entry = rows.get(node.id);
  if (!entry) return;
  entry.node = { ...entry.node, title: node.title, name: node.name };
  entry.item.setAttribute("aria-label", `${titleOf(node)}, ${counted(node.size, "photo", "photos")}`);
  entry.item.querySelector(".words b").textContent = titleOf(node);
}

/** Ids of the rows that can be seen, from top to bottom. */
const visible = () =>
  [...$("tree-list").querySelectorAll("[role=treeitem]")]
    .filter((item) => !item.parentElement.closest("ul[hidden]")).map((item) => item.dataset.id);

const MOVES = {
  ArrowDown: (id, ids) => ids[ids.indexOf(id) + 1],
  ArrowUp: (id, ids) => ids[ids.indexOf(id) - 1],
  Home: (_, ids) => ids[0],
  End: (_, ids) => ids.at(-1),
  ArrowLeft: (id) => (isOpen(id) ? void close(id) : rows.get(id).parent),
  ArrowRight: (id) => {
    if (isOpen(id)) return rows.get(id).children?.[0];
    open(id).catch((error) => announce(error.message));
    return undefined;
  },
};

$("tree-list").addEventListener("keydown", (event) => {
  const id = event.target.closest?.("[role=treeitem]")?.dataset.id;
  if (!id || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    location.hash = link({ view: "tree", id, filters: {} });
    return;
  }
  if (!(event.key in MOVES)) return;
  event.preventDefault();
  const next = MOVES[event.key](id, visible());
  if (next) reach(next, true);
});
