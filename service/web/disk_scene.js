// What is on the map and, for each view of it, where everything lies and what there is room for.

import { titleOf } from "./dom.js";
import { applyAll, discRadius } from "./disk_geometry.js";

const ROOM = 0.2; // hyperbolic radius of a photo
const NODE_ROOM = 0.26;
const SMALLEST = 11; // pixels: a photo of less radius stays a dot
const LARGEST = 64;
const FADE_MS = 220;
const MOST_LABELS = 28;
const GAP = 2;

/** The points of a projection in flat arrays: nodes first, then items, each after its parent. */
export class Scene {
  constructor({ nodes, items }) {
    this.points = [...nodes, ...items];
    this.numNodes = nodes.length;
    this.titles = nodes.map(titleOf);
    const count = this.points.length;
    const place = new Map(nodes.map(({ id }, i) => [id, i]));
    this.placeOf = place;
    this.parents = Int32Array.from(this.points, ({ parent }) => (parent === null ? -1 : place.get(parent)));
    this.xs = Float64Array.from(this.points, ({ x }) => x);
    this.ys = Float64Array.from(this.points, ({ y }) => y);
    this.diskX = new Float64Array(count); // places on the unit disk as it is seen
    this.diskY = new Float64Array(count);
    this.screenX = new Float64Array(count);
    this.screenY = new Float64Array(count);
    this.radius = new Float64Array(count); // pixels
    this.shown = new Uint8Array(count); // whether there is room for its photo
    this.alpha = new Float64Array(count); // how far its photo has faded in
    this.branches = Int8Array.from(this.points, ({ branch }) => branch ?? -1);
    this.order = Array.from({ length: count }, (_, i) => i);
    this.labelled = new Set();
    this.route = new Set(); // nodes that the query's path leads through
    this.pin = -1; // where the query belongs
    this.focused = -1;
    this.chosen = -1;
  }

  thumbnail(i) {
    const point = this.points[i];
    return i < this.numNodes ? point.exemplar?.thumbnail ?? null : point.thumbnail;
  }

  /** Place everything as `view` shows it; `ready(i)` says whether its photo is there. */
  arrange(view, ready) {
    applyAll(view.isometry, this.xs, this.ys, this.diskX, this.diskY);
    const { scale, width, height } = view;
    for (let i = 0; i < this.points.length; i += 1) {
      const x = this.diskX[i];
      const y = this.diskY[i];
      this.screenX[i] = width / 2 + scale * x;
      this.screenY[i] = height / 2 + scale * y;
      this.radius[i] = Math.min(LARGEST, scale * discRadius(x * x + y * y, i < this.numNodes ? NODE_ROOM : ROOM));
    }
    this.#giveRoom(view, ready);
  }

  /** Photos by size, nodes before items, those on show before others: each where it hides none of the former. */
  #giveRoom({ width, height }, ready) {
    const first = (i) => i === this.pin || i === this.chosen || i === this.focused;
    const weight = (i) => this.radius[i] * (i < this.numNodes ? 1 : 0.92) * (this.shown[i] ? 1.18 : 1) + (first(i) ? 1e4 : 0);
    const candidates = this.order.filter((i) => {
      const reach = this.radius[i];
      return (reach >= SMALLEST || first(i)) && this.thumbnail(i) !== null
        && this.screenX[i] > -reach && this.screenX[i] < width + reach
        && this.screenY[i] > -reach && this.screenY[i] < height + reach;
    });
    const weights = new Map(candidates.map((i) => [i, weight(i)]));
    candidates.sort((i, j) => weights.get(j) - weights.get(i));
    const taken = [];
    this.shown.fill(0);
    this.wanted = [];
    for (const i of candidates) {
      const x = this.screenX[i];
      const y = this.screenY[i];
      const reach = this.radius[i] + GAP;
      if (taken.some((j) => Math.hypot(this.screenX[j] - x, this.screenY[j] - y) < this.radius[j] + reach)) continue;
      taken.push(i);
      this.shown[i] = 1;
      if (!ready(i)) this.wanted.push(i);
    }
    this.taken = taken;
  }

  /** Let photos fade in and out for `elapsed` ms; whether any is still at it. */
  fade(elapsed, ready, calm) {
    const step = calm ? 1 : elapsed / FADE_MS;
    let changing = false;
    for (let i = 0; i < this.alpha.length; i += 1) {
      const target = this.shown[i] && ready(i) ? 1 : 0;
      if (this.alpha[i] === target) continue;
      this.alpha[i] = target ? Math.min(1, this.alpha[i] + step) : Math.max(0, this.alpha[i] - step);
      changing ||= this.alpha[i] !== target;
    }
    return changing;
  }

  /** Labels of nodes that hide neither each other nor larger photos of other nodes: `[{ i, x, y }]`; `measure(text)` in px. */
  labels({ width, height }, measure) {
    const first = (i) => (i === this.focused || i === this.pin ? 1e6 : 0);
    const rank = (i) => first(i) + (this.labelled.has(i) ? 1.25 : 1) * this.radius[i];
    const candidates = this.order.slice(0, this.numNodes)
      .filter((i) => i === this.focused || (this.radius[i] > 8 && this.#isTelling(i)));
    const ranks = new Map(candidates.map((i) => [i, rank(i)]));
    candidates.sort((i, j) => ranks.get(j) - ranks.get(i));
    const boxes = [];
    const found = [];
    for (const i of candidates) {
      if (found.length >= MOST_LABELS) break;
      const half = measure(this.titles[i]) / 2 + 8;
      const below = this.shown[i] ? 0.66 * this.radius[i] : 6;
      const top = this.screenY[i] + below;
      const box = { i, left: this.screenX[i] - half, right: this.screenX[i] + half, top, bottom: top + 22 };
      const inside = box.left > 2 && box.right < width - 2 && box.top > 2 && box.bottom < height - 2;
      const forced = i === this.focused;
      if (!forced && (!inside || boxes.some((other) => overlap(box, other)) || this.#coversPhoto(box))) continue;
      boxes.push(box);
      found.push({ i, x: this.screenX[i], y: box.top });
    }
    this.labelled = new Set(found.map(({ i }) => i));
    return found;
  }

  /** Whether a node's title says more than its parent's. */
  #isTelling(i) {
    const { title, name } = this.points[i];
    if (i === this.focused || i === this.chosen || i === this.pin || name !== null) return true;
    if (i === 0 || title.startsWith("like ")) return false;
    const parent = this.parents[i];
    return parent < 0 || this.points[parent].title !== title;
  }

  #coversPhoto(box) {
    return this.taken.some((j) => {
      if (j === box.i || this.radius[j] < Math.max(14, 0.85 * this.radius[box.i])) return false;
      const x = this.screenX[j];
      const y = this.screenY[j];
      const nearX = Math.max(box.left, Math.min(x, box.right));
      const nearY = Math.max(box.top, Math.min(y, box.bottom));
      return Math.hypot(nearX - x, nearY - y) < 0.6 * this.radius[j];
    });
  }

  /** The point nearest a pixel, if the pixel is on its photo or dot; -1 for none. */
  at(x, y) {
    let best = -1;
    let nearest = Infinity;
    for (let i = 0; i < this.points.length; i += 1) {
      const reach = this.shown[i] ? this.radius[i] : 9;
      const apart = Math.hypot(this.screenX[i] - x, this.screenY[i] - y);
      if (apart <= reach && apart < nearest) [best, nearest] = [i, apart];
    }
    return best;
  }

  /** Mark where a query belongs: the deepest node of its path that is drawn, or the item itself. */
  mark({ nodes, item }) {
    this.route.clear();
    const deepest = nodes.find((id) => this.placeOf.has(id));
    this.pin = deepest === undefined ? -1 : this.placeOf.get(deepest);
    const own = item === null ? -1 : this.points.findIndex((point, i) => i >= this.numNodes && point.id === item);
    if (own >= 0) this.pin = own;
    for (let i = this.pin; i >= 0; i = this.parents[i]) this.route.add(i);
  }
}

const overlap = (one, other) =>
  one.left < other.right && one.right > other.left && one.top < other.bottom && one.bottom > other.top;
