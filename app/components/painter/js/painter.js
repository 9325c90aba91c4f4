// @ts-check
// Draws data.picture with the mask of data.kept; edits against data.base carry a + or a - besides their colour.
// A click, a lasso or the space bar is an edit: the ids of the patches to toggle, and a serial number that only grows.
// Python gets all edits that it has not confirmed (data.seen) as the trigger "toggled": of two triggers that wait for
// the same run of the page Streamlit keeps the later one.

import { patchAt, patchesInside, reachOf } from "./geometry.js";

/** @import { Box, Point } from "./geometry.js" */

/** @typedef {{ serial: number, ids: number[] }} Edit */

/**
 * What Python hands over; `size` is the picture's width and height, `lasso` "rescue" or "drop".
 * @typedef {{
 *   picture: string, size: [number, number], columns: number, boxes: Box[], base: number[], kept: number[],
 *   lasso: string, mask: string, seen: number,
 * }} Shown
 */

const CLICK_PIXELS = 5;
/** @type {WeakMap<Element, Painter>} Streamlit calls with every run of the page */
const painters = new WeakMap();

/**
 * @param {{
 *   data: Shown, parentElement: ParentNode, setTriggerValue: (name: string, value: unknown) => void,
 * }} component
 */
export default function ({ data, parentElement, setTriggerValue }) {
  const root = /** @type {HTMLElement} */ (parentElement.querySelector(".painter"));
  const painter = painters.get(root) ?? new Painter(root);
  painters.set(root, painter);
  painter.show(data, (edits) => setTriggerValue("toggled", edits));
}

class Painter {
  /** @type {Shown} */
  data;
  /** @type {(edits: Edit[]) => void} */
  send;
  /** @type {Set<number>} the patches kept now */
  kept = new Set();
  /** @type {Set<number>} those kept before any edit */
  base = new Set();
  /** @type {Point[]} the lasso that is being drawn */
  path = [];
  /** @type {number | null} the patch that the keyboard is at */
  cursor = null;
  /** @type {Edit[]} not yet confirmed by Python */
  waiting = [];
  serial = 0;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.canvas = /** @type {HTMLCanvasElement} */ (root.querySelector("canvas"));
    this.says = /** @type {HTMLElement} */ (root.querySelector(".says"));
    this.image = new Image();
    this.image.onload = () => this.draw();
    this.canvas.onpointerdown = (event) => this.begin(event);
    this.canvas.onpointermove = (event) => this.extend(event);
    this.canvas.onpointerup = (event) => this.end(event);
    this.canvas.onpointercancel = () => this.forget();
    this.canvas.onkeydown = (event) => this.key(event);
  }

  /**
   * @param {Shown} data
   * @param {(edits: Edit[]) => void} send
   */
  show(data, send) {
    this.waiting = this.waiting.filter((edit) => data.mask === this.data.mask && edit.serial > data.seen);
    this.serial = Math.max(this.serial, data.seen);
    this.data = data;
    this.send = send;
    this.kept = new Set(data.kept);
    this.waiting.forEach(({ ids }) => this.flip(ids));
    this.base = new Set(data.base);
    const density = Math.min(2, window.devicePixelRatio || 1);
    [this.canvas.width, this.canvas.height] = data.size.map((side) => Math.round(side * density));
    this.count();
    if (this.image.src === data.picture) this.draw();
    else this.image.src = data.picture;
  }

  /**
   * Where the pointer is, in pixels of the original picture.
   * @param {PointerEvent} event
   * @returns {Point}
   */
  point(event) {
    const frame = this.canvas.getBoundingClientRect(), [width, height] = this.data.size;
    const across = (event.clientX - frame.left) / frame.width, down = (event.clientY - frame.top) / frame.height;
    return [across * width, down * height];
  }

  /** @param {PointerEvent} event */
  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.path = [this.point(event)];
  }

  /** @param {PointerEvent} event */
  extend(event) {
    if (!this.path.length) return;
    this.path.push(this.point(event));
    this.draw();
  }

  /** @param {PointerEvent} event */
  end(event) {
    const path = [...this.path, this.point(event)];
    this.forget();
    if (reachOf(path) < CLICK_PIXELS) this.click(path[0]);
    else this.toggle(this.lassoed(path));
  }

  /** @param {Point} point */
  click(point) {
    const patch = patchAt(this.data.boxes, point);
    if (patch === null) return;
    this.cursor = patch;
    this.toggle([patch]);
  }

  forget() {
    this.path = [];
    this.draw();
  }

  /**
   * The patches inside a path that the lasso's task would change.
   * @param {Point[]} path
   */
  lassoed(path) {
    const rescues = this.data.lasso === "rescue";
    return patchesInside(this.data.boxes, path).filter((id) => this.kept.has(id) !== rescues);
  }

  /** @param {number[]} ids */
  toggle(ids) {
    if (!ids.length) return;
    this.serial = Math.max(this.serial + 1, Date.now()); // a painter of the page's next visit goes on counting
    this.waiting.push({ serial: this.serial, ids });
    this.flip(ids);
    this.count();
    this.draw();
    this.send([...this.waiting]);
  }

  /** @param {number[]} ids */
  flip(ids) {
    ids.forEach((id) => (this.kept.has(id) ? this.kept.delete(id) : this.kept.add(id)));
  }

  count() {
    this.canvas.setAttribute("aria-label", `Mask: ${this.kept.size} of ${this.data.boxes.length} patches kept`);
    this.canvas.dataset.kept = String(this.kept.size);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { columns } = this.data;
    const step = new Map([["ArrowLeft", -1], ["ArrowRight", 1], ["ArrowUp", -columns], ["ArrowDown", columns]]);
    const move = step.get(event.key);
    if (move !== undefined) this.move(move);
    else if (event.key === " " && this.cursor !== null) this.toggle([this.cursor]);
    else return;
    event.preventDefault();
    if (this.cursor !== null) this.tell(this.cursor);
    this.draw();
  }

  /** @param {number} step to another patch, if there is one; the first step goes to the first patch */
  move(step) {
    const next = this.cursor === null ? 0 : this.cursor + step;
    if (next >= 0 && next < this.data.boxes.length) this.cursor = next;
  }

  /** @param {number} patch */
  tell(patch) {
    const row = Math.floor(patch / this.data.columns), column = patch % this.data.columns;
    this.says.textContent = `Patch ${patch}, row ${row}, column ${column}: ${this.kept.has(patch) ? "kept" : "cut"}`;
  }

  draw() {
    if (!this.data || !this.image.complete || !this.image.naturalWidth) return;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const scale = this.canvas.width / this.data.size[0];
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.drawImage(this.image, 0, 0, ...this.data.size);
    this.data.boxes.forEach((box, id) => this.drawPatch(context, box, id));
    this.drawPath(context);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Box} box
   * @param {number} id
   */
  drawPatch(context, [left, top, right, bottom], id) {
    const width = right - left, height = bottom - top, kept = this.kept.has(id);
    if (!kept) {
      context.fillStyle = "rgba(255, 255, 255, 0.72)";
      context.fillRect(left, top, width, height);
    }
    if (kept !== this.base.has(id)) this.drawEdit(context, [left, top, width, height], kept);
    if (id !== this.cursor) return;
    context.setLineDash([3, 2]);
    context.strokeStyle = "#000";
    context.lineWidth = 1.5;
    context.strokeRect(left + 1, top + 1, width - 2, height - 2);
    context.setLineDash([]);
  }

  /**
   * A frame with a plus for a rescued patch, a minus for a dropped one.
   * @param {CanvasRenderingContext2D} context
   * @param {[number, number, number, number]} sides left, top, width, height
   * @param {boolean} rescued
   */
  drawEdit(context, [left, top, width, height], rescued) {
    context.strokeStyle = rescued ? "#0b6b3a" : "#a3123a";
    context.lineWidth = 2;
    context.strokeRect(left + 1, top + 1, width - 2, height - 2);
    const x = left + width / 2, y = top + height / 2, half = Math.min(width, height) * 0.28;
    context.beginPath();
    context.moveTo(x - half, y);
    context.lineTo(x + half, y);
    if (rescued) {
      context.moveTo(x, y - half);
      context.lineTo(x, y + half);
    }
    context.stroke();
  }

  /** @param {CanvasRenderingContext2D} context */
  drawPath(context) {
    if (this.path.length < 2) return;
    context.beginPath();
    this.path.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.strokeStyle = "#111";
    context.lineWidth = 1.5;
    context.setLineDash([5, 3]);
    context.stroke();
    context.setLineDash([]);
  }
}
