// The mask: patches that are left, leave now, or went, on the original picture.

const TALLEST = 560;
const SMALLEST_GRID = 200;

class MaskPanel {
  constructor(canvas) {
    this.canvas = canvas;
  }

  load(data, picture) {
    this.data = data;
    this.picture = picture;
    this.colours = this.sprites = null; // another model may have more layers
    this.cells = document.createElement("canvas");
    this.cells.width = data.picture.grid.cols;
    this.cells.height = data.picture.grid.rows;
    this.sprites = null;
  }

  /** How the original picture's pixels lie on the canvas: all of it, unless the grid would become too small to see. */
  resize(width) {
    const [left, top, right, bottom] = this.data.picture.canvas, { box, rows, cols } = this.data.picture.grid;
    const whole = Math.min(width / (right - left), TALLEST / (bottom - top));
    this.scale = Math.max(whole, Math.min(SMALLEST_GRID, width) / (box[2] - box[0]));
    this.width = width;
    this.height = Math.round(Math.min(TALLEST, (bottom - top) * this.scale));
    this.x = this.place(left, right, box[0], box[2], width);
    this.y = this.place(top, bottom, box[1], box[3], this.height);
    this.cellWidth = ((box[2] - box[0]) / cols) * this.scale;
    this.cellHeight = ((box[3] - box[1]) / rows) * this.scale;
    this.gridX = this.x + box[0] * this.scale;
    this.gridY = this.y + box[1] * this.scale;
    this.sprites = null;
  }

  /** Where the picture's zero lies along one side: the picture in the middle or, if it is longer than that, the grid. */
  place(from, to, gridFrom, gridTo, room) {
    const [low, high] = (to - from) * this.scale <= room + 1 ? [from, to] : [gridFrom, gridTo];
    return room / 2 - ((low + high) / 2) * this.scale;
  }

  /** Left and top of a patch on the canvas. */
  corner(patch) {
    const { cols } = this.data.picture.grid;
    return [this.gridX + (patch % cols) * this.cellWidth, this.gridY + Math.floor(patch / cols) * this.cellHeight];
  }

  patchAt(x, y) {
    const { rows, cols } = this.data.picture.grid;
    const column = Math.floor((x - this.gridX) / this.cellWidth);
    const row = Math.floor((y - this.gridY) / this.cellHeight);
    return row >= 0 && row < rows && column >= 0 && column < cols ? row * cols + column : null;
  }

  /** The patch one step down or to the right, or itself at the edge. */
  neighbour(patch, [down, right]) {
    const { rows, cols } = this.data.picture.grid;
    const row = Math.max(0, Math.min(rows - 1, Math.floor(patch / cols) + down));
    return row * cols + Math.max(0, Math.min(cols - 1, (patch % cols) + right));
  }

  middle() {
    const { rows, cols } = this.data.picture.grid;
    return Math.floor(rows / 2) * cols + Math.floor(cols / 2);
  }

  /** A patch's place in words. */
  placeText(patch) {
    const { cols } = this.data.picture.grid;
    return ` (row ${Math.floor(patch / cols)}, column ${patch % cols})`;
  }

  /** How a patch is called. */
  nameOf(patch) {
    return patch;
  }

  draw(state, theme) {
    const { context } = fit(this.canvas, this.width, this.height);
    this.drawPicture(context, theme);
    this.drawFates(context, state, theme);
    this.drawUnseen(context, theme);
    this.drawTwin(context, state.patch, theme);
    for (const [patch, line] of [[state.patch, 3], [state.hover, 2]]) {
      if (patch !== null) this.drawFrame(context, patch, line, theme);
    }
  }

  drawPicture(context, theme) {
    const { width, height } = this.data.picture;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, this.x, this.y, width * this.scale, height * this.scale);
    this.drawPadding(context, theme);
  }

  drawPadding(context, theme) {
    const { padding } = this.data.picture;
    if (padding.length === 0) return;
    context.fillStyle = hatch(context, theme.line, 4, 1);
    for (const patch of padding) context.fillRect(...this.corner(patch), this.cellWidth, this.cellHeight);
  }

  /** Cells that went are covered (one pixel each, scaled up); those that leave after this layer are hatched. */
  drawFates(context, state, theme) {
    const run = this.data.runs.pruned, { rows, cols } = this.data.picture.grid;
    const pen = this.cells.getContext("2d");
    const pixels = pen.createImageData(cols, rows), leaving = [], gone = [];
    const cover = theme.background.match(/[\d.]+/g).map(Number);
    for (let patch = 0; patch < run.died.length; patch++) {
      const fate = fateOf(run, state.layer, patch);
      if (fate === "alive") continue;
      (fate === "gone" ? gone : leaving).push(patch);
      const colour = state.byLayer ? this.layerColours()[run.died[patch]] : cover;
      const opacity = state.byLayer ? 200 : fate === "gone" ? 214 : 60;
      pixels.data.set([colour[0], colour[1], colour[2], opacity], 4 * patch);
    }
    pen.putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, this.gridX, this.gridY, this.cellWidth * cols, this.cellHeight * rows);
    context.imageSmoothingEnabled = true;
    this.drawLeaving(context, leaving, theme);
    if (state.byLayer) this.drawNumbers(context, gone.concat(leaving), theme);
  }

  drawLeaving(context, leaving, theme) {
    const path = new Path2D();
    for (const patch of leaving) path.rect(...this.corner(patch), this.cellWidth, this.cellHeight);
    context.fillStyle = hatch(context, theme.background, 6, 2);
    context.fill(path);
  }

  layerColours() {
    this.colours ??= this.data.deathColours.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    return this.colours;
  }

  /** The layer's number in each cell, so that colour is not the only carrier; drawn once per layer, then copied. */
  drawNumbers(context, patches, theme) {
    if (this.cellWidth < 11) return;
    this.sprites ??= this.data.deathColours.map((hex, layer) => this.numberSprite(layer, theme));
    const run = this.data.runs.pruned;
    for (const patch of patches) {
      context.drawImage(this.sprites[run.died[patch]], ...this.corner(patch), this.cellWidth, this.cellHeight);
    }
  }

  numberSprite(layer, theme) {
    const density = window.devicePixelRatio || 1, sprite = document.createElement("canvas");
    sprite.width = Math.ceil(this.cellWidth * density);
    sprite.height = Math.ceil(this.cellHeight * density);
    const pen = sprite.getContext("2d");
    pen.scale(density, density);
    const [r, g, b] = this.layerColours()[layer];
    const colour = luminance(`${r} ${g} ${b}`) > 0.45 ? "#000" : "#fff";
    const size = Math.min(10, this.cellWidth * 0.6);
    write(pen, theme, layer, this.cellWidth / 2, this.cellHeight / 2 + 0.5, { size, align: "center", colour });
    return sprite;
  }

  drawUnseen(context, theme) {
    for (const [left, top, right, bottom] of this.data.picture.unseen) {
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
      this.labelUnseen(context, x, y, width, height, cutOff ? "never seen, and more" : "never seen", theme);
    }
    const [left, top, right, bottom] = this.data.picture.seen;
    context.strokeStyle = theme.text;
    context.lineWidth = 1;
    const corner = [this.x + left * this.scale + 0.5, this.y + top * this.scale + 0.5];
    context.strokeRect(...corner, (right - left) * this.scale - 1, (bottom - top) * this.scale - 1);
  }

  labelUnseen(context, x, y, width, height, text, theme) {
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

  drawFrame(context, patch, line, theme) {
    const [x, y] = this.corner(patch);
    context.lineWidth = line + 2.5;
    context.strokeStyle = theme.background;
    context.strokeRect(x, y, this.cellWidth, this.cellHeight);
    context.lineWidth = line;
    context.strokeStyle = theme.accent;
    context.strokeRect(x, y, this.cellWidth, this.cellHeight);
  }

  /** A dashed frame with its name: of the patches that stayed, the one most like the chosen one, which went. */
  drawTwin(context, patch, theme) {
    const twin = patch === null ? -1 : this.data.runs.pruned.twins[patch];
    if (twin < 0) return;
    const [x, y] = this.corner(twin);
    context.lineWidth = 3.5;
    context.strokeStyle = theme.background;
    context.strokeRect(x, y, this.cellWidth, this.cellHeight);
    context.lineWidth = 1.5;
    context.strokeStyle = theme.accent;
    context.setLineDash([4, 2]);
    context.strokeRect(x, y, this.cellWidth, this.cellHeight);
    context.setLineDash([]);
    this.labelTwin(context, x + this.cellWidth / 2, y < 20 ? y + this.cellHeight + 10 : y - 10, theme);
  }

  labelTwin(context, x, y, theme) {
    context.font = `600 11px ${theme.font}`;
    const wide = context.measureText("twin").width + 8;
    const middle = Math.max(wide / 2, Math.min(this.width - wide / 2, x));
    context.fillStyle = theme.background;
    context.fillRect(middle - wide / 2, y - 8, wide, 16);
    write(context, theme, "twin", middle, y, { align: "center", colour: theme.text, weight: 600 });
  }

  /** Copy a patch's own pixels to another canvas; padding is drawn as hatching. */
  copyPatch(context, patch, x, y, side, theme) {
    const { box, rows, cols } = this.data.picture.grid, { width, height } = this.data.picture;
    const wide = (box[2] - box[0]) / cols, high = (box[3] - box[1]) / rows;
    const zoomX = this.picture.width / width, zoomY = this.picture.height / height;
    const left = box[0] + (patch % cols) * wide, top = box[1] + Math.floor(patch / cols) * high;
    if (left < 0 || top < 0 || left + wide > width || top + high > height) {
      context.fillStyle = theme.line;
      context.fillRect(x, y, side, side);
    }
    context.drawImage(this.picture, left * zoomX, top * zoomY, wide * zoomX, high * zoomY, x, y, side, side);
  }
}
