// @ts-check
// Concentration through the layers: two runs with their bands, and the pruned patches as bars on the same axis.

import { densityOf, fit, hatch, shade, write } from "./canvas.js";
import { lastRead, RUNS } from "./data.js";
import { clamp, mix } from "./geometry.js";

/** @import { Data, Metric, RunName, State, Theme } from "./types.js" */

const CHART = { left: 40, right: 12, top: 26, bottom: 32, bars: 40, barGap: 22 };

/** @param {RunName} run */
const dashOf = (run) => (run === "full" ? [] : [6, 3]);

export class ChartPanel {
  /** @type {Data} */
  data;
  width = 0;
  height = 0;
  /** @type {string | null} what the still part was drawn with */
  stillKey = null;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.still = document.createElement("canvas");
  }

  /** @param {Data} data */
  load(data) {
    this.data = data;
    this.stillKey = null;
  }

  /**
   * @param {number} width
   * @param {number} height
   */
  resize(width, height) {
    this.width = width;
    this.height = height;
    this.stillKey = null;
  }

  /** The width that each layer has. */
  get step() {
    return (this.width - CHART.left - CHART.right) / this.data.layers;
  }

  /** @param {number} layer */
  x(layer) {
    return CHART.left + (layer + 0.5) * this.step;
  }

  /**
   * NaN, which canvases pass over, for a value that is none: CLS attended to no patch at all.
   * @param {number | null} value
   * @param {number[]} ticks
   */
  y(value, ticks) {
    if (value === null) return NaN;
    const share = (value - ticks[0]) / (ticks[ticks.length - 1] - ticks[0]);
    return mix(this.height - CHART.bottom - CHART.bars - CHART.barGap, CHART.top, share);
  }

  /** @param {number} x */
  layerAt(x) {
    return clamp(0, Math.floor((x - CHART.left) / this.step), this.data.layers - 1);
  }

  /**
   * All but the cursor changes only with metric, size and theme: drawn once, then copied.
   * @param {State} state
   * @param {Theme} theme
   */
  draw(state, theme) {
    const metric = this.data.curves[state.metric], x = this.x(state.layer);
    const key = [state.metric, this.width, this.height, theme.background, densityOf()].join();
    if (key !== this.stillKey) this.drawStill(metric, theme);
    this.stillKey = key;
    const context = fit(this.canvas, this.width, this.height);
    context.globalAlpha = 0.5;
    context.fillStyle = theme.line;
    context.fillRect(x - this.step / 2, CHART.top - 4, this.step, this.height - CHART.top - CHART.bottom + 22);
    context.globalAlpha = 1;
    context.drawImage(this.still, 0, 0, this.width, this.height);
    for (const run of RUNS) {
      this.drawMarker(context, run, x, this.y(metric[run].mean[state.layer], metric.ticks), 5.5, theme);
    }
  }

  /**
   * @param {Metric} metric
   * @param {Theme} theme
   */
  drawStill(metric, theme) {
    const context = fit(this.still, this.width, this.height);
    this.drawUnread(context, theme);
    this.drawBars(context, theme);
    this.drawAxes(context, metric, theme);
    for (const run of RUNS) this.drawBand(context, metric, run, theme);
    for (const run of RUNS) this.drawLine(context, metric, run, theme);
    this.drawKey(context, theme);
  }

  /**
   * The layers behind the one whose output the language model reads, if there are any.
   * @param {CanvasRenderingContext2D} context
   * @param {Theme} theme
   */
  drawUnread(context, theme) {
    const behind = this.data.layers - 1 - lastRead(this.data);
    if (behind === 0) return;
    const left = this.x(lastRead(this.data)) + this.step / 2, height = this.height - CHART.top - CHART.bottom + 22;
    shade(context, theme, this.data.notRead, [left, CHART.top - 4, behind * this.step, height]);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} y
   */
  traceAcross(context, y) {
    context.beginPath();
    context.moveTo(CHART.left, y);
    context.lineTo(this.width - CHART.right, y);
    context.stroke();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Metric} metric
   * @param {Theme} theme
   */
  drawAxes(context, metric, theme) {
    context.strokeStyle = theme.line;
    context.lineWidth = 1;
    for (const tick of metric.ticks) {
      const y = Math.round(this.y(tick, metric.ticks)) + 0.5;
      this.traceAcross(context, y);
      write(context, theme, tick, CHART.left - 6, y, { align: "right" });
    }
    const every = Math.ceil(20 / this.step);
    for (let layer = 0; layer < this.data.layers; layer += every) {
      write(context, theme, layer, this.x(layer), this.height - CHART.bottom + 11, { align: "center" });
    }
    this.drawFeatureLayer(context, theme);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Theme} theme
   */
  drawFeatureLayer(context, theme) {
    write(context, theme, "layer", CHART.left - 6, this.height - CHART.bottom + 11, { align: "right" });
    const text = "the language model reads its output ▲", x = this.x(this.data.lastReadLayer) + 5;
    write(context, theme, text, x, this.height - 7, { align: "right", size: 10.5 });
  }

  /**
   * Bars stand in a strip of their own below the curves: same layers, another scale.
   * @param {CanvasRenderingContext2D} context
   * @param {Theme} theme
   */
  drawBars(context, theme) {
    const run = this.data.runs.pruned, most = Math.max(1, ...run.removed);
    run.removed.forEach((count, layer) => {
      const height = Math.max(1.5, (CHART.bars * count) / most);
      if (count > 0) this.drawBar(context, layer, height, count, run.clamped[layer], theme);
    });
    context.strokeStyle = theme.soft;
    this.traceAcross(context, this.height - CHART.bottom + 0.5);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} layer
   * @param {number} height
   * @param {number} count of patches
   * @param {boolean} clamped
   * @param {Theme} theme
   */
  drawBar(context, layer, height, count, clamped, theme) {
    const wide = Math.min(30, this.step * 0.6), x = this.x(layer), top = this.height - CHART.bottom - height;
    context.fillStyle = clamped ? hatch(context, theme.pruned, 5, 1.2) : theme.pruned;
    context.globalAlpha = clamped ? 0.9 : 0.4;
    context.fillRect(x - wide / 2, top, wide, height);
    context.strokeStyle = theme.pruned;
    context.lineWidth = 1;
    context.strokeRect(x - wide / 2, top, wide, height);
    context.globalAlpha = 1;
    write(context, theme, `−${count}`, x, top - 7, { align: "center", size: 10.5, colour: theme.text });
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Metric} metric
   * @param {RunName} run
   * @param {Theme} theme
   */
  drawBand(context, metric, run, theme) {
    const { low, high } = metric[run];
    context.beginPath();
    high.forEach((value, layer) => context.lineTo(this.x(layer), this.y(value, metric.ticks)));
    for (let layer = low.length - 1; layer >= 0; layer--) {
      context.lineTo(this.x(layer), this.y(low[layer], metric.ticks));
    }
    context.globalAlpha = 0.16;
    context.fillStyle = theme[run];
    context.fill();
    context.globalAlpha = 1;
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Metric} metric
   * @param {RunName} run
   * @param {Theme} theme
   */
  drawLine(context, metric, run, theme) {
    const { mean } = metric[run];
    context.strokeStyle = theme[run];
    context.lineWidth = 2;
    context.setLineDash(dashOf(run));
    context.beginPath();
    mean.forEach((value, layer) => context.lineTo(this.x(layer), this.y(value, metric.ticks)));
    context.stroke();
    context.setLineDash([]);
    mean.forEach((value, layer) => {
      this.drawMarker(context, run, this.x(layer), this.y(value, metric.ticks), 3, theme);
    });
  }

  /**
   * Circles for the unpruned run, squares for the pruned one.
   * @param {CanvasRenderingContext2D} context
   * @param {RunName} run
   * @param {number} x
   * @param {number} y
   * @param {number} radius
   * @param {Theme} theme
   */
  drawMarker(context, run, x, y, radius, theme) {
    context.beginPath();
    if (run === "full") context.arc(x, y, radius, 0, 2 * Math.PI);
    else context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
    context.fillStyle = run === "full" ? theme.full : theme.background;
    context.fill();
    context.strokeStyle = theme[run];
    context.lineWidth = 1.6;
    context.stroke();
  }

  /**
   * Which line is which run, and what the bars are.
   * @param {CanvasRenderingContext2D} context
   * @param {Theme} theme
   */
  drawKey(context, theme) {
    let x = CHART.left;
    for (const run of RUNS) {
      context.strokeStyle = theme[run];
      context.lineWidth = 2;
      context.setLineDash(dashOf(run));
      context.beginPath();
      context.moveTo(x, 9);
      context.lineTo(x + 26, 9);
      context.stroke();
      context.setLineDash([]);
      this.drawMarker(context, run, x + 13, 9, 3, theme);
      write(context, theme, this.data.runs[run].title, x + 32, 9, { colour: theme.text });
      x += 32 + context.measureText(this.data.runs[run].title).width + 18;
    }
    write(context, theme, "bars: patches removed after the layer", x, 9);
  }
}
