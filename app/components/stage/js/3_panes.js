// The masks of a picture that the encoder saw in several rows: base and crops side by side, or a strip of frames.
// Each row is a MaskPanel with a place on the shared canvas; patches are numbered through all rows.

const PANES = { gap: 14, title: 20, titleRoom: 190, tallest: 600 };

class PanesPanel {
  constructor(canvas) {
    this.canvas = canvas;
  }

  load(data, pictures) {
    this.data = data;
    this.panes = data.panes.map((pane) => {
      const tiles = pane.grids.map((grid) => this.tile(data, pane, grid, pictures[pane.picture]));
      return { ...pane, tiles };
    });
    this.tiles = this.panes.flatMap((pane) => pane.tiles).sort((one, other) => one.first - other.first);
  }

  /** One row's mask, with its own patches only. */
  tile(data, pane, grid, picture) {
    const mask = new MaskPanel(this.canvas), { died } = data.runs.pruned, last = grid.first + grid.rows * grid.cols;
    const view = {
      picture: { width: pane.width, height: pane.height, padding: grid.padding, grid, seen: pane.seen, unseen: pane.unseen },
      runs: { pruned: { died: died.subarray(grid.first, last) } },
      deathColours: data.deathColours,
    };
    mask.load(view, picture);
    return { mask, first: grid.first, last, part: grid.part, grid };
  }

  /** All pictures in one size, as many side by side as makes them largest. */
  resize(width) {
    const sizes = this.panes.map(({ canvas: [left, top, right, bottom] }) => [right - left, bottom - top]);
    const [widest, tallest] = [0, 1].map((side) => Math.max(...sizes.map((size) => size[side])));
    let best = { scale: 0 };
    for (let columns = 1; columns <= sizes.length; columns++) {
      const rows = Math.ceil(sizes.length / columns), across = (width - PANES.gap * (columns - 1)) / columns;
      const scale = Math.min(across / widest, (PANES.tallest / rows - PANES.title - PANES.gap) / tallest);
      if (scale > best.scale) best = { scale, columns };
    }
    this.width = width;
    this.flow(sizes, best.scale, best.columns);
  }

  /** Left to right and row by row. */
  flow(sizes, scale, columns) {
    let x = 0, y = 0, high = 0;
    this.panes.forEach((pane, at) => {
      if (at % columns === 0) [x, y, high] = [0, at === 0 ? 0 : y + PANES.title + high + PANES.gap, 0];
      this.place(pane, x, y + PANES.title, scale);
      x += Math.max(sizes[at][0] * scale, Math.min(PANES.titleRoom, this.width / columns)) + PANES.gap;
      high = Math.max(high, sizes[at][1] * scale);
    });
    this.height = Math.ceil(y + PANES.title + high + 3);
  }

  place(pane, x, y, scale) {
    const [left, top, right, bottom] = pane.canvas;
    Object.assign(pane, { x, y, wide: (right - left) * scale, high: (bottom - top) * scale });
    for (const { mask, grid } of pane.tiles) {
      const [from, above, to, below] = grid.box;
      Object.assign(mask, { scale, width: x + pane.wide, height: y + pane.high, x: x - left * scale, y: y - top * scale, sprites: null });
      mask.cellWidth = ((to - from) / grid.cols) * scale;
      mask.cellHeight = ((below - above) / grid.rows) * scale;
      mask.gridX = mask.x + from * scale;
      mask.gridY = mask.y + above * scale;
    }
  }

  set sprites(value) {
    for (const { mask } of this.tiles ?? []) mask.sprites = value;
  }

  /** The row that a patch belongs to. */
  owner(patch) {
    return this.tiles.find((tile) => patch < tile.last);
  }

  corner(patch) {
    const tile = this.owner(patch);
    return tile.mask.corner(patch - tile.first);
  }

  patchAt(x, y) {
    for (const { mask, first } of this.tiles) {
      const patch = mask.patchAt(x, y);
      if (patch !== null) return first + patch;
    }
    return null;
  }

  /** The patch one step away on the picture; from the side of a pane to the middle of the next. */
  neighbour(patch, [down, right]) {
    const { mask } = this.owner(patch), [x, y] = this.corner(patch);
    const found = this.patchAt(x + (0.5 + right) * mask.cellWidth, y + (0.5 + down) * mask.cellHeight);
    if (found !== null) return found;
    const at = this.panes.findIndex((pane) => pane.tiles.includes(this.owner(patch)));
    const next = this.panes[at + right];
    return right && next ? this.middle(next) : patch;
  }

  middle(pane = this.panes[0]) {
    return this.patchAt(pane.x + pane.wide / 2 + 1, pane.y + pane.high / 2 + 1) ?? pane.tiles[0].first;
  }

  draw(state, theme) {
    const { context } = fit(this.canvas, this.width, this.height);
    for (const pane of this.panes) this.drawPane(context, pane, state, theme);
    for (const [patch, line] of [[state.patch, 3], [state.hover, 2]]) {
      if (patch === null) continue;
      const tile = this.owner(patch);
      tile.mask.drawFrame(context, patch - tile.first, line, theme);
    }
  }

  drawPane(context, pane, state, theme) {
    const chosen = pane.tiles.some(({ part }) => part === this.data.part);
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
    for (const tile of pane.tiles) if (tile.part === this.data.part) this.outline(context, tile, theme);
  }

  /** The row whose graph and curves are shown. */
  outline(context, { mask, grid }, theme) {
    const sides = [mask.gridX, mask.gridY, mask.cellWidth * grid.cols, mask.cellHeight * grid.rows];
    for (const [colour, wide] of [[theme.background, 5], [theme.accent, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = wide;
      context.strokeRect(...sides);
    }
  }

  copyPatch(context, patch, x, y, side, theme) {
    const tile = this.owner(patch);
    tile.mask.copyPatch(context, patch - tile.first, x, y, side, theme);
  }

  /** A patch's place in words. */
  placeText(patch) {
    const { first, grid, part } = this.owner(patch), own = patch - first;
    return ` of ${this.data.parts[part]} (row ${Math.floor(own / grid.cols)}, column ${own % grid.cols})`;
  }

  /** How a patch is called: its number on its own grid. */
  nameOf(patch) {
    return patch - this.owner(patch).first;
  }
}
