// @ts-check
// The relay graph: layers left to right; the layer in focus is wide and shows all its edges, the others a few.

import { arrowhead, fit, ROOMY, shade, write } from "./canvas.js";
import { DIRECTIONS, lastRead, percent, strongestEdge } from "./data.js";
import { mix } from "./geometry.js";
import { blockOf, gapsOf, RELAY, squaresOf, thumbAt } from "./relay_layout.js";

/** @import { Data, Direction, Edges, Run, State, Theme } from "./types.js" */
/** @import { Gap, Square, Thumb } from "./relay_layout.js" */

/** @typedef {{ copyPatch: import("./mask.js").MaskPanel["copyPatch"] }} Copies what draws a patch's own pixels */

export class RelayPanel {
  /** @type {Data} */
  data;
  /** @type {Thumb[]} the patches as they were last drawn */
  thumbs = [];
  /** @type {Gap[]} the layers as they were last drawn */
  gaps = [];
  width = 0;
  height = 0;
  /** The height at which CLS goes from layer to layer. */
  spine = 0;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Copies} mask
   */
  constructor(canvas, mask) {
    this.canvas = canvas;
    this.mask = mask;
  }

  /** @param {Data} data */
  load(data) {
    this.data = data;
  }

  /**
   * @param {number} width
   * @param {number} height
   */
  resize(width, height) {
    this.width = width;
    this.height = height;
    this.spine = (RELAY.top + height - RELAY.bottom) / 2;
  }

  /**
   * @param {State} state
   * @param {Theme} theme
   */
  draw(state, theme) {
    const context = fit(this.canvas, this.width, this.height);
    const run = this.data.runs[state.run];
    this.gaps = gapsOf(this.data.layers, this.width, state.focus);
    this.thumbs = [];
    this.drawFocus(context, state, theme);
    this.drawUnread(context, theme);
    for (const gap of this.gaps) {
      for (const direction of DIRECTIONS) this.drawFlow(context, run, gap, direction, state, theme);
    }
    this.drawSpine(context, run, state, theme);
    this.drawLabels(context, state, theme);
  }

  /**
   * The layers behind the one whose output the language model reads, if there are any.
   * @param {CanvasRenderingContext2D} context
   * @param {Theme} theme
   */
  drawUnread(context, theme) {
    const last = lastRead(this.data);
    if (last === this.data.layers - 1) return;
    const left = this.gaps[last].to, width = this.gaps[this.data.layers - 1].to - left;
    const words = width > ROOMY ? this.data.notRead : "not read";
    shade(context, theme, words, [left, 0, width, this.height - 18], RELAY.top + 20); // above the patches
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {State} state
   * @param {Theme} theme
   */
  drawFocus(context, state, theme) {
    const gap = this.gaps[state.layer];
    context.globalAlpha = 0.5;
    context.fillStyle = theme.line;
    context.fillRect(gap.from, 0, gap.to - gap.from, this.height - 18);
    context.globalAlpha = 1;
  }

  /**
   * One layer's edges in one direction, the strongest on top.
   * @param {CanvasRenderingContext2D} context
   * @param {Run} run
   * @param {Gap} gap
   * @param {Direction} direction
   * @param {State} state
   * @param {Theme} theme
   */
  drawFlow(context, run, gap, direction, state, theme) {
    const edges = run.edges[direction][gap.layer];
    const few = Math.min(RELAY.few, edges.ids.length);
    const count = Math.round(mix(few, edges.ids.length, gap.closeness));
    const squares = squaresOf(blockOf(gap, direction, count, this.spine), direction, count, this.spine);
    for (let edge = count - 1; edge >= 0; edge--) {
      this.drawEdge(context, gap, direction, squares[edge], edges, edge, state, theme);
    }
    squares.forEach((square, edge) => {
      this.drawThumb(context, square, edges.ids[edge], state, theme);
      this.thumbs.push({ ...square, patch: edges.ids[edge], layer: gap.layer });
    });
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Gap} gap
   * @param {Direction} direction
   * @param {Square} square
   * @param {Edges} edges
   * @param {number} edge
   * @param {State} state
   * @param {Theme} theme
   */
  drawEdge(context, gap, direction, square, edges, edge, state, theme) {
    const lit = [state.hover, state.patch].includes(edges.ids[edge]), wide = gap.closeness > 0.3;
    const most = state.oneScale ? strongestEdge(this.data, direction) : edges.weights[0];
    const strength = Math.min(1, edges.weights[edge] / most);
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

  /**
   * From a patch's side down the channel between columns, then in a bow to CLS; the outflow is the mirror of that.
   * @param {CanvasRenderingContext2D} context
   * @param {Gap} gap
   * @param {Direction} direction
   * @param {Square} square
   */
  traceEdge(context, gap, direction, { x, y, side, channel, exit }) {
    const inflow = direction === "inflow", middle = y + side / 2;
    const down = inflow ? x + side + channel / 2 : x - channel / 2;
    const [start, end, bend] = inflow ? [x + side, gap.to - 9, gap.to - 40] : [x, gap.from + 9, gap.from + 40];
    context.moveTo(start, middle);
    context.lineTo(down, middle);
    context.lineTo(down, exit);
    context.bezierCurveTo(down, (exit + this.spine) / 2, bend, this.spine, end, this.spine);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Gap} gap
   * @param {Direction} direction
   * @param {Square} square
   */
  traceShortEdge(context, gap, direction, { x, y, side }) {
    const inflow = direction === "inflow";
    context.moveTo(x + side / 2, inflow ? y + side : y);
    context.lineTo(inflow ? gap.to : gap.from, this.spine);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Square} square
   * @param {number} patch
   * @param {State} state
   * @param {Theme} theme
   */
  drawThumb(context, { x, y, side }, patch, state, theme) {
    this.mask.copyPatch(context, patch, x, y, side, theme);
    const lit = patch === state.hover || patch === state.patch;
    context.lineWidth = lit ? 2.5 : 0.5;
    context.strokeStyle = lit ? theme.accent : theme.soft;
    context.strokeRect(x, y, side, side);
  }

  /**
   * CLS from layer to layer, and what it keeps of itself in this one.
   * @param {CanvasRenderingContext2D} context
   * @param {Run} run
   * @param {State} state
   * @param {Theme} theme
   */
  drawSpine(context, run, state, theme) {
    const stops = [this.gaps[0].from, ...this.gaps.map((gap) => gap.to)], focus = this.gaps[state.layer];
    context.strokeStyle = theme.text;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(stops[0], this.spine);
    context.lineTo(stops[stops.length - 1], this.spine);
    context.stroke();
    context.fillStyle = theme.inflow;
    arrowhead(context, focus.to - 6, this.spine, 0.35, 11);
    for (const x of stops) {
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

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {State} state
   * @param {Theme} theme
   */
  drawLabels(context, state, theme) {
    const focus = this.gaps[state.layer], strong = { colour: theme.text, weight: 600 };
    write(context, theme, "CLS", 0, this.spine, strong);
    write(context, theme, "CLS gathers from", focus.from + 6, 11, strong);
    write(context, theme, "CLS is read by", focus.to - 6, this.height - 30, { ...strong, align: "right" });
    const narrowest = Math.min(...this.gaps.map((gap) => gap.to - gap.from)), every = Math.ceil(16 / narrowest);
    for (const { layer, from, to } of this.gaps) {
      const here = layer === state.layer, middle = (from + to) / 2;
      if (here) write(context, theme, `layer ${layer}`, middle, this.height - 8, { ...strong, align: "center" });
      else if (layer % every === 0) write(context, theme, layer, middle, this.height - 8, { align: "center" });
    }
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  thumbAt(x, y) {
    return thumbAt(this.thumbs, x, y);
  }

  /** @param {number} x */
  layerAt(x) {
    return this.gaps.find((gap) => x >= gap.from && x < gap.to)?.layer ?? null;
  }
}
