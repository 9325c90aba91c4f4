// @ts-check
// What moves by itself: the graph that glides to a layer, and playing through all of them.

/** @import { StageView } from "./view.js" */

const STEP_MS = 800;
const GLIDE_MS = 180;

export class Motion {
  /** @type {ReturnType<typeof setInterval> | null} set while it plays */
  timer = null;
  /** The frame that draws the glide's next step. */
  frame = 0;

  /** @param {StageView} view */
  constructor(view) {
    this.view = view;
  }

  /** Move the graph's wide gap to the new layer; at once for those who asked for less motion. */
  glide() {
    cancelAnimationFrame(this.frame);
    const { state } = this.view, from = state.focus, to = state.layer, began = performance.now();
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const step = (/** @type {number} */ now) => {
      const share = still ? 1 : Math.min(1, Math.max(0, now - began) / GLIDE_MS);
      state.focus = share === 1 ? to : from + (to - from) * (1 - (1 - share) ** 3);
      this.view.draw(this.view.relay);
      if (share < 1) this.frame = requestAnimationFrame(step);
    };
    step(began);
  }

  /** Play from here, or from the first layer when this is the last; or pause. */
  toggle() {
    if (this.timer !== null) return this.pause();
    if (this.view.isLast) this.view.goTo(0);
    this.timer = setInterval(() => {
      if (this.view.isLast) this.pause();
      else this.view.goTo(this.view.state.layer + 1);
    }, STEP_MS);
    this.view.showPlaying(true);
  }

  pause() {
    if (this.timer !== null) clearInterval(this.timer);
    this.timer = null;
    this.view.showPlaying(false);
  }

  /** Nothing moves any more. */
  stop() {
    this.pause();
    cancelAnimationFrame(this.frame);
  }
}
