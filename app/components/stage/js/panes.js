// @ts-check
// The masks of a picture that the encoder saw in several rows: base and crops side by side, or a strip of frames.
// Each row is a MaskPanel with a place on the shared canvas; patches are numbered through all rows.

import { fit, frame, write } from "./canvas.js";
import { layOut, placeOf } from "./geometry.js";
import { MaskPanel } from "./mask.js";

/** @import { Data, Pane, ViewGrid, State, Theme } from "./types.js" */

/** @typedef {{ mask: MaskPanel, grid: ViewGrid, last: number }} Tile a row, up to the patch before `last` */
/** @typedef {Pane & { tiles: Tile[], x: number, y: number, wide: number, high: number }} PlacedPane */

export class PanesPanel {
  /** @type {Data} */
  data;
  /** @type {PlacedPane[]} */
  panes = [];
  /** @type {Tile[]} in the order of their patches */
  tiles = [];
  width = 0;
  height = 0;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
  }

  /**
   * @param {Data} data
   * @param {HTMLImageElement[]} pictures
   */
  load(data, pictures) {
    this.data = data;
    this.panes = (data.panes ?? []).map((pane) => {
      const tiles = pane.grids.map((grid) => this.tile(data, pane, grid, pictures[pane.picture]));
      return { ...pane, tiles, x: 0, y: 0, wide: 0, high: 0 };
    });
    this.tiles = this.panes.flatMap((pane) => pane.tiles).sort((one, other) => one.grid.first - other.grid.first);
  }

  /**
   * One row's mask, with its own patches only.
   * @param {Data} data
   * @param {Pane} pane
   * @param {ViewGrid} grid
   * @param {HTMLImageElement} image
   * @returns {Tile}
   */
  tile(data, pane, grid, image) {
    const mask = new MaskPanel(this.canvas), last = grid.first + grid.rows * grid.cols;
    const { width, height, seen, unseen, canvas } = pane;
    const picture = { width, height, seen, unseen, grid, padding: grid.padding };
    const prunedAt = data.runs.pruned.prunedAt.subarray(grid.first, last);
    mask.load({ picture, canvas, prunedAt, nearestKept: null, layerColours: data.layerColours }, image);
    return { mask, grid, last };
  }

  restyle() {
    for (const { mask } of this.tiles) mask.restyle();
  }

  /**
   * All pictures in one size, as many side by side as makes them largest.
   * @param {number} width
   */
  resize(width) {
    const sizes = this.panes.map(({ canvas: [left, top, right, bottom] }) => [right - left, bottom - top]);
    const { scale, corners, height } = layOut(/** @type {[number, number][]} */ (sizes), width);
    this.panes.forEach((pane, at) => this.place(pane, corners[at], scale));
    this.width = width;
    this.height = height;
  }

  /**
   * @param {PlacedPane} pane
   * @param {{ x: number, y: number }} corner
   * @param {number} scale
   */
  place(pane, { x, y }, scale) {
    const [left, top, right, bottom] = pane.canvas;
    Object.assign(pane, { x, y, wide: (right - left) * scale, high: (bottom - top) * scale });
    const zero = { x: x - left * scale, y: y - top * scale };
    for (const { mask } of pane.tiles) {
      mask.place({ scale, ...zero, width: x + pane.wide, height: y + pane.high });
    }
  }

  /**
   * The row that a patch belongs to.
   * @param {number} patch
   * @returns {Tile}
   */
  owner(patch) {
    return this.tiles.find((tile) => patch < tile.last) ?? this.tiles[0];
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  patchAt(x, y) {
    for (const { mask, grid } of this.tiles) {
      const patch = mask.patchAt(x, y);
      if (patch !== null) return grid.first + patch;
    }
    return null;
  }

  /**
   * The patch one step away on the picture; from the side of a pane to the middle of the next.
   * @param {number} patch
   * @param {[number, number]} step down and right
   */
  neighbour(patch, [down, right]) {
    const tile = this.owner(patch), [x, y, width, height] = tile.mask.cell(patch - tile.grid.first);
    const found = this.patchAt(x + (0.5 + right) * width, y + (0.5 + down) * height);
    if (found !== null) return found;
    const next = this.panes[this.panes.findIndex((pane) => pane.tiles.includes(tile)) + right];
    return right && next ? this.middle(next) : patch;
  }

  middle(pane = this.panes[0]) {
    return this.patchAt(pane.x + pane.wide / 2 + 1, pane.y + pane.high / 2 + 1) ?? pane.grids[0].first;
  }

  /**
   * @param {State} state
   * @param {Theme} theme
   */
  draw(state, theme) {
    const context = fit(this.canvas, this.width, this.height);
    for (const pane of this.panes) this.drawPane(context, pane, state, theme);
    this.drawFrame(context, state.patch, 3, theme);
    this.drawFrame(context, state.hover, 2, theme);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number | null} patch
   * @param {number} line
   * @param {Theme} theme
   */
  drawFrame(context, patch, line, theme) {
    if (patch === null) return;
    const { mask, grid } = this.owner(patch);
    mask.drawFrame(context, patch - grid.first, line, theme);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {PlacedPane} pane
   * @param {State} state
   * @param {Theme} theme
   */
  drawPane(context, pane, state, theme) {
    const chosen = pane.grids.some(({ view }) => view === this.data.view);
    write(context, theme, pane.title, pane.x, pane.y - 9, chosen ? { colour: theme.text, weight: 600 } : {});
    context.save();
    context.beginPath();
    context.rect(pane.x, pane.y, pane.wide, pane.high);
    context.clip();
    context.imageSmoothingQuality = "high";
    const { mask } = pane.tiles[0];
    context.drawImage(mask.picture, mask.x, mask.y, pane.width * mask.scale, pane.height * mask.scale);
    for (const tile of pane.tiles) tile.mask.drawPadding(context, theme);
    for (const tile of pane.tiles) tile.mask.drawFates(context, state, theme);
    mask.drawUnseen(context, theme);
    context.restore();
    const shown = pane.tiles.filter(({ grid }) => grid.view === this.data.view); // whose graph and curves are shown
    for (const tile of shown) frame(context, theme, tile.mask.gridSides(), 2, 5);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} patch
   * @param {number} x
   * @param {number} y
   * @param {number} side
   * @param {Theme} theme
   */
  copyPatch(context, patch, x, y, side, theme) {
    const { mask, grid } = this.owner(patch);
    mask.copyPatch(context, patch - grid.first, x, y, side, theme);
  }

  /**
   * A patch's place in words.
   * @param {number} patch
   */
  placeText(patch) {
    const { grid } = this.owner(patch), [row, column] = placeOf(grid, patch - grid.first);
    return ` of ${this.data.views?.[grid.view]} (row ${row}, column ${column})`;
  }

  /**
   * How a patch is called: its number on its own grid.
   * @param {number} patch
   */
  nameOf(patch) {
    return patch - this.owner(patch).grid.first;
  }
}
