// Where one looks at the disk from: an isometry and a magnification, and how gestures change them.
//
// What is on the screen is centre + scale * magnification * (isometry of the point). Zooming magnifies the picture and
// translates it so that the point under the pointer stays there; panning takes the point under the pointer along.

import { apply, between, compose, distance, IDENTITY, inverse, translation } from "./disk_geometry.js";

const FARTHEST = 4.2; // hyperbolic distance from the root that one may wander: the tree ends at 2.8
const SMALLEST = 0.9; // of the magnification
const LARGEST = 8;
const BEGINNING = 1.1; // the tree ends within the rim: some of the rim may lie outside of the window
const RIM = 0.995; // pointers outside of the disk pull at this much of it

export class View {
  isometry = IDENTITY;
  magnification = BEGINNING;
  width = 1;
  height = 1;

  /** Pixels from the centre of the disk to its rim. */
  get scale() {
    return (Math.min(this.width, this.height) / 2 - 4) * this.magnification;
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
  }

  /** The place on the screen's disk under a pixel: inside, however far out the pixel. */
  under(x, y) {
    const z = [(x - this.width / 2) / this.scale, (y - this.height / 2) / this.scale];
    const length = Math.hypot(...z);
    return length > RIM ? [(z[0] * RIM) / length, (z[1] * RIM) / length] : z;
  }

  /** Take the place `from` of the screen's disk to `to`; not farther than one may wander. */
  drag(from, to) {
    const moved = compose(translation(from, to), this.isometry);
    if (distance(apply(inverse(moved), [0, 0]), [0, 0]) <= FARTHEST) this.isometry = moved;
  }

  /** Magnify by `factor`, keeping what is under the pixel there. */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const before = this.under(x, y);
    this.magnification = Math.min(LARGEST, Math.max(SMALLEST, this.magnification * factor));
    this.drag(before, this.under(x, y));
  }

  reset() {
    this.isometry = IDENTITY;
    this.magnification = BEGINNING;
  }

  /** The views on the way to having `point` (of the tree) in the centre, as a function of 0..1. */
  towards(point) {
    const start = this.isometry;
    const place = apply(start, point);
    return (share) => {
      this.isometry = compose(translation(place, between(place, [0, 0], share)), start);
    };
  }

  /** The views on the way to the beginning, likewise. */
  home() {
    const { isometry, magnification } = this;
    const place = apply(isometry, [0, 0]);
    // What turned meanwhile turns back, too: the rest, after the root is back in the centre, is a turn about it.
    const rest = compose(translation(place, [0, 0]), isometry);
    const angle = 2 * Math.atan2(rest.a[1], rest.a[0]);
    return (share) => {
      const turn = { a: [Math.cos((-angle * share) / 2), Math.sin((-angle * share) / 2)], b: [0, 0] };
      this.isometry = compose(turn, compose(translation(place, between(place, [0, 0], share)), isometry));
      this.magnification = magnification ** (1 - share) * BEGINNING ** share;
      if (share === 1) this.reset();
    };
  }
}
