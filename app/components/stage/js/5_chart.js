// Concentration through the layers: two runs with their bands, and the patches that went as bars on the same axis.

const CHART = { left: 40, right: 12, top: 26, bottom: 32, bars: 40, barGap: 22 };

class ChartPanel {
  constructor(canvas) {
    this.canvas = canvas;
    this.still = document.createElement("canvas");
  }

  load(data) {
    this.data = data;
    this.stillKey = null;
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
    this.stillKey = null;
  }

  x(layer) {
    return CHART.left + ((layer + 0.5) * (this.width - CHART.left - CHART.right)) / this.data.layers;
  }

  /** NaN, which canvases pass over, for a value that is none: CLS attended to no patch at all. */
  y(value, ticks) {
    if (value === null) return NaN;
    const share = (value - ticks[0]) / (ticks.at(-1) - ticks[0]);
    return mix(this.height - CHART.bottom - CHART.bars - CHART.barGap, CHART.top, share);
  }

  layerAt(x) {
    const share = (x - CHART.left) / (this.width - CHART.left - CHART.right);
    return Math.max(0, Math.min(this.data.layers - 1, Math.floor(share * this.data.layers)));
  }

  /** All but the cursor changes only with metric, size and theme: drawn once, then copied. */
  draw(state, theme) {
    const metric = this.data.curves[state.metric];
    const key = [state.metric, this.width, this.height, theme.background, window.devicePixelRatio].join();
    if (key !== this.stillKey) {
      this.drawStill(metric, theme);
      this.stillKey = key;
    }
    const { context } = fit(this.canvas, this.width, this.height);
    const step = (this.width - CHART.left - CHART.right) / this.data.layers;
    context.globalAlpha = 0.5;
    context.fillStyle = theme.line;
    context.fillRect(this.x(state.layer) - step / 2, CHART.top - 4, step, this.height - CHART.top - CHART.bottom + 22);
    context.globalAlpha = 1;
    context.drawImage(this.still, 0, 0, this.width, this.height);
    for (const run of RUNS) this.drawMarker(context, run, this.x(state.layer), this.y(metric[run].mean[state.layer], metric.ticks), 5.5, theme);
  }

  drawStill(metric, theme) {
    const { context } = fit(this.still, this.width, this.height);
    this.drawBars(context, theme);
    this.drawAxes(context, metric, theme);
    for (const run of RUNS) this.drawBand(context, metric, run, theme);
    for (const run of RUNS) this.drawLine(context, metric, run, theme);
    this.drawKey(context, theme);
  }

  drawAxes(context, metric, theme) {
    context.strokeStyle = theme.line;
    context.lineWidth = 1;
    for (const tick of metric.ticks) {
      const y = Math.round(this.y(tick, metric.ticks)) + 0.5;
      context.beginPath();
      context.moveTo(CHART.left, y);
      context.lineTo(this.width - CHART.right, y);
      context.stroke();
      write(context, theme, tick, CHART.left - 6, y, { align: "right" });
    }
    const every = Math.ceil((20 * this.data.layers) / (this.width - CHART.left - CHART.right));
    for (let layer = 0; layer < this.data.layers; layer += every) {
      write(context, theme, layer, this.x(layer), this.height - CHART.bottom + 11, { align: "center" });
    }
    this.drawFeatureLayer(context, theme);
  }

  drawFeatureLayer(context, theme) {
    write(context, theme, "layer", CHART.left - 6, this.height - CHART.bottom + 11, { align: "right" });
    const text = "the language model reads its output ▲", x = this.x(this.data.featureLayer) + 5;
    write(context, theme, text, x, this.height - 7, { align: "right", size: 10.5 });
  }

  /** Bars stand in a strip of their own below the curves: same layers, another scale. */
  drawBars(context, theme) {
    const run = this.data.runs.pruned, most = Math.max(1, ...run.removed);
    const step = (this.width - CHART.left - CHART.right) / this.data.layers, wide = Math.min(30, step * 0.6);
    const floor = this.height - CHART.bottom;
    run.removed.forEach((count, layer) => {
      if (count === 0) return;
      const height = Math.max(1.5, (CHART.bars * count) / most), x = this.x(layer) - wide / 2;
      context.fillStyle = run.forced[layer] ? hatch(context, theme.pruned, 5, 1.2) : theme.pruned;
      context.globalAlpha = run.forced[layer] ? 0.9 : 0.4;
      context.fillRect(x, floor - height, wide, height);
      context.strokeStyle = theme.pruned;
      context.lineWidth = 1;
      context.strokeRect(x, floor - height, wide, height);
      context.globalAlpha = 1;
      const style = { align: "center", size: 10.5, colour: theme.text };
      write(context, theme, `−${count}`, this.x(layer), floor - height - 7, style);
    });
    context.strokeStyle = theme.soft;
    context.beginPath();
    context.moveTo(CHART.left, floor + 0.5);
    context.lineTo(this.width - CHART.right, floor + 0.5);
    context.stroke();
  }

  drawBand(context, metric, run, theme) {
    const { low, high } = metric[run];
    context.beginPath();
    high.forEach((value, layer) => context.lineTo(this.x(layer), this.y(value, metric.ticks)));
    for (let layer = low.length - 1; layer >= 0; layer--) context.lineTo(this.x(layer), this.y(low[layer], metric.ticks));
    context.globalAlpha = 0.16;
    context.fillStyle = theme[run];
    context.fill();
    context.globalAlpha = 1;
  }

  drawLine(context, metric, run, theme) {
    context.strokeStyle = theme[run];
    context.lineWidth = 2;
    context.setLineDash(run === "full" ? [] : [6, 3]);
    context.beginPath();
    metric[run].mean.forEach((value, layer) => context.lineTo(this.x(layer), this.y(value, metric.ticks)));
    context.stroke();
    context.setLineDash([]);
    metric[run].mean.forEach((value, layer) => this.drawMarker(context, run, this.x(layer), this.y(value, metric.ticks), 3, theme));
  }

  /** Circles for the unpruned run, squares for the pruned one. */
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

  drawKey(context, theme) {
    let x = CHART.left;
    for (const run of RUNS) {
      context.strokeStyle = theme[run];
      context.lineWidth = 2;
      context.setLineDash(run === "full" ? [] : [6, 3]);
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
