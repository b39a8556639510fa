// One node of the tree: its photos, what they are called, its name and how to change it, and ways on from it.

import * as api from "./api.js";
import { $, announce, button, counted, make, pathText, percent, titleOf } from "./dom.js";
import { showProblem } from "./problem.js";
import { forgetAnswers, learnTitle } from "./search.js";
import { itemLink, link } from "./session.js";
import { addTiles, clearTiles, scaleOf, showWaiting, stamp } from "./tiles.js";

const PAGE = 24;
const LABELS = 8;

/** Show a node as the API tells it; `renamed(node)` is called when a person gave it another name. */
export async function showNode(node, collection, signal, renamed) {
  learnTitle(node);
  $("node").hidden = false;
  document.title = `${titleOf(node)} · LHIER`;
  showTitle(node, collection, renamed);
  $("node-above").replaceChildren(...[...node.ancestors].reverse().map((above) =>
    make("li", {}, make("a", { href: link({ view: "tree", id: above.id, filters: {} }), textContent: titleOf(above) }))));
  $("node-back").href = link({ view: "tree", filters: {} });
  $("node-facts").textContent = [
    counted(node.size, "photo", "photos"),
    node.label.length ? `${percent(node.label_share)} ${pathText(node.label)}` : "no label that most of them share",
    `radius ${node.radius.toFixed(2)}`,
  ].join(" · ");
  $("node-within").href = link({ view: "start", filters: { under: node.id } });
  $("node-alike").href = link({ view: "node", id: node.id, filters: {} });
  $("node-map").href = link({ view: "disk", id: node.parent === null ? "" : node.id, filters: {} });
  showChildren(node.children);
  showLabels(node);
  if (isAlone()) $("node-title").focus({ preventScroll: true });
  announce(`${titleOf(node)}, ${counted(node.size, "photo", "photos")}`);
  showWaiting($("node-items"), Math.min(PAGE, node.size));
  await addItems(node, collection, null, signal);
}

/** Whether there is room for the tree or the node, but not for both. */
export const isAlone = () => matchMedia("(max-width: 820px)").matches;

function showTitle(node, collection, renamed) {
  $("node-title").textContent = titleOf(node);
  const edit = (isEdited) => {
    $("rename-form").hidden = !isEdited;
    $("rename").hidden = isEdited;
    $("node-title").hidden = isEdited;
  };
  edit(false);
  const leave = () => {
    edit(false);
    $("rename").focus();
  };
  $("rename").onclick = () => {
    edit(true);
    $("name").value = node.name ?? "";
    $("name").placeholder = node.name === null ? titleOf(node) : "";
    $("name").focus();
  };
  $("rename-cancel").onclick = leave;
  $("rename-form").onkeydown = ({ key }) => { if (key === "Escape") leave(); };
  $("rename-form").onsubmit = async (event) => {
    event.preventDefault();
    try {
      const answer = await api.rename(collection, node.id, $("name").value.trim() || null);
      if (answer === null) return;
      forgetAnswers();
      learnTitle(answer);
      renamed(answer);
      showTitle(answer, collection, renamed);
      leave();
      announce(answer.name === null ? `Its name was taken away: ${titleOf(answer)}` : `Named ${answer.title}`);
    } catch (error) {
      showProblem(error);
    }
  };
}

function showChildren(children) {
  $("node-children").replaceChildren(...children.map((child) => make("li", {},
    make("a", { className: "card", href: link({ view: "tree", id: child.id, filters: {} }) },
      make("span", { className: "mosaic" }, ...[0, 1, 2].map((i) => stamp(child.exemplars[i]))),
      make("b", { textContent: titleOf(child) }), make("small", { textContent: counted(child.size, "photo", "photos") })))));
  $("node-children-part").hidden = children.length === 0;
}

/** The most frequent labels of the most specific level that tells anything. */
function showLabels({ labels, size }) {
  const level = labels.find((counts) => counts.length > 1) ?? [];
  $("node-labels-part").hidden = level.length === 0;
  $("node-labels").replaceChildren(...level.slice(0, LABELS).map(({ label, count }) => {
    const line = make("li", {}, make("span", { textContent: label.at(-1) }), make("small", { textContent: count.toLocaleString("en") }));
    line.style.setProperty("--part", `${(100 * count) / size}%`);
    return line;
  }));
}

/** Append the page of items that `cursor` leads to; `scale`: that of the bars, from the second page on. */
async function addItems(node, collection, cursor, signal, scale = null) {
  const page = await api.nodeItems(collection, node.id, { order: "nearest", limit: PAGE, cursor }, signal);
  const list = $("node-items");
  if (cursor === null) clearTiles(list);
  const first = addTiles(list, page.items, itemLink, scale ?? scaleOf(page.items));
  if (cursor !== null) first?.focus({ preventScroll: true });
  const more = page.next_cursor === null ? [] : [button("More photos", async ({ target }) => {
    target.disabled = true;
    try {
      await addItems(node, collection, page.next_cursor, signal, scale ?? scaleOf(page.items));
    } catch (error) {
      if (error.name !== "AbortError") showProblem(error);
      target.disabled = false;
    }
  })];
  $("node-more").replaceChildren(...more);
}
