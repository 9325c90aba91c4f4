// The stage: one state (layer, run, metric, patch), three panels that draw it, and the ways to change it.

const STEP_MS = 800;
const GLIDE_MS = 180;
const ADDRESS_MS = 300;
const WIDE_PICTURE = 1.7;

/** A whole number that the page's address gives by this name, or null. */
function fromAddress(name) {
  const text = new URLSearchParams(location.search).get(name);
  return /^\d{1,6}$/.test(text ?? "") ? Number(text) : null;
}

/** Which run the page's address asks the graph to show. */
function runFromAddress() {
  const named = new URLSearchParams(location.search).get("graph");
  return RUNS.includes(named) ? named : "pruned";
}

/** Keep these in the page's address, so that a link opens the same view; null leaves the name out. */
function toAddress(values) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(values)) {
    if (value === null) url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  if (url.href !== location.href) history.replaceState(history.state, "", url);
}

/** Alt, Ctrl and Command belong to the browser: Alt and the left arrow go back a page. */
const withModifier = (event) => event.altKey || event.ctrlKey || event.metaKey;

/** The first layer at which every patch that goes is gone, so that the mask is whole; 0 where none goes. */
const firstView = (data) => data.runs.pruned.removed.findLastIndex((count) => count > 0) + 1;

const between = (least, value, most) => Math.round(Math.max(least, Math.min(most, value)));

/** A picture that is ready to be drawn. */
async function decoded(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  return picture;
}

class Stage {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.state = { layer: fromAddress("layer"), focus: 0, run: runFromAddress(), metric: 0, byLayer: false, hover: null, patch: fromAddress("patch") };
    this.whole = new MaskPanel(this.find(".mask canvas"));
    this.panes = new PanesPanel(this.find(".mask canvas"));
    this.mask = this.whole;
    this.relay = new RelayPanel(this.find(".relay canvas"), this.mask);
    this.chart = new ChartPanel(this.find(".chart canvas"));
    this.page = new PageLinks();
    this.inAddress = ["layer", "patch", "graph"].some((name) => new URLSearchParams(location.search).has(name));
    this.keeping = setInterval(() => this.keepAddress(), ADDRESS_MS);
    this.listeners = new AbortController();
    this.observer = new ResizeObserver(() => this.resize());
    this.listen();
  }

  /** A new payload (the bytes of its JSON), a new theme, or both. */
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
    this.mask.sprites = null;
    this.relaid();
  }

  async load(data) {
    this.loading = data;
    const pictures = await Promise.all((data.pictures ?? [data.picture.url]).map(decoded));
    if (this.loading !== data) return;
    this.stop();
    cancelAnimationFrame(this.frame);
    this.data = data;
    this.mask = this.relay.mask = data.panes ? this.panes : this.whole;
    this.mask.load(data, data.panes ? pictures : pictures[0]);
    for (const panel of [this.relay, this.chart]) panel.load(data);
    const layer = this.state.layer ?? firstView(data);
    const patches = data.runs.pruned.died.length;
    const patch = this.state.patch !== null && this.state.patch < patches ? this.state.patch : null;
    Object.assign(this.state, { layer: Math.min(layer, data.layers - 1), hover: null, patch });
    this.state.focus = this.state.layer;
    this.fillIn();
    this.observer.observe(this.root);
  }

  /** The parts of the page that change with the payload only. */
  fillIn() {
    const { data } = this, slider = this.find("input[type=range]");
    slider.max = data.layers - 1;
    this.find(".pruned-title").textContent = data.runs.pruned.title;
    for (const run of RUNS) this.find(`.switch input[value=${run}]`).nextElementSibling.textContent = data.runs[run].title;
    for (const input of this.root.querySelectorAll(".switch input")) {
      input.name = "stage-run";
      input.checked = input.value === this.state.run;
    }
    const select = this.find("select");
    select.replaceChildren(...data.curves.map((curve, at) => new Option(curve.label, at, false, at === this.state.metric)));
    const [left, top, right, bottom] = (data.picture ?? data.panes[0]).canvas;
    const wide = data.panes !== undefined || right - left > WIDE_PICTURE * (bottom - top);
    this.find(".panels").classList.toggle("wide-picture", wide);
    this.find(".mask .how").textContent = data.howToRead.mask;
    this.find(".relay .how").textContent = relayHow(data);
    showClaim(this.find(".claim"), data.claim);
    const stops = data.runs.pruned.removed.map((count, layer) => (count ? this.stopMark(layer, count) : null));
    this.find(".stops").replaceChildren(...stops.filter(Boolean));
  }

  stopMark(layer, count) {
    const mark = element("span", "", `−${count}`);
    mark.style.left = `${(100 * layer) / Math.max(1, this.data.layers - 1)}%`;
    return mark;
  }

  resize() {
    const width = Math.round(this.root.clientWidth);
    if (this.data && width > 0 && (width !== this.width || window.devicePixelRatio !== this.density)) this.relaid();
  }

  relaid() {
    if (!this.data || this.root.clientWidth === 0) return;
    this.width = Math.round(this.root.clientWidth);
    this.density = window.devicePixelRatio;
    this.mask.resize(this.find(".mask").clientWidth);
    const wide = this.find(".relay").clientWidth;
    this.relay.resize(wide, between(350, 0.46 * wide, 420));
    this.chart.resize(wide, between(230, 0.3 * wide, 290));
    this.render();
  }

  render() {
    if (!this.data) return;
    this.draw(this.mask, this.relay, this.chart);
    this.renderWords();
  }

  draw(...panels) {
    const began = performance.now();
    for (const panel of panels) panel.draw(this.state, this.theme);
    this.root.dataset.drawMs = (performance.now() - began).toFixed(2);
  }

  renderWords() {
    const { data, state } = this;
    this.find("output").textContent = state.layer;
    this.find("input[type=range]").value = state.layer;
    this.root.dataset.layer = state.layer;
    this.find(".status").textContent = statusText(data, state.layer);
    this.find(".shown").textContent = shownText(data, state);
    this.find(".values").textContent = valuesText(data, state);
    this.find(".chart .how").textContent = `${data.curves[state.metric].reads} ${data.howToRead.concentration}`;
    this.find(".facts").textContent = data.runs[state.run].facts;
    this.find(".mask canvas").setAttribute("aria-label", `The picture. ${statusText(data, state.layer)} Arrow keys move to a patch, Enter chooses it.`);
    this.find(".relay canvas").setAttribute("aria-label", `Relay graph. ${shownText(data, state)}`);
    this.find(".chart canvas").setAttribute("aria-label", valuesText(data, state));
    this.page.mark(state, data.picture);
    showLegend(this.find(".legend"), data, state);
    showDetails(this.find(".details"), data, state, this.mask, this.theme);
  }

  change(changes) {
    Object.assign(this.state, changes);
    this.render();
  }

  goTo(layer) {
    const next = Math.max(0, Math.min(this.data.layers - 1, layer));
    if (next === this.state.layer) return;
    this.state.layer = next;
    this.draw(this.mask, this.chart);
    this.renderWords();
    this.glide();
    this.inAddress = true;
  }

  /** Move the graph's wide gap to the new layer; at once for those who asked for less motion. */
  glide() {
    cancelAnimationFrame(this.frame);
    const from = this.state.focus, to = this.state.layer, began = performance.now();
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const step = (now) => {
      const share = still ? 1 : Math.min(1, Math.max(0, now - began) / GLIDE_MS);
      this.state.focus = share === 1 ? to : from + (to - from) * (1 - (1 - share) ** 3);
      this.draw(this.relay);
      if (share < 1) this.frame = requestAnimationFrame(step);
    };
    step(began);
  }

  toggle() {
    if (this.timer) return this.stop();
    if (this.state.layer === this.data.layers - 1) this.goTo(0);
    this.timer = setInterval(() => {
      if (this.state.layer === this.data.layers - 1) this.stop();
      else this.goTo(this.state.layer + 1);
    }, STEP_MS);
    this.showPlaying(true);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.showPlaying(false);
  }

  showPlaying(playing) {
    const button = this.find(".play");
    button.classList.toggle("playing", playing);
    button.setAttribute("aria-label", playing ? "Pause" : "Play through the layers");
    this.find(".status").setAttribute("aria-live", playing ? "off" : "polite");
  }

  /** Keep a patch, or let it go when it is chosen again; the page on the server is told. */
  choose(patch, layer = this.state.layer) {
    if (layer !== this.state.layer) this.goTo(layer);
    this.select(patch === this.state.patch ? null : patch);
  }

  select(patch) {
    this.change({ patch, hover: null });
    this.inAddress = true;
    this.report("selection", { layer: this.state.layer, patch, run: this.state.run });
  }

  /**
   * Looked at again and again: browsers allow so many changes of the address only, and whenever the server writes its
   * part, Streamlit puts back the rest as it was when the page was opened.
   */
  keepAddress() {
    if (!this.data || !this.inAddress) return;
    const { layer, patch, run } = this.state;
    toAddress({ layer, patch, graph: run === "pruned" ? null : run });
  }

  /** A click in another panel on a patch or a layer. */
  onPageClick(event) {
    const asked = this.page.asked(event, this.data.picture);
    if (asked?.layer !== undefined) { this.stop(); this.goTo(asked.layer); }
    else if (asked && asked.patch !== null) this.select(asked.patch);
  }

  point(patch) {
    if (patch !== this.state.hover) this.change({ hover: patch });
  }

  listen() {
    const on = (target, event, act) => target.addEventListener(event, (e) => this.data && act(e), { signal: this.listeners.signal });
    on(this.find(".play"), "click", () => this.toggle());
    on(this.find("input[type=range]"), "input", (e) => { this.stop(); this.goTo(Number(e.target.value)); });
    on(this.find(".by-layer"), "change", (e) => this.change({ byLayer: e.target.checked }));
    on(this.find("select"), "change", (e) => this.change({ metric: Number(e.target.value) }));
    for (const input of this.root.querySelectorAll(".switch input")) on(input, "change", () => { this.inAddress = true; this.change({ run: input.value }); });
    on(document, "click", (e) => this.onPageClick(e));
    on(this.root, "keydown", (e) => this.onKey(e));
    this.listenToMask(on);
    this.listenToRelay(on);
    this.listenToChart(on);
  }

  listenToMask(on) {
    const { canvas } = this.whole;
    on(canvas, "pointermove", (e) => this.point(this.mask.patchAt(e.offsetX, e.offsetY)));
    on(canvas, "pointerleave", () => this.point(null));
    on(canvas, "click", (e) => {
      const patch = this.mask.patchAt(e.offsetX, e.offsetY);
      if (patch !== null) this.choose(patch);
    });
    on(canvas, "keydown", (e) => this.onPatchKey(e));
  }

  listenToRelay(on) {
    const { canvas } = this.relay;
    on(canvas, "pointermove", (e) => {
      const thumb = this.relay.thumbAt(e.offsetX, e.offsetY);
      canvas.style.cursor = thumb || this.relay.layerAt(e.offsetX) !== this.state.layer ? "pointer" : "default";
      this.point(thumb?.patch ?? null);
    });
    on(canvas, "pointerleave", () => this.point(null));
    on(canvas, "click", (e) => {
      const thumb = this.relay.thumbAt(e.offsetX, e.offsetY), layer = this.relay.layerAt(e.offsetX);
      if (thumb) this.choose(thumb.patch, thumb.layer);
      else if (layer !== null) this.goTo(layer);
    });
  }

  listenToChart(on) {
    const { canvas } = this.chart;
    const follow = (e) => { this.stop(); this.goTo(this.chart.layerAt(e.offsetX)); };
    on(canvas, "pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); follow(e); });
    on(canvas, "pointermove", (e) => { if (e.buttons) follow(e); });
  }

  onKey(event) {
    if (event.defaultPrevented || withModifier(event) || event.target.matches("input, select, button")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { this.stop(); this.goTo(this.state.layer + step); }
    else if (event.key === " ") this.toggle();
    else if (event.key === "Escape") this.select(null);
    else return;
    event.preventDefault();
  }

  /** On the picture the arrow keys move from patch to patch. */
  onPatchKey(event) {
    if (withModifier(event)) return;
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const at = this.state.hover ?? this.state.patch ?? this.mask.middle();
    if (move) this.point(this.mask.neighbour(at, move));
    else if (event.key === "Enter" && this.state.hover !== null) this.choose(this.state.hover);
    else return;
    event.preventDefault();
  }

  destroy() {
    this.packed = this.loading = null; // a picture that is still being decoded finds nothing to do
    this.stop();
    cancelAnimationFrame(this.frame);
    clearInterval(this.keeping);
    this.listeners.abort();
    this.observer.disconnect();
    this.page.remove();
    stages.delete(this.root);
  }
}

const stages = new WeakMap();

/**
 * Called by Streamlit when the stage appears, and again with every new payload or theme. It may clean up after an
 * earlier call when a later one has been made: only the last call's clean-up ends the stage.
 */
export default function (component) {
  const root = component.parentElement.querySelector(".stage");
  if (!stages.has(root)) stages.set(root, new Stage(root));
  const stage = stages.get(root), call = (stage.calls = (stage.calls ?? 0) + 1);
  stage.update(component.data, component.setStateValue);
  return () => { if (call === stage.calls) stage.destroy(); };
}
