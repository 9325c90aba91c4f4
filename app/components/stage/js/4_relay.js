// The relay graph: layers left to right; the layer in focus is wide and shows all its edges, the others a few.

const RELAY = { left: 30, right: 14, top: 22, bottom: 40, largest: 24, few: 4, channel: 5, focusShare: 0.56, widest: 560 };

const mix = (from, to, share) => from + (to - from) * share;

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
    const wide = count === 1 ? room : Math.min(room * RELAY.focusShare, RELAY.widest);
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

  /** Where a block of squares lies: strongest nearest the spine and the CLS it is tied to, channels for the edges. */
  block(gap, direction, count) {
    const room = (gap.to - gap.from) * mix(0.8, 0.84, gap.closeness), away = mix(24, 66, gap.closeness);
    const height = this.spine - RELAY.top - away, channel = mix(2, RELAY.channel, gap.closeness);
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

  squares(gap, direction, count) {
    const block = this.block(gap, direction, count), { side, columns, channel } = block;
    return Array.from({ length: count }, (_, rank) => {
      const along = (rank % columns) * (side + channel), away = block.away + Math.floor(rank / columns) * (side + 2);
      return direction === "inflow"
        ? { x: block.right - channel - along - side, y: this.spine - away - side, side, channel, exit: this.spine - block.away }
        : { x: block.left + channel + along, y: this.spine + away, side, channel, exit: this.spine + block.away };
    });
  }

  drawFlow(context, run, gap, direction, state, theme) {
    const edges = run.edges[direction][gap.layer];
    const few = Math.min(RELAY.few, edges.ids.length);
    const count = Math.round(mix(few, edges.ids.length, gap.closeness));
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
    const lit = [state.hover, state.patch].includes(edges.ids[edge]), wide = gap.closeness > 0.3;
    const strength = edges.weights[edge] / edges.weights[0];
    context.strokeStyle = context.fillStyle = theme[direction];
    context.globalAlpha = lit ? 1 : mix(0.3, 0.62, gap.closeness);
    context.lineWidth = Math.max(0.7, strength * mix(0.9, 3.6, gap.closeness)) + (lit ? 1.2 : 0);
    context.setLineDash(direction === "inflow" ? [] : [5, 3]);
    context.beginPath();
    if (wide) this.traceEdge(context, gap, direction, square);
    else this.traceShortEdge(context, gap, direction, square);
    context.stroke();
    context.setLineDash([]);
    if (wide && direction === "outflow") {
      arrowhead(context, square.x + 1, square.y + square.side / 2, 0, 5 + 2 * strength);
    }
    context.globalAlpha = 1;
  }

  /** From a patch's side down the channel between columns, then in a bow to CLS; the outflow is the mirror of that. */
  traceEdge(context, gap, direction, { x, y, side, channel, exit }) {
    const inflow = direction === "inflow", middle = y + side / 2;
    const lane = inflow ? x + side + channel / 2 : x - channel / 2;
    const [start, end, bend] = inflow ? [x + side, gap.to - 9, gap.to - 40] : [x, gap.from + 9, gap.from + 40];
    context.moveTo(start, middle);
    context.lineTo(lane, middle);
    context.lineTo(lane, exit);
    context.bezierCurveTo(lane, (exit + this.spine) / 2, bend, this.spine, end, this.spine);
  }

  traceShortEdge(context, gap, direction, { x, y, side }) {
    const inflow = direction === "inflow";
    context.moveTo(x + side / 2, inflow ? y + side : y);
    context.lineTo(inflow ? gap.to : gap.from, this.spine);
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
    write(context, theme, keeps, focus.from + 12, this.spine - 10, { size: 10.5, colour: theme.text });
  }

  drawLabels(context, gaps, state, theme) {
    const focus = gaps[state.layer], strong = { colour: theme.text, weight: 600 };
    write(context, theme, "CLS", 0, this.spine, strong);
    write(context, theme, "CLS gathers from", focus.from + 6, 11, strong);
    write(context, theme, "CLS is read by", focus.to - 6, this.height - 30, { ...strong, align: "right" });
    const narrowest = Math.min(...gaps.map((gap) => gap.to - gap.from)), every = Math.ceil(16 / narrowest);
    for (const { layer, from, to } of gaps) {
      const here = layer === state.layer, middle = (from + to) / 2;
      if (here) write(context, theme, `layer ${layer}`, middle, this.height - 8, { ...strong, align: "center" });
      else if (layer % every === 0) write(context, theme, layer, middle, this.height - 8, { align: "center" });
    }
  }

  thumbAt(x, y) {
    return this.thumbs.findLast((t) => x >= t.x - 1 && x <= t.x + t.side + 1 && y >= t.y - 1 && y <= t.y + t.side + 1) ?? null;
  }

  layerAt(x) {
    return this.drawn?.find((gap) => x >= gap.from && x < gap.to)?.layer ?? null;
  }
}
