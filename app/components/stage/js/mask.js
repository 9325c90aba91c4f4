// @ts-check
// The mask: patches that are kept, leave now, or were pruned, on the original picture.

import { channelsOf, densityOf, fit, frame, hatch, luminance, penOf, write } from "./canvas.js";
import { fateOf } from "./data.js";
import { cellOf, neighbourOf, patchAt, patchBox, placeOf } from "./geometry.js";

/** @import { Box, MaskView, State, Theme } from "./types.js" */

const TALLEST = 560;
const SMALLEST_GRID = 200;
/** How much of a patch its cover hides, of 255: coloured by layer, pruned, leaving. */
const OPACITY = { byLayer: 200, pruned: 214, leaving: 60 };

export class MaskPanel {
  /** @type {MaskView} */
  view;
  /** @type {HTMLImageElement} */
  picture;
  /** @type {HTMLCanvasElement} one pixel for each patch */
  cells;
  /** @type {number[][] | null} red, green, blue of each layer */
  colours = null;
  /** @type {HTMLCanvasElement[] | null} each layer's number, as it is drawn in a cell */
  sprites = null;
  /** CSS pixels for each of the original picture, and where its zero lies on the canvas. */
  scale = 1;
  x = 0;
  y = 0;
  /** What of the canvas is the mask's, in CSS pixels. */
  width = 0;
  height = 0;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
  }

  /**
   * @param {MaskView} view
   * @param {HTMLImageElement} picture
   */
  load(view, picture) {
    this.view = view;
    this.picture = picture;
    this.colours = this.sprites = null; // another model may have more layers
    this.cells = document.createElement("canvas");
    this.cells.width = this.grid.cols;
    this.cells.height = this.grid.rows;
  }

  get grid() {
    return this.view.picture.grid;
  }

  /** Forget what was drawn in another theme. */
  restyle() {
    this.sprites = null;
  }

  /**
   * How the original picture's pixels lie on the canvas: all of it, unless the grid would become too small to see.
   * @param {number} width
   */
  resize(width) {
    const [left, top, right, bottom] = this.view.canvas, { box } = this.grid;
    const whole = Math.min(width / (right - left), TALLEST / (bottom - top));
    this.scale = Math.max(whole, Math.min(SMALLEST_GRID, width) / (box[2] - box[0]));
    this.width = width;
    this.height = Math.round(Math.min(TALLEST, (bottom - top) * this.scale));
    this.x = this.zeroOf(left, right, box[0], box[2], width);
    this.y = this.zeroOf(top, bottom, box[1], box[3], this.height);
    this.sprites = null;
  }

  /**
   * Where the picture's zero lies along one side: the picture in the middle or, if it is longer than that, the grid.
   * @param {number} from
   * @param {number} to
   * @param {number} gridFrom
   * @param {number} gridTo
   * @param {number} room
   */
  zeroOf(from, to, gridFrom, gridTo, room) {
    const [low, high] = (to - from) * this.scale <= room + 1 ? [from, to] : [gridFrom, gridTo];
    return room / 2 - ((low + high) / 2) * this.scale;
  }

  /**
   * Put the picture at a place and a scale that others have chosen; what lies beyond right and bottom is not its own.
   * @param {{ scale: number, x: number, y: number, width: number, height: number }} place
   */
  place(place) {
    Object.assign(this, place);
    this.sprites = null;
  }

  /**
   * Left, top, width and height of a patch on the canvas.
   * @param {number} patch
   * @returns {[number, number, number, number]}
   */
  cell(patch) {
    const { left, top, width, height } = patchBox(this.grid, patch);
    return [this.x + left * this.scale, this.y + top * this.scale, width * this.scale, height * this.scale];
  }

  /**
   * The same of the whole grid.
   * @returns {[number, number, number, number]}
   */
  gridSides() {
    const [left, top, right, bottom] = this.grid.box, { scale } = this;
    return [this.x + left * scale, this.y + top * scale, (right - left) * scale, (bottom - top) * scale];
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  patchAt(x, y) {
    return patchAt(this.grid, (x - this.x) / this.scale, (y - this.y) / this.scale);
  }

  /**
   * The patch one step down or to the right, or itself at the edge.
   * @param {number} patch
   * @param {[number, number]} step
   */
  neighbour(patch, step) {
    return neighbourOf(this.grid, patch, step);
  }

  middle() {
    const { rows, cols } = this.grid;
    return Math.floor(rows / 2) * cols + Math.floor(cols / 2);
  }

  /**
   * A patch's place in words.
   * @param {number} patch
   */
  placeText(patch) {
    const [row, column] = placeOf(this.grid, patch);
    return ` (row ${row}, column ${column})`;
  }

  /**
   * How a patch is called.
   * @param {number} patch
   */
  nameOf(patch) {
    return patch;
  }

  /**
   * @param {State} state
   * @param {Theme} theme
   */
  draw(state, theme) {
    const context = fit(this.canvas, this.width, this.height);
    this.drawPicture(context, theme);
    this.drawFates(context, state, theme);
    this.drawUnseen(context, theme);
    this.drawTwin(context, state.patch, theme);
    if (state.patch !== null) this.drawFrame(context, state.patch, 3, theme);
    if (state.hover !== null) this.drawFrame(context, state.hover, 2, theme);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Theme} theme
   */
  drawPicture(context, theme) {
    const { width, height } = this.view.picture;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, this.x, this.y, width * this.scale, height * this.scale);
    this.drawPadding(context, theme);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Theme} theme
   */
  drawPadding(context, theme) {
    const { padding } = this.view.picture;
    if (padding.length === 0) return;
    context.fillStyle = hatch(context, theme.line, 4, 1);
    for (const patch of padding) context.fillRect(...this.cell(patch));
  }

  /**
   * Pruned patches are covered (one pixel each, scaled up); those pruned after this layer are hatched.
   * @param {CanvasRenderingContext2D} context
   * @param {State} state
   * @param {Theme} theme
   */
  drawFates(context, state, theme) {
    const pen = penOf(this.cells), { leaving, pruned } = this.fates(state.layer);
    const pixels = pen.createImageData(this.grid.cols, this.grid.rows), cover = channelsOf(theme.background);
    for (const [patches, opacity] of /** @type {const} */ ([[leaving, OPACITY.leaving], [pruned, OPACITY.pruned]])) {
      for (const patch of patches) {
        const [r, g, b] = state.byLayer ? this.layerColours()[this.view.prunedAt[patch]] : cover;
        pixels.data.set([r, g, b, state.byLayer ? OPACITY.byLayer : opacity], 4 * patch);
      }
    }
    pen.putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, ...this.gridSides());
    context.imageSmoothingEnabled = true;
    this.drawLeaving(context, leaving, theme);
    if (state.byLayer) this.drawNumbers(context, pruned.concat(leaving), theme);
  }

  /**
   * The patches pruned after a layer, and those pruned at an earlier one.
   * @param {number} layer
   */
  fates(layer) {
    const { prunedAt } = this.view, patches = [...prunedAt.keys()];
    const leaving = patches.filter((patch) => fateOf(prunedAt, layer, patch) === "leaving");
    return { leaving, pruned: patches.filter((patch) => fateOf(prunedAt, layer, patch) === "pruned") };
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number[]} leaving
   * @param {Theme} theme
   */
  drawLeaving(context, leaving, theme) {
    const path = new Path2D();
    for (const patch of leaving) path.rect(...this.cell(patch));
    context.fillStyle = hatch(context, theme.background, 6, 2);
    context.fill(path);
  }

  layerColours() {
    const hexadecimal = this.view.layerColours;
    this.colours ??= hexadecimal.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    return this.colours;
  }

  /**
   * The layer's number in each cell, so that colour is not the only carrier; drawn once per layer, then copied.
   * @param {CanvasRenderingContext2D} context
   * @param {number[]} patches
   * @param {Theme} theme
   */
  drawNumbers(context, patches, theme) {
    if (cellOf(this.grid)[0] * this.scale < 11) return;
    const sprites = (this.sprites ??= this.layerColours().map((_, layer) => this.numberSprite(layer, theme)));
    for (const patch of patches) context.drawImage(sprites[this.view.prunedAt[patch]], ...this.cell(patch));
  }

  /**
   * @param {number} layer
   * @param {Theme} theme
   */
  numberSprite(layer, theme) {
    const density = densityOf(), sprite = document.createElement("canvas");
    const [width, height] = cellOf(this.grid).map((side) => side * this.scale);
    sprite.width = Math.ceil(width * density);
    sprite.height = Math.ceil(height * density);
    const pen = penOf(sprite);
    pen.scale(density, density);
    const colour = luminance(this.layerColours()[layer]) > 0.45 ? "#000" : "#fff";
    const size = Math.min(10, width * 0.6);
    write(pen, theme, layer, width / 2, height / 2 + 0.5, { size, align: "center", colour });
    return sprite;
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Theme} theme
   */
  drawUnseen(context, theme) {
    for (const box of this.view.picture.unseen) this.coverUnseen(context, box, theme);
    const [left, top, right, bottom] = this.view.picture.seen, { scale } = this;
    context.strokeStyle = theme.text;
    context.lineWidth = 1;
    const corner = /** @type {const} */ ([this.x + left * scale + 0.5, this.y + top * scale + 0.5]);
    context.strokeRect(...corner, (right - left) * scale - 1, (bottom - top) * scale - 1);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Box} box
   * @param {Theme} theme
   */
  coverUnseen(context, [left, top, right, bottom], theme) {
    const x = Math.max(0, this.x + left * this.scale), y = Math.max(0, this.y + top * this.scale);
    const width = Math.min(this.width, this.x + right * this.scale) - x;
    const height = Math.min(this.height, this.y + bottom * this.scale) - y;
    context.globalAlpha = 0.72;
    context.fillStyle = theme.background;
    context.fillRect(x, y, width, height);
    context.globalAlpha = 1;
    context.fillStyle = hatch(context, theme.soft, 9, 1);
    context.fillRect(x, y, width, height);
    const cutOff = (right - left) * this.scale > width + 1 || (bottom - top) * this.scale > height + 1;
    this.labelUnseen(context, [x, y, width, height], cutOff ? "never seen, and more" : "never seen", theme);
  }

  /**
   * Upright where the strip is too narrow; left out where it is too small.
   * @param {CanvasRenderingContext2D} context
   * @param {[number, number, number, number]} strip left, top, width, height
   * @param {string} text
   * @param {Theme} theme
   */
  labelUnseen(context, [x, y, width, height], text, theme) {
    context.font = `400 11px ${theme.font}`;
    const wide = context.measureText(text).width + 14;
    if (Math.max(width, height) < wide + 8 || Math.min(width, height) < 18) return;
    context.save();
    context.translate(x + width / 2, y + height / 2);
    if (width < wide + 8) context.rotate(-Math.PI / 2);
    context.fillStyle = theme.background;
    context.fillRect(-wide / 2, -8, wide, 16);
    write(context, theme, text, 0, 0, { align: "center", colour: theme.text });
    context.restore();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} patch
   * @param {number} line its width
   * @param {Theme} theme
   */
  drawFrame(context, patch, line, theme) {
    frame(context, theme, this.cell(patch), line, line + 2.5);
  }

  /**
   * A dashed frame with its name: of the kept patches, the one most like the chosen one, which was pruned.
   * @param {CanvasRenderingContext2D} context
   * @param {number | null} patch
   * @param {Theme} theme
   */
  drawTwin(context, patch, theme) {
    const nearest = patch === null ? -1 : (this.view.nearestKept?.[patch] ?? -1);
    if (nearest < 0) return;
    const [x, y, width, height] = this.cell(nearest);
    frame(context, theme, [x, y, width, height], 1.5, 3.5, [4, 2]);
    this.labelTwin(context, x + width / 2, y < 20 ? y + height + 10 : y - 10, theme);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} x
   * @param {number} y
   * @param {Theme} theme
   */
  labelTwin(context, x, y, theme) {
    context.font = `600 11px ${theme.font}`;
    const wide = context.measureText("nearest").width + 8;
    const middle = Math.max(wide / 2, Math.min(this.width - wide / 2, x));
    context.fillStyle = theme.background;
    context.fillRect(middle - wide / 2, y - 8, wide, 16);
    write(context, theme, "nearest", middle, y, { align: "center", colour: theme.text, weight: 600 });
  }

  /**
   * Copy a patch's own pixels to another canvas; what lies beyond the picture is filled.
   * @param {CanvasRenderingContext2D} context
   * @param {number} patch
   * @param {number} x
   * @param {number} y
   * @param {number} side
   * @param {Theme} theme
   */
  copyPatch(context, patch, x, y, side, theme) {
    const { width, height } = this.view.picture, from = patchBox(this.grid, patch);
    const zoomX = this.picture.width / width, zoomY = this.picture.height / height;
    if (from.left < 0 || from.top < 0 || from.left + from.width > width || from.top + from.height > height) {
      context.fillStyle = theme.line;
      context.fillRect(x, y, side, side);
    }
    const source = [from.left * zoomX, from.top * zoomY, from.width * zoomX, from.height * zoomY];
    const [left, top, across, down] = source;
    context.drawImage(this.picture, left, top, across, down, x, y, side, side);
  }
}
