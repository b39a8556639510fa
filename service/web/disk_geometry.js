// The hyperbolic plane of curvature -1 on the unit disk (Poincaré's model).
//
// A point is a complex number [re, im] with |z| < 1. An isometry that keeps the orientation is a matrix of SU(1, 1),
// [[a, b], [conj b, conj a]] with |a|² - |b|² = 1, kept as { a, b }: z -> (a z + b) / (conj(b) z + conj(a)).
// Source: Anderson, "Hyperbolic Geometry", 2nd ed., 2005, sections 2.3 and 4.2.

const multiply = ([p, q], [r, s]) => [p * r - q * s, p * s + q * r];
const add = ([p, q], [r, s]) => [p + r, q + s];
const conjugate = ([p, q]) => [p, -q];
const scaled = ([p, q], factor) => [p * factor, q * factor];
const squared = ([p, q]) => p * p + q * q;
const divide = (z, w) => scaled(multiply(z, conjugate(w)), 1 / squared(w));

export const IDENTITY = Object.freeze({ a: [1, 0], b: [0, 0] });

/** The image of the point `z`. */
export const apply = ({ a, b }, z) => divide(add(multiply(a, z), b), add(multiply(conjugate(b), z), conjugate(a)));

/** First `second`, then `first`. Brought back to determinant 1, so that rounding does not add up over a long drag. */
export function compose(first, second) {
  const a = add(multiply(first.a, second.a), multiply(first.b, conjugate(second.b)));
  const b = add(multiply(first.a, second.b), multiply(first.b, conjugate(second.a)));
  const scale = 1 / Math.sqrt(squared(a) - squared(b));
  return { a: scaled(a, scale), b: scaled(b, scale) };
}

export const inverse = ({ a, b }) => ({ a: conjugate(a), b: scaled(b, -1) });

/** The translation along a diameter that takes the centre to `z`. */
function fromCentre(z) {
  const scale = 1 / Math.sqrt(1 - squared(z));
  return { a: [scale, 0], b: scaled(z, scale) };
}

/** The translation along the geodesic through both that takes `from` to `to`; nothing turns about it. */
export function translation(from, to) {
  const there = fromCentre(from);
  const back = inverse(there);
  return compose(there, compose(fromCentre(apply(back, to)), back));
}

/** Geodesic distance: 2 asinh(|z - w| / sqrt((1 - |z|²)(1 - |w|²))), without the cancellation of the arcosh form. */
export const distance = (z, w) =>
  2 * Math.asinh(Math.sqrt(squared([z[0] - w[0], z[1] - w[1]]) / ((1 - squared(z)) * (1 - squared(w)))));

/** The point at the share `t` of the way from `z` to `w`. */
export function between(z, w, t) {
  const there = fromCentre(z);
  const end = apply(inverse(there), w);
  const length = Math.hypot(...end);
  if (length === 0) return z;
  return apply(there, scaled(end, Math.tanh(t * Math.atanh(length)) / length));
}

/**
 * The geodesic from `z` to `w` as the arc of a circle that meets the unit circle at right angles:
 * `{ x, y, radius, from, to, anticlockwise }` as canvas arcs have it, or null where it is (all but) straight.
 *
 * The circle's centre q solves 2 Re(q conj z) = 1 + |z|² and the same for w, since |q|² = 1 + radius².
 */
export function geodesic([p, q], [r, s]) {
  const cross = 2 * (p * s - q * r);
  if (Math.abs(cross) < 1e-4) return null;
  const first = 1 + p * p + q * q;
  const second = 1 + r * r + s * s;
  const x = (first * s - second * q) / cross;
  const y = (second * p - first * r) / cross;
  const from = Math.atan2(q - y, p - x);
  const to = Math.atan2(s - y, r - x);
  const turn = (to - from + 3 * Math.PI) % (2 * Math.PI) - Math.PI;
  return { x, y, radius: Math.sqrt(x * x + y * y - 1), from, to, anticlockwise: turn < 0 };
}

/** Euclidean radius of the disc of hyperbolic radius `size` about a point at |z|² = `square`. */
export function discRadius(square, size) {
  const t = Math.tanh(size / 2);
  return (t * (1 - square)) / (1 - square * t * t);
}

/** Images of n points at once, without making anything: from xs, ys into outX, outY (typed arrays). */
export function applyAll({ a: [a0, a1], b: [b0, b1] }, xs, ys, outX, outY) {
  for (let i = 0; i < xs.length; i += 1) {
    const x = xs[i];
    const y = ys[i];
    const topRe = a0 * x - a1 * y + b0;
    const topIm = a0 * y + a1 * x + b1;
    const lowRe = b0 * x + b1 * y + a0;
    const lowIm = b0 * y - b1 * x - a1;
    const scale = 1 / (lowRe * lowRe + lowIm * lowIm);
    outX[i] = (topRe * lowRe + topIm * lowIm) * scale;
    outY[i] = (topIm * lowRe - topRe * lowIm) * scale;
  }
}
