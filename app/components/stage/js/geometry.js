// @ts-check
// Where patches lie on the original picture, and how pictures share the room of a canvas.

/** @import { Grid } from "./types.js" */

/** Of several pictures: the room between them, above each for its title, and in all. CSS pixels. */
export const PANES = { gap: 14, title: 20, titleRoom: 190, tallest: 600 };

/**
 * @param {number} from
 * @param {number} to
 * @param {number} share 0 to 1
 */
export const mix = (from, to, share) => from + (to - from) * share;

/**
 * @param {number} least
 * @param {number} value
 * @param {number} most
 */
export const clamp = (least, value, most) => Math.max(least, Math.min(most, value));

/**
 * Width and height of a grid's cells, in pixels of the original picture.
 * @param {Grid} grid
 * @returns {[number, number]}
 */
export const cellOf = ({ box, rows, cols }) => [(box[2] - box[0]) / cols, (box[3] - box[1]) / rows];

/**
 * Row and column of a patch.
 * @param {{ cols: number }} grid
 * @param {number} patch
 * @returns {[number, number]}
 */
export const placeOf = ({ cols }, patch) => [Math.floor(patch / cols), patch % cols];

/**
 * Left, top, width and height of a patch, in pixels of the original picture.
 * @param {Grid} grid
 * @param {number} patch
 */
export function patchBox(grid, patch) {
  const [width, height] = cellOf(grid), [row, column] = placeOf(grid, patch);
  return { left: grid.box[0] + column * width, top: grid.box[1] + row * height, width, height };
}

/**
 * The patch that holds a point of the original picture; null beside the grid.
 * @param {Grid} grid
 * @param {number} x
 * @param {number} y
 */
export function patchAt(grid, x, y) {
  const [width, height] = cellOf(grid);
  const column = Math.floor((x - grid.box[0]) / width), row = Math.floor((y - grid.box[1]) / height);
  return row >= 0 && row < grid.rows && column >= 0 && column < grid.cols ? row * grid.cols + column : null;
}

/**
 * The patch some steps down and to the right, or as far as the grid goes.
 * @param {{ rows: number, cols: number }} grid
 * @param {number} patch
 * @param {[number, number]} step
 */
export function neighbourOf(grid, patch, [down, right]) {
  const [row, column] = placeOf(grid, patch);
  return clamp(0, row + down, grid.rows - 1) * grid.cols + clamp(0, column + right, grid.cols - 1);
}

/**
 * The scale at which pictures are largest, and how many then stand side by side.
 * @param {[number, number][]} sizes width and height of each
 * @param {number} width the room across, CSS pixels
 */
export function bestColumns(sizes, width) {
  const widest = Math.max(...sizes.map(([wide]) => wide)), tallest = Math.max(...sizes.map(([, high]) => high));
  let best = { scale: 0, columns: 1 };
  for (let columns = 1; columns <= sizes.length; columns++) {
    const rows = Math.ceil(sizes.length / columns), across = (width - PANES.gap * (columns - 1)) / columns;
    const scale = Math.min(across / widest, (PANES.tallest / rows - PANES.title - PANES.gap) / tallest);
    if (scale > best.scale) best = { scale, columns };
  }
  return best;
}

/**
 * Where pictures of one scale lie, left to right and row by row, each below its title; and how high that is.
 * @param {[number, number][]} sizes width and height of each
 * @param {number} width the room across, CSS pixels
 */
export function layOut(sizes, width) {
  const { scale, columns } = bestColumns(sizes, width);
  let x = 0, y = 0, high = 0;
  const corners = sizes.map(([ownWidth, ownHeight], at) => {
    if (at % columns === 0) [x, y, high] = [0, at === 0 ? 0 : y + PANES.title + high + PANES.gap, 0];
    const corner = { x, y: y + PANES.title };
    x += Math.max(ownWidth * scale, Math.min(PANES.titleRoom, width / columns)) + PANES.gap;
    high = Math.max(high, ownHeight * scale);
    return corner;
  });
  return { scale, corners, height: Math.ceil(y + PANES.title + high + 3) };
}
