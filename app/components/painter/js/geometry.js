// @ts-check
// Which patches a click or a lasso means.

/** @typedef {[number, number]} Point in pixels of the original picture */
/** @typedef {[number, number, number, number]} Box left, top, right, bottom of a patch, in the same pixels */

/**
 * The patch that holds a point, or null.
 * @param {Box[]} boxes
 * @param {Point} point
 */
export function patchAt(boxes, [x, y]) {
  const at = boxes.findIndex(([left, top, right, bottom]) => x >= left && x < right && y >= top && y < bottom);
  return at < 0 ? null : at;
}

/**
 * Whether a point lies inside a closed path: a ray to the right crosses its sides an odd number of times.
 * @param {Point[]} path
 * @param {Point} point
 */
export function isInside(path, [x, y]) {
  let odd = false;
  path.forEach(([x1, y1], at) => {
    const [x2, y2] = path[(at + 1) % path.length];
    if (y1 > y !== y2 > y && x < x1 + ((y - y1) / (y2 - y1)) * (x2 - x1)) odd = !odd;
  });
  return odd;
}

/**
 * The patches whose centre lies inside a path.
 * @param {Box[]} boxes
 * @param {Point[]} path
 */
export function patchesInside(boxes, path) {
  return [...boxes.keys()].filter((id) => {
    const [left, top, right, bottom] = boxes[id];
    return isInside(path, [(left + right) / 2, (top + bottom) / 2]);
  });
}

/**
 * How far a path goes from where it began.
 * @param {Point[]} path
 */
export const reachOf = (path) => Math.max(...path.map(([x, y]) => Math.hypot(x - path[0][0], y - path[0][1])));
