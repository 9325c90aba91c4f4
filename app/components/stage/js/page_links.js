// @ts-check
// The page around the stage: marks in other panels for what is chosen here, and clicks there that choose here.
// The marks are rules of one style sheet, since the panels are drawn anew by the server whenever it likes.

import { patchAt, patchBox } from "./geometry.js";

/** @import { Picture, State } from "./types.js" */

export class PageLinks {
  constructor() {
    this.sheet = document.createElement("style");
    document.head.append(this.sheet);
  }

  /**
   * The layer's row in the table, and the patch's place on pictures of the whole original.
   * @param {State} state
   * @param {Picture} [picture]
   */
  mark({ layer, patch }, picture) {
    const rules = [`.lens-why tr[data-layer="${layer}"] { --here: "▸ "; --here-line: currentColor; }`];
    if (patch !== null && picture) rules.push(`html .lens-heat .mark { display: block; ${placeRule(patch, picture)} }`);
    const text = rules.join("\n");
    if (text !== this.sheet.textContent) this.sheet.textContent = text;
  }

  /**
   * What a click somewhere on the page asks for, if anything; a click beside the grid asks for no patch.
   * @param {MouseEvent} event
   * @param {Picture} [picture]
   * @returns {{ patch?: number | null, layer?: number }}
   */
  asked(event, picture) {
    if (!(event.target instanceof Element)) return {};
    const button = event.target.closest("[data-patch], button[data-layer]");
    if (button instanceof HTMLElement) {
      const { patch, layer } = button.dataset;
      return patch ? { patch: Number(patch) } : { layer: Number(layer) };
    }
    const heat = event.target.closest(".lens-heat");
    return heat && picture ? { patch: patchOn(picture, heat.getBoundingClientRect(), event) } : {};
  }

  remove() {
    this.sheet.remove();
  }
}

/**
 * Where a patch lies on a picture of any size, for a style sheet.
 * @param {number} patch
 * @param {Picture} picture
 */
function placeRule(patch, { width, height, grid }) {
  const box = patchBox(grid, patch), percent = (/** @type {number} */ share) => `${100 * share}%`;
  return `left: ${percent(box.left / width)}; top: ${percent(box.top / height)}; `
    + `width: ${percent(box.width / width)}; height: ${percent(box.height / height)}`;
}

/**
 * The patch at a point of the window, on a picture that is shown in a rectangle of it.
 * @param {Picture} picture
 * @param {DOMRect} shown
 * @param {{ clientX: number, clientY: number }} point
 */
export function patchOn({ width, height, grid }, shown, { clientX, clientY }) {
  const x = ((clientX - shown.left) / shown.width) * width;
  return patchAt(grid, x, ((clientY - shown.top) / shown.height) * height);
}
