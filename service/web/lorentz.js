// The one piece of the hyperboloid that the page needs where no tree answers.

const squared = (x) => x.reduce((sum, value) => sum + value * value, 0);

/**
 * Lorentz centroid of points of curvature -c: the sum of the points, put back on the hyperboloid.
 * Points and result are space parts, d numbers each. Source: Law et al., "Lorentzian Distance Learning", 2019, (11).
 */
export function centroid(points, c) {
  const time = points.reduce((sum, x) => sum + Math.sqrt(1 / c + squared(x)), 0);
  const space = points[0].map((_, axis) => points.reduce((sum, x) => sum + x[axis], 0));
  const scale = 1 / Math.sqrt(c * (time * time - squared(space)));
  return space.map((value) => value * scale);
}
