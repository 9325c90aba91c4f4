// @ts-check
// The stage's entry: what Streamlit calls, and which view belongs to which element of the page.

import { find } from "./dom.js";
import { StageView } from "./view.js";

/** @import { Component } from "./types.js" */

/** @type {WeakMap<HTMLElement, StageView>} */
const views = new WeakMap();

/**
 * Called by Streamlit when the stage appears, and again with every new payload or theme. It may clean up after an
 * earlier call when a later one has been made: only the last call's clean-up ends the stage.
 * @param {Component} component
 */
export default function ({ parentElement, data, setStateValue }) {
  const root = find(parentElement, ".stage", HTMLElement);
  const view = views.get(root) ?? new StageView(root);
  views.set(root, view);
  const call = (view.calls += 1);
  view.update(data, setStateValue);
  return () => {
    if (call !== view.calls) return;
    view.destroy();
    views.delete(root);
  };
}
