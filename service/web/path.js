// Where a query belongs in the tree: nodes from general to specific with probabilities, where it stops and why.

import { $, make, percent, titleOf } from "./dom.js";
import { link, NO_TREE } from "./session.js";

const UNLIKE = 0.02; // share of the known photos below which something is told to be unlike anything here

/** While the answer is under way. */
export function showPathWaiting() {
  $("path").hidden = true;
  $("no-tree").hidden = true;
}

/** One line in place of everything that needs a tree: `text` says why there is none. */
export function showNoTree(text = NO_TREE) {
  $("path").hidden = true;
  $("no-tree").textContent = text;
  $("no-tree").hidden = false;
}

/**
 * The path of a query. `place`: where we are (its `level` is marked); `path`: the API's; `common`: its answer about
 * several photos, or null; `zoomed`: its answer to a zoom, or null.
 */
export function showPath(place, path, common, zoomed) {
  const levels = [...path.nodes].reverse(); // the most general first
  const current = zoomed ? zoomed.node.id : path.nodes[0].id;
  $("path-title").textContent = common ? "What they have in common" : "Where it belongs";
  $("common").replaceChildren(...(common ? [commonWords(common)] : []));
  showLabels(common ? common.labels : path.labels, path.next_label);
  const wasInSteps = $("steps").contains(document.activeElement);
  $("steps").replaceChildren(
    ...levels.map((step, i) => stepRow(step, place, levels.length - 1 - i, step.id === current)),
    ...(zoomed && !levels.some(({ id }) => id === current) ? [stepRow(zoomed.node, place, place.level, true)] : []),
  );
  if (wasInSteps) $("steps").querySelector("[aria-current]")?.focus();
  $("stop").textContent = stopWords(path, common);
  const unlike = path.in_distribution < UNLIKE;
  $("unlike").hidden = !unlike;
  $("unlike").textContent =
    `Unlike anything here: ${percent(path.in_distribution)} of the photos in this collection are as hard to place.`;
  $("specificity").textContent = `Specificity ${path.specificity.toFixed(2)}`
    + (unlike ? "" : `, as much as or more than ${percent(path.in_distribution)} of the photos known here`);
  $("path-map").href = link({ view: "disk", filters: {} });
  showZoom(place, path, zoomed);
  $("path").hidden = false;
  $("no-tree").hidden = true;
}

function stepRow(step, place, level, isCurrent) {
  const share = make("span", { className: "share", textContent: percent(step.probability) });
  const title = make("a", { href: link({ ...place, level }), textContent: titleOf(step) });
  if (isCurrent) title.setAttribute("aria-current", "step");
  const row = make("li", {}, title, share);
  row.style.setProperty("--part", `${100 * step.probability}%`);
  return row;
}

function showLabels(labels, nextLabel) {
  const chips = [...labels].reverse().map(({ label, probability }) =>
    make("li", {}, make("b", { textContent: label.at(-1) }), make("span", { textContent: percent(probability) })));
  if (!chips.length && nextLabel) {
    chips.push(make("li", { className: "unsure" }, make("b", { textContent: `${nextLabel.label.at(-1)}?` }),
      make("span", { textContent: percent(nextLabel.probability) })));
  }
  $("labels").replaceChildren(...chips);
  $("labels").hidden = chips.length === 0;
}

function stopWords(path, common) {
  const of = common ? "Their middle" : "The path";
  if (path.stopped_at === null) return `${of} ends in a smallest group.`;
  if (!path.next) return `${of} stops here.`;
  return `${of} stops here: “${titleOf(path.next)}”, the next step, is only ${percent(path.next.probability)} likely.`;
}

function commonWords({ node, probability }) {
  const where = make("a", { href: link({ view: "tree", id: node.id }), textContent: titleOf(node) });
  return make("p", {}, "All of them belong to ", where, `: ${percent(probability)} likely.`);
}

function showZoom(place, path, zoomed) {
  const highest = zoomed ? zoomed.node.parent === null : path.nodes.length < 2;
  const lowest = zoomed ? zoomed.branches.length === 0 : path.stopped_at === null;
  setZoom($("zoom-out"), place, place.level + 1, highest);
  setZoom($("zoom-in"), place, place.level - 1, lowest);
}

function setZoom(control, place, level, isEnd) {
  // Not `disabled`: the button that was just pressed would lose the focus at the end of the way.
  control.setAttribute("aria-disabled", String(isEnd));
  control.onclick = isEnd ? null : () => { location.hash = link({ ...place, level }); };
}

/** What is seen at a zoomed level, above its items. */
export function showBranches(place, { node, branches }) {
  const number = Math.abs(place.level);
  const steps = `${number} ${number === 1 ? "step" : "steps"} more ${place.level > 0 ? "general" : "specific"}`;
  $("zoomed-words").replaceChildren(
    `${steps} · ${node.size.toLocaleString("en")} photos · ${percent(node.probability)} likely · `,
    make("a", { href: link({ view: "tree", id: node.id }), textContent: "Open the group" }),
  );
  $("branches").replaceChildren(...branches.slice(0, 12).map((branch) => make("li", {}, branchLink(branch))));
  $("branches").hidden = branches.length === 0;
  $("zoomed").hidden = false;
}

function branchLink(branch) {
  return make("a", { className: "branch", href: link({ view: "tree", id: branch.id }) },
    make("b", { textContent: titleOf(branch) }), make("span", { textContent: percent(branch.probability) }));
}
