// @ts-check
// The ways to change what the stage shows: its control, its panels, the keyboard, and the page around it.

import { RUNS } from "./data.js";
import { find, inputs } from "./dom.js";

/** @import { StageView } from "./view.js" */

/** @typedef {(target: EventTarget, event: string, act: (event: any) => void) => void} On */

/** @type {Record<string, number>} */
const LAYER_KEYS = { ArrowLeft: -1, ArrowRight: 1 };
/** @type {Record<string, [number, number]>} down and right */
const PATCH_KEYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/**
 * @param {StageView} view
 * @param {AbortSignal} signal ends it
 */
export function listenTo(view, signal) {
  /** @type {On} nothing is asked for before there is something to show */
  const on = (target, event, act) => target.addEventListener(event, (e) => view.data && act(e), { signal });
  listenToControl(view, on);
  listenToMask(view, on);
  listenToRelay(view, on);
  listenToChart(view, on);
  on(document, "click", (e) => onPageClick(view, e));
  on(view.root, "keydown", (e) => onKey(view, e));
}

/**
 * A layer that a person asks for; what plays ends.
 * @param {StageView} view
 * @param {number} layer
 */
function goTo(view, layer) {
  view.motion.pause();
  view.goTo(layer);
}

/**
 * @param {StageView} view
 * @param {On} on
 */
function listenToControl(view, on) {
  const byLayer = find(view.root, ".by-layer", HTMLInputElement), metric = find(view.root, "select", HTMLSelectElement);
  const oneScale = find(view.root, ".one-scale", HTMLInputElement);
  on(view.part(".play"), "click", () => view.motion.toggle());
  on(view.slider, "input", () => goTo(view, Number(view.slider.value)));
  on(byLayer, "change", () => view.change({ byLayer: byLayer.checked }));
  on(oneScale, "change", () => view.change({ oneScale: oneScale.checked }));
  on(metric, "change", () => view.change({ metric: Number(metric.value) }));
  for (const input of inputs(view.root, ".switch input")) {
    on(input, "change", () => {
      view.inAddress = true;
      view.change({ run: RUNS.find((run) => run === input.value) });
    });
  }
}

/**
 * @param {StageView} view
 * @param {On} on
 */
function listenToMask(view, on) {
  const canvas = view.canvas("mask");
  const patchAt = (/** @type {MouseEvent} */ { offsetX, offsetY }) => view.mask.patchAt(offsetX, offsetY);
  on(canvas, "pointermove", (e) => view.point(patchAt(e)));
  on(canvas, "pointerleave", () => view.point(null));
  on(canvas, "click", (e) => {
    const patch = patchAt(e);
    if (patch !== null) view.toggle(patch);
  });
  on(canvas, "keydown", (e) => onPatchKey(view, e));
}

/**
 * @param {StageView} view
 * @param {On} on
 */
function listenToRelay(view, on) {
  const canvas = view.canvas("relay");
  on(canvas, "pointermove", ({ offsetX, offsetY }) => {
    const thumb = view.relay.thumbAt(offsetX, offsetY);
    canvas.style.cursor = thumb || view.relay.layerAt(offsetX) !== view.state.layer ? "pointer" : "default";
    view.point(thumb?.patch ?? null);
  });
  on(canvas, "pointerleave", () => view.point(null));
  on(canvas, "click", ({ offsetX, offsetY }) => {
    const thumb = view.relay.thumbAt(offsetX, offsetY), layer = view.relay.layerAt(offsetX);
    if (thumb) view.toggle(thumb.patch, thumb.layer);
    else if (layer !== null) view.goTo(layer);
  });
}

/**
 * @param {StageView} view
 * @param {On} on
 */
function listenToChart(view, on) {
  const canvas = view.canvas("chart");
  const follow = (/** @type {PointerEvent} */ event) => goTo(view, view.chart.layerAt(event.offsetX));
  on(canvas, "pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    follow(e);
  });
  on(canvas, "pointermove", (e) => {
    if (e.buttons) follow(e);
  });
}

/**
 * A click in another panel on a patch or a layer.
 * @param {StageView} view
 * @param {MouseEvent} event
 */
function onPageClick(view, event) {
  const { layer, patch = null } = view.page.asked(event, view.data?.picture);
  if (layer !== undefined) goTo(view, layer);
  else if (patch !== null) view.select(patch);
}

/**
 * Alt, Ctrl and Command belong to the browser: Alt and the left arrow go back a page.
 * @param {KeyboardEvent} event
 */
const withModifier = (event) => event.altKey || event.ctrlKey || event.metaKey;

/**
 * @param {StageView} view
 * @param {KeyboardEvent} event
 */
function onKey(view, event) {
  const inField = event.target instanceof Element && event.target.matches("input, select, button");
  if (event.defaultPrevented || withModifier(event) || inField) return;
  if (event.key in LAYER_KEYS) goTo(view, view.state.layer + LAYER_KEYS[event.key]);
  else if (event.key === " ") view.motion.toggle();
  else if (event.key === "Escape") view.select(null);
  else return;
  event.preventDefault();
}

/**
 * On the picture the arrow keys move from patch to patch.
 * @param {StageView} view
 * @param {KeyboardEvent} event
 */
function onPatchKey(view, event) {
  if (withModifier(event)) return;
  const { hover, patch } = view.state, at = hover ?? patch ?? view.mask.middle();
  if (event.key in PATCH_KEYS) view.point(view.mask.neighbour(at, PATCH_KEYS[event.key]));
  else if (event.key === "Enter" && hover !== null) view.toggle(hover);
  else return;
  event.preventDefault();
}
