// @ts-check
// Where layers and patches lie in the relay graph, and which of them is at a point. CSS pixels.

import { mix } from "./geometry.js";

/** @import { Direction } from "./types.js" */

/**
 * The room of one layer; `closeness` is 1 for the one in focus, 0 for all but its neighbours.
 * @typedef {{ layer: number, from: number, to: number, closeness: number }} Gap
 */

/**
 * The room of a layer's patches in one direction; `away` from the spine, with a `channel` beside each column.
 * @typedef {{ side: number, columns: number, channel: number, left: number, right: number, away: number }} Block
 */

/** @typedef {{ x: number, y: number, side: number, channel: number, exit: number }} Square */
/** @typedef {Square & { patch: number, layer: number }} Thumb */

export const RELAY = {
  left: 30, right: 14, top: 22, bottom: 40, largest: 24, few: 4, channel: 5, focusShare: 0.56, widest: 560,
};

/**
 * @param {number} layers
 * @param {number} width of the graph
 * @param {number} focus the layer that is wide; it may lie between two while the view moves
 * @returns {Gap[]}
 */
export function gapsOf(layers, width, focus) {
  const room = width - RELAY.left - RELAY.right;
  const wide = layers === 1 ? room : Math.min(room * RELAY.focusShare, RELAY.widest);
  const narrow = layers === 1 ? 0 : (room - wide) / (layers - 1);
  let x = RELAY.left;
  return Array.from({ length: layers }, (_, layer) => {
    const closeness = Math.max(0, 1 - Math.abs(layer - focus)), from = x;
    x += narrow + (wide - narrow) * closeness;
    return { layer, from, to: x, closeness };
  });
}

/**
 * Where a block of squares lies: strongest nearest the spine and the CLS it is tied to, channels for the edges.
 * @param {Gap} gap
 * @param {Direction} direction
 * @param {number} count of squares
 * @param {number} spine its height
 * @returns {Block}
 */
export function blockOf(gap, direction, count, spine) {
  const room = (gap.to - gap.from) * mix(0.8, 0.84, gap.closeness), away = mix(24, 66, gap.closeness);
  const height = spine - RELAY.top - away, channel = mix(2, RELAY.channel, gap.closeness);
  let side = RELAY.largest, columns = 1;
  for (; side > 5; side--) {
    columns = Math.max(1, Math.min(count, Math.floor(room / (side + channel))));
    if (Math.ceil(count / columns) * (side + 2) <= height && side <= room) break;
  }
  if (gap.closeness < 0.3) columns = 1;
  const width = columns * (side + channel), slack = gap.to - gap.from - width;
  const left = gap.from + mix(slack / 2, direction === "inflow" ? 0.25 * slack : 0.75 * slack, gap.closeness);
  return { side, columns, channel, left, right: left + width, away };
}

/**
 * The squares of a block, strongest first: inflow above the spine from the right, outflow below it from the left.
 * @param {Block} block
 * @param {Direction} direction
 * @param {number} count
 * @param {number} spine
 * @returns {Square[]}
 */
export function squaresOf(block, direction, count, spine) {
  const { side, columns, channel } = block, inflow = direction === "inflow";
  const exit = inflow ? spine - block.away : spine + block.away;
  return Array.from({ length: count }, (_, rank) => {
    const along = (rank % columns) * (side + channel), away = block.away + Math.floor(rank / columns) * (side + 2);
    return inflow
      ? { x: block.right - channel - along - side, y: spine - away - side, side, channel, exit }
      : { x: block.left + channel + along, y: spine + away, side, channel, exit };
  });
}

/**
 * The thumb at a point or a pixel beside it; of several the one drawn last.
 * @param {Thumb[]} thumbs
 * @param {number} x
 * @param {number} y
 */
export function thumbAt(thumbs, x, y) {
  const near = (/** @type {number} */ from, /** @type {number} */ side, /** @type {number} */ at) =>
    at >= from - 1 && at <= from + side + 1;
  return thumbs.findLast((thumb) => near(thumb.x, thumb.side, x) && near(thumb.y, thumb.side, y)) ?? null;
}
