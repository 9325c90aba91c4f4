// @ts-check
// The stage's view: one state (layer, run, metric, patch), three panels that draw it, and its words.

import { isInAddress, numberFromAddress, runFromAddress, toAddress } from "./address.js";
import { readTheme } from "./canvas.js";
import { ChartPanel } from "./chart.js";
import { listenTo } from "./controls.js";
import { firstView, lastRead, RUNS, unpack } from "./data.js";
import { element, find } from "./dom.js";
import { clamp } from "./geometry.js";
import { MaskPanel } from "./mask.js";
import { Motion } from "./motion.js";
import { PageLinks } from "./page_links.js";
import { PanesPanel } from "./panes.js";
import { RelayPanel } from "./relay.js";
import { relayHow, showClaim, showDetails, showLegend, shownText, statusText, valuesText } from "./words.js";

/** @import { Component, Data, State, Theme } from "./types.js" */

const ADDRESS_MS = 300;
/** Width by height of a picture that gets the stage's whole width. */
const WIDE_PICTURE = 1.7;

/**
 * A picture that is ready to be drawn.
 * @param {string} url
 */
async function decoded(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  return picture;
}

export class StageView {
  /** @type {Data | undefined} what is shown; none until the first picture is decoded */
  data;
  /** @type {Data | null} what is shown next, once its pictures are decoded */
  loading = null;
  /** @type {string | null} the payload as it came last */
  packed = null;
  /** @type {Theme} */
  theme;
  /** @type {Component["setStateValue"]} */
  report;
  /** Width and density for which the panels were last laid out. */
  width = 0;
  density = 1;
  /** How often Streamlit has called this component. */
  calls = 0;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    const maskCanvas = this.canvas("mask");
    this.whole = new MaskPanel(maskCanvas);
    this.panes = new PanesPanel(maskCanvas);
    /** @type {MaskPanel | PanesPanel} */
    this.mask = this.whole;
    this.relay = new RelayPanel(this.canvas("relay"), this.mask);
    this.chart = new ChartPanel(this.canvas("chart"));
    this.state = this.firstState();
    /** @type {{ layer: number | null, patch: number | null } | null} what the address asks the first payload for */
    this.asked = { layer: numberFromAddress("layer"), patch: numberFromAddress("patch") };
    this.motion = new Motion(this);
    this.page = new PageLinks();
    this.inAddress = isInAddress();
    this.keeping = setInterval(() => this.keepAddress(), ADDRESS_MS);
    this.listeners = new AbortController();
    this.observer = new ResizeObserver(() => this.resize());
    listenTo(this, this.listeners.signal);
  }

  /** @returns {State} */
  firstState() {
    const chosen = { run: runFromAddress(), metric: 0, byLayer: false, oneScale: false };
    return { layer: 0, focus: 0, ...chosen, hover: null, patch: null };
  }

  /** @param {string} panel */
  canvas(panel) {
    return find(this.root, `.${panel} canvas`, HTMLCanvasElement);
  }

  /** @param {string} selector */
  part(selector) {
    return find(this.root, selector, HTMLElement);
  }

  get slider() {
    return find(this.root, "input[type=range]", HTMLInputElement);
  }

  /**
   * A new payload (the bytes of its JSON), a new theme, or both.
   * @param {Uint8Array} bytes
   * @param {Component["setStateValue"]} report
   */
  async update(bytes, report) {
    if (!this.root.isConnected) return; // the page was left before the stage appeared: nothing has a style any more
    this.report = report;
    this.theme = readTheme(this.root);
    const packed = new TextDecoder().decode(bytes);
    if (packed !== this.packed) {
      this.packed = packed;
      await this.load(unpack(JSON.parse(packed)));
      if (packed !== this.packed) return; // another one came while the picture was being decoded
    }
    this.mask.restyle();
    this.layOut();
  }

  /** @param {Data} data */
  async load(data) {
    this.loading = data;
    const pictures = await Promise.all((data.pictures ?? [data.picture?.url ?? ""]).map(decoded));
    if (this.loading !== data) return;
    this.motion.stop();
    this.data = data;
    this.loadMask(data, pictures);
    this.relay.load(data);
    this.chart.load(data);
    this.begin(data);
    this.fillIn(data);
    this.observer.observe(this.root);
  }

  /**
   * @param {Data} data
   * @param {HTMLImageElement[]} pictures
   */
  loadMask(data, pictures) {
    if (data.picture) {
      const { prunedAt, nearestKept } = data.runs.pruned, { picture, layerColours } = data;
      this.whole.load({ picture, canvas: picture.canvas, prunedAt, nearestKept, layerColours }, pictures[0]);
    } else this.panes.load(data, pictures);
    this.mask = this.relay.mask = data.picture ? this.whole : this.panes;
  }

  /**
   * Layer and patch stay as they are, or to begin with are the address's, as far as this payload has them.
   * @param {Data} data
   */
  begin(data) {
    const { layer, patch } = this.asked ?? this.state;
    this.asked = null;
    const known = patch !== null && patch < data.runs.pruned.prunedAt.length;
    const shown = Math.min(layer ?? firstView(data), data.layers - 1);
    Object.assign(this.state, { layer: shown, focus: shown, hover: null, patch: known ? patch : null });
  }

  /**
   * The parts of the page that change with the payload only.
   * @param {Data} data
   */
  fillIn(data) {
    this.slider.max = String(data.layers - 1);
    this.part(".pruned-title").textContent = data.runs.pruned.title;
    for (const run of RUNS) {
      const input = find(this.root, `.switch input[value=${run}]`, HTMLInputElement);
      // Checked first: one that joins the group while it is checked unchecks the others.
      Object.assign(input, { checked: run === this.state.run, name: "stage-run" });
      /** @type {Element} */ (input.nextElementSibling).textContent = data.runs[run].title;
    }
    const { metric } = this.state, labels = data.curves.map((curve) => curve.label);
    const options = labels.map((label, at) => new Option(label, String(at), false, at === metric));
    this.part("select").replaceChildren(...options);
    this.part(".panels").classList.toggle("wide-picture", isWide(data));
    this.part(".mask .how").textContent = data.howToRead.mask;
    showClaim(this.part(".claim"), data.claim);
    this.part(".stops").replaceChildren(...stopMarks(data), ...unreadMark(data));
  }

  resize() {
    const width = Math.round(this.root.clientWidth);
    if (width > 0 && (width !== this.width || window.devicePixelRatio !== this.density)) this.layOut();
  }

  layOut() {
    if (!this.data || this.root.clientWidth === 0) return;
    this.width = Math.round(this.root.clientWidth);
    this.density = window.devicePixelRatio;
    this.mask.resize(this.part(".mask").clientWidth);
    const wide = this.part(".relay").clientWidth;
    this.relay.resize(wide, Math.round(clamp(350, 0.46 * wide, 420)));
    this.chart.resize(wide, Math.round(clamp(230, 0.3 * wide, 290)));
    this.render();
  }

  render() {
    if (!this.data) return;
    this.draw(this.mask, this.relay, this.chart);
    this.renderWords(this.data);
  }

  /** @param {...{ draw: (state: State, theme: Theme) => void }} panels */
  draw(...panels) {
    const began = performance.now();
    for (const panel of panels) panel.draw(this.state, this.theme);
    this.root.dataset.drawMs = (performance.now() - began).toFixed(2);
  }

  /** @param {Data} data */
  renderWords(data) {
    const { state } = this, status = statusText(data, state.layer), shown = shownText(data, state);
    this.part("output").textContent = this.slider.value = this.root.dataset.layer = String(state.layer);
    this.part(".status").textContent = status;
    this.part(".shown").textContent = shown;
    this.part(".values").textContent = valuesText(data, state);
    this.part(".relay .how").textContent = relayHow(data, state);
    this.part(".chart .how").textContent = `${data.curves[state.metric].reads} ${data.howToRead.concentration}`;
    this.part(".facts").textContent = data.runs[state.run].facts;
    const keys = "Arrow keys move to a patch, Enter chooses it.";
    this.canvas("mask").setAttribute("aria-label", `The picture. ${status} ${keys}`);
    this.canvas("relay").setAttribute("aria-label", `Relay graph. ${shown}`);
    this.canvas("chart").setAttribute("aria-label", valuesText(data, state));
    this.page.mark(state, data.picture);
    showLegend(this.part(".legend"), data, state);
    showDetails(this.part(".details"), data, state, this.mask, this.theme);
  }

  /** @param {Partial<State>} changes */
  change(changes) {
    Object.assign(this.state, changes);
    this.render();
  }

  /** @param {number} layer */
  goTo(layer) {
    if (!this.data) return;
    const next = clamp(0, layer, this.data.layers - 1);
    if (next === this.state.layer) return;
    this.state.layer = next;
    this.draw(this.mask, this.chart);
    this.renderWords(this.data);
    this.motion.glide();
    this.inAddress = true;
  }

  /** Whether there is nothing further to play: what is behind the layer that is read is looked at by choice only. */
  get isLast() {
    return this.data === undefined || this.state.layer >= lastRead(this.data);
  }

  /** @param {boolean} playing */
  showPlaying(playing) {
    const button = this.part(".play");
    button.classList.toggle("playing", playing);
    button.setAttribute("aria-label", playing ? "Pause" : "Play through the layers");
    this.part(".status").setAttribute("aria-live", playing ? "off" : "polite");
  }

  /**
   * Choose a patch, or let it go when it is chosen again; the page on the server is told.
   * @param {number} patch
   * @param {number} layer
   */
  toggle(patch, layer = this.state.layer) {
    this.goTo(layer);
    this.select(patch === this.state.patch ? null : patch);
  }

  /** @param {number | null} patch */
  select(patch) {
    this.change({ patch, hover: null });
    this.inAddress = true;
    this.report("selection", { layer: this.state.layer, patch, run: this.state.run });
  }

  /** @param {number | null} patch */
  point(patch) {
    if (patch !== this.state.hover) this.change({ hover: patch });
  }

  /**
   * Looked at again and again: browsers allow so many changes of the address only, and whenever the server writes its
   * part, Streamlit puts back the rest as it was when the page was opened.
   */
  keepAddress() {
    if (this.data && this.inAddress) toAddress(this.state);
  }

  destroy() {
    this.packed = this.loading = null; // a picture that is still being decoded finds nothing to do
    this.motion.stop();
    clearInterval(this.keeping);
    this.listeners.abort();
    this.observer.disconnect();
    this.page.remove();
  }
}

/**
 * Whether the picture gets the stage's whole width.
 * @param {Data} data
 */
function isWide(data) {
  if (!data.picture) return true;
  const [left, top, right, bottom] = data.picture.canvas;
  return right - left > WIDE_PICTURE * (bottom - top);
}

/**
 * How many patches are pruned after which layers, along the slider.
 * @param {Data} data
 */
function stopMarks(data) {
  return data.runs.pruned.removed.flatMap((count, layer) => {
    if (count === 0) return [];
    const mark = element("span", "", `−${count}`);
    mark.style.left = `${(100 * layer) / Math.max(1, data.layers - 1)}%`;
    return [mark];
  });
}

/**
 * The end of the slider that leads to nothing the language model reads; often there is none.
 * @param {Data} data
 */
function unreadMark(data) {
  const last = lastRead(data), steps = Math.max(1, data.layers - 1);
  if (last === data.layers - 1) return [];
  const mark = element("i", "unread", "not read");
  mark.title = data.notRead;
  mark.style.left = `${(100 * (last + 0.5)) / steps}%`;
  return [mark];
}
