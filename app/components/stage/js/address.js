// @ts-check
// What the page's address says of the stage, so that a link opens the same view.

import { RUNS } from "./data.js";

/** @import { RunName, State } from "./types.js" */

const NAMES = ["layer", "patch", "graph"];

/** @param {string} name */
const named = (name) => new URLSearchParams(location.search).get(name);

/** Whether the address says anything of the stage. */
export const isInAddress = () => NAMES.some((name) => named(name) !== null);

/**
 * A whole number that the address gives by this name, or null.
 * @param {string} name
 */
export function numberFromAddress(name) {
  const text = named(name);
  return text !== null && /^\d{1,6}$/.test(text) ? Number(text) : null;
}

/**
 * Which run the address asks the graph to show.
 * @returns {RunName}
 */
export const runFromAddress = () => RUNS.find((run) => run === named("graph")) ?? "pruned";

/**
 * Write what is chosen into the address; what is not chosen, or goes without saying, is left out.
 * @param {State} state
 */
export function toAddress({ layer, patch, run }) {
  const url = new URL(location.href), values = [layer, patch, run === "pruned" ? null : run];
  NAMES.forEach((name, at) => {
    if (values[at] === null) url.searchParams.delete(name);
    else url.searchParams.set(name, String(values[at]));
  });
  if (url.href !== location.href) history.replaceState(history.state, "", url);
}
