// The relay graph: layers left to right; the layer in focus is wide and shows all its edges, the others a few.

const RELAY = { left: 30, right: 14, top: 20, bottom: 34, spineGap: 26, largest: 26, few: 4, focusShare: 0.5 };

class RelayPanel {
  constructor(canvas, mask) {
    this.canvas = canvas;
    this.mask = mask;
    this.thumbs = [];
  }

  load(data) {
    this.data = data;
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
    this.spine = (RELAY.top + height - RELAY.bottom) / 2;
  }

  /** Where each layer's gap begins and ends; `focus` may lie between two layers while the view moves. */
  gaps(focus) {
    const count = this.data.layers, room = this.width - RELAY.left - RELAY.right;
    const wide = count === 1 ? room : Math.min(room * RELAY.focusShare, 460);
    const narrow = count === 1 ? 0 : (room - wide) / (count - 1);
    let x = RELAY.left;
    return Array.from({ length: count }, (_, layer) => {
      const closeness = Math.max(0, 1 - Math.abs(layer - focus));
      const from = x;
      x += narrow + (wide - narrow) * closeness;
      return { layer, from, to: x, closeness };
    });
  }

  draw(state, theme) {
    const { context } = fit(this.canvas, this.width, this.height);
    const run = this.data.runs[state.run], gaps = this.gaps(state.focus);
    this.drawn = gaps;
    this.thumbs = [];
    this.drawFocus(context, gaps, state, theme);
    for (const gap of gaps) {
      for (const direction of DIRECTIONS) this.drawFlow(context, run, gap, direction, state, theme);
    }
    this.drawSpine(context, run, gaps, state, theme);
    this.drawLabels(context, gaps, state, theme);
  }

  drawFocus(context, gaps, state, theme) {
    const gap = gaps[state.layer];
    context.globalAlpha = 0.5;
    context.fillStyle = theme.line;
    context.fillRect(gap.from, 0, gap.to - gap.from, this.height - 18);
    context.globalAlpha = 1;
  }

  /** The squares of a block, strongest nearest the spine and the CLS they are tied to. */
  squares(gap, direction, count) {
    const width = (gap.to - gap.from) * 0.66, height = this.spine - RELAY.top - RELAY.spineGap;
    let side = RELAY.largest, columns = 1;
    for (; side > 5; side--) {
      columns = Math.max(1, Math.floor(width / (side + 2)));
      if (Math.ceil(count / columns) * (side + 2) <= height && side <= width) break;
    }
    const margin = (gap.to - gap.from) * 0.04;
    return Array.from({ length: count }, (_, rank) => {
      const column = rank % columns, row = Math.floor(rank / columns);
      const along = column * (side + 2), away = RELAY.spineGap + row * (side + 2);
      return direction === "inflow"
        ? { x: gap.from + margin + width - along - side, y: this.spine - away - side, side }
        : { x: gap.to - margin - width + along, y: this.spine + away, side };
    });
  }

  drawFlow(context, run, gap, direction, state, theme) {
    const edges = run.edges[direction][gap.layer];
    const few = Math.min(RELAY.few, edges.ids.length);
    const count = Math.round(few + (edges.ids.length - few) * gap.closeness);
    const squares = this.squares(gap, direction, count);
    for (let edge = count - 1; edge >= 0; edge--) {
      this.drawEdge(context, gap, direction, squares[edge], edges, edge, state, theme);
    }
    squares.forEach((square, edge) => {
      this.drawThumb(context, square, edges.ids[edge], state, theme);
      this.thumbs.push({ ...square, patch: edges.ids[edge], layer: gap.layer });
    });
  }

  drawEdge(context, gap, direction, square, edges, edge, state, theme) {
    const lit = [state.hover, state.patch].includes(edges.ids[edge]);
    const middle = square.x + square.side / 2, inflow = direction === "inflow";
    const edgeY = inflow ? square.y + square.side : square.y;
    const [endX, bend] = inflow ? [gap.to - 8, gap.to - 26] : [gap.from + 8, gap.from + 26];
    context.strokeStyle = context.fillStyle = theme[direction];
    context.globalAlpha = lit ? 1 : 0.25 + 0.4 * gap.closeness;
    const strength = edges.weights[edge] / edges.weights[0];
    context.lineWidth = Math.max(0.6, strength * (0.8 + 3.4 * gap.closeness)) + (lit ? 1.2 : 0);
    context.setLineDash(inflow ? [] : [5, 3]);
    context.beginPath();
    context.moveTo(middle, edgeY);
    if (gap.closeness > 0.3) context.bezierCurveTo(middle, (edgeY + this.spine) / 2, bend, this.spine, endX, this.spine);
    else context.lineTo(inflow ? gap.to : gap.from, this.spine);
    context.stroke();
    context.setLineDash([]);
    if (!inflow && gap.closeness > 0.3) arrowhead(context, middle, edgeY, Math.PI / 2, 5 + 2 * strength);
    context.globalAlpha = 1;
  }

  drawThumb(context, { x, y, side }, patch, state, theme) {
    this.mask.copyPatch(context, patch, x, y, side, theme);
    const lit = patch === state.hover || patch === state.patch;
    context.lineWidth = lit ? 2.5 : 0.5;
    context.strokeStyle = lit ? theme.accent : theme.soft;
    context.strokeRect(x, y, side, side);
  }

  drawSpine(context, run, gaps, state, theme) {
    context.strokeStyle = theme.text;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(gaps[0].from, this.spine);
    context.lineTo(gaps.at(-1).to, this.spine);
    context.stroke();
    const focus = gaps[state.layer];
    context.fillStyle = theme.inflow;
    arrowhead(context, focus.to - 6, this.spine, 0.35, 11);
    for (const x of [gaps[0].from, ...gaps.map((gap) => gap.to)]) {
      const near = x === focus.from || x === focus.to;
      context.beginPath();
      context.arc(x, this.spine, near ? 7 : 3.5, 0, 2 * Math.PI);
      context.fillStyle = near ? theme.text : theme.background;
      context.fill();
      context.lineWidth = 1.5;
      context.stroke();
    }
    const keeps = `CLS keeps ${percent(run.clsToItself[state.layer])}`;
    write(context, theme, keeps, (focus.from + focus.to) / 2, this.spine - 9, { align: "center", size: 10.5, colour: theme.text });
  }

  drawLabels(context, gaps, state, theme) {
    write(context, theme, "CLS", 2, this.spine, { colour: theme.text, weight: 600 });
    const focus = gaps[state.layer], strong = { colour: theme.text, weight: 600 };
    write(context, theme, "CLS gathers from", focus.from + 6, 10, strong);
    write(context, theme, "CLS is read by", focus.to - 6, this.height - 26, { ...strong, align: "right" });
    const every = Math.ceil(18 / Math.max(1, gaps[state.layer ? 0 : gaps.length - 1].to - gaps[state.layer ? 0 : gaps.length - 1].from));
    for (const { layer, from, to } of gaps) {
      const here = layer === state.layer;
      if (!here && (layer % every || Math.abs(layer - state.layer) < every - 1)) continue;
      const text = here ? `layer ${layer}` : layer;
      write(context, theme, text, (from + to) / 2, this.height - 8, here ? { ...strong, align: "center" } : { align: "center" });
    }
  }

  thumbAt(x, y) {
    return this.thumbs.findLast((t) => x >= t.x - 1 && x <= t.x + t.side + 1 && y >= t.y - 1 && y <= t.y + t.side + 1) ?? null;
  }

  layerAt(x) {
    return this.drawn?.find((gap) => x >= gap.from && x < gap.to)?.layer ?? null;
  }
}
