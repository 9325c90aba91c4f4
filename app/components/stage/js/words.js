// @ts-check
// What the pictures show, in words: status line, read-outs, the patch pointed at.

import { penOf } from "./canvas.js";
import { attentionOf, DIRECTIONS, fateOf, headsOf, lastRead, percent, RUNS, strongestEdge } from "./data.js";
import { element } from "./dom.js";
import { RELAY } from "./relay_layout.js";

/** @import { Claim, Data, Direction, Metric, Run, State, Theme } from "./types.js" */
/** @import { MaskPanel } from "./mask.js" */

/** @typedef {Pick<MaskPanel, "copyPatch" | "nameOf" | "placeText">} NamesPatches */

const HEADS_SHOWN = 6;
const HINT = "Point at a patch, here or in the graph, to light it in both; click to keep it.";

/**
 * @param {Data} data
 * @param {number} layer
 */
export function statusText(data, layer) {
  const run = data.runs.pruned, entering = run.entering[layer], removed = run.removed[layer];
  const title = data.panes ? `${run.title}, ${data.viewName}` : run.title;
  const behind = layer > lastRead(data) ? ` (${data.notRead})` : "";
  const enter = `${title}: ${entering} of ${run.patches ?? run.prunedAt.length} patches enter layer ${layer}${behind}`;
  if (removed === 0) return `${enter}; none are pruned after it.`;
  return `${enter}; ${removed} are pruned after it (${reasonText(run, layer)}), ${entering - removed} kept.`;
}

/**
 * Why so many are pruned after a layer.
 * @param {Run} run
 * @param {number} layer
 */
function reasonText(run, layer) {
  if (!run.scored) return "all at once: this method cuts here only";
  if (run.clamped[layer]) return "clamped to the target";
  const entropy = run.requestedEntropy[layer]?.toFixed(2);
  if (run.requested[layer] === null) return `as each one's head-averaged row requests, ${entropy} on average`;
  return `the head-averaged row's entropy, ${entropy}, requests ${run.requested[layer]}`;
}

/**
 * How much of the flow the graph's edges are.
 * @param {Data} data
 * @param {State} state
 */
export function shownText(data, state) {
  const run = data.runs[state.run], [inflow, outflow] = DIRECTIONS.map((way) => run.edges[way][state.layer]);
  return `Shown at layer ${state.layer}: ${percent(inflow.shown)} of the inflow (${inflow.ids.length} edges) and `
    + `${percent(outflow.shown)} of the outflow (${outflow.ids.length}). Layers 0 to ${lastRead(data)} together: `
    + `${percent(run.shown.inflow)} and ${percent(run.shown.outflow)}. ${totalsText(run, state.layer)}`;
}

/**
 * How much flows at a layer, whatever the thickness of its edges.
 * @param {Run} run
 * @param {number} layer
 */
function totalsText({ edges, entering }, layer) {
  const [gathered, read] = DIRECTIONS.map((way) => edges[way][layer].total);
  return `Totals: CLS pays the patches ${percent(gathered)} of its attention, ${entering[layer]} patches pay CLS `
    + `${Number(read.toPrecision(2))} in sum.`;
}

/**
 * @param {Data} data
 * @param {State} state
 */
export function relayHow(data, { oneScale }) {
  const [inflow, outflow] = DIRECTIONS.map((way) => percent(strongestEdge(data, way)));
  const scale = oneScale
    ? `Thickness: attention, on one scale for all layers and both runs: full at ${inflow} (gathers from), ${outflow} `
      + "(is read by)."
    : "Thickness: attention relative to the layer's own strongest edge each way: layers that hardly flow look alike "
      + "those that flow strongly, unless “one scale” is chosen.";
  return `${data.howToRead.relay} ${scale} Up to ${percent(data.mass)} of the layer's flow, at most ${data.maxEdges} `
    + `edges each way; of the other layers, the strongest ${RELAY.few}.`;
}

/**
 * @param {Metric} metric
 * @param {number | null} value
 */
function valueText(metric, value) {
  if (value === null) return "undefined";
  return metric.unit === "patches" ? value.toFixed(0) : value.toFixed(2);
}

/**
 * The chart's values at the layer.
 * @param {Data} data
 * @param {State} state
 */
export function valuesText(data, state) {
  const metric = data.curves[state.metric];
  const told = RUNS.map((run) => {
    const curve = metric[run];
    const [mean, low, high] = [curve.mean, curve.low, curve.high].map((one) => valueText(metric, one[state.layer]));
    return `${data.runs[run].title} ${mean} (heads ${low} to ${high})`;
  });
  return `${metric.label} at layer ${state.layer}: ${told.join(", ")}.`;
}

/**
 * What becomes of a patch, as it is at a layer.
 * @param {Run} run
 * @param {number} layer
 * @param {number} patch
 */
export function fateText({ prunedAt }, layer, patch) {
  const fate = fateOf(prunedAt, layer, patch);
  if (fate === "leaving") return "pruned after this layer";
  if (fate === "pruned") return `pruned after layer ${prunedAt[patch]}`;
  return prunedAt[patch] < 0 ? "kept to the end" : `pruned after layer ${prunedAt[patch]}`;
}

/**
 * The patch pointed at or chosen, or else the one that CLS gathers most from: its fate, and the heads that carry it.
 * @param {HTMLElement} box
 * @param {Data} data
 * @param {State} state
 * @param {NamesPatches} mask
 * @param {Theme} theme
 */
export function showDetails(box, data, state, mask, theme) {
  const chosen = state.hover ?? state.patch;
  const patch = chosen ?? data.runs[state.run].edges.inflow[state.layer].ids[0];
  const title = element("p", "patch-title"), name = element("strong", "", `patch ${mask.nameOf(patch)}`);
  const where = `${mask.placeText(patch)}, ${fateText(data.runs.pruned, state.layer, patch)}.`;
  title.append(chosen === null ? "CLS gathers most from " : "", name, where);
  if (chosen === null) title.append(element("span", "hint", HINT));
  const head = element("div", "patch-head");
  head.append(thumbOf(patch, mask, theme), title);
  box.replaceChildren(head, ...DIRECTIONS.map((direction) => flowDetails(data, state, direction, patch)));
}

/**
 * @param {number} patch
 * @param {NamesPatches} mask
 * @param {Theme} theme
 */
function thumbOf(patch, mask, theme) {
  const thumb = document.createElement("canvas");
  thumb.className = "thumb";
  thumb.width = thumb.height = 96;
  mask.copyPatch(penOf(thumb), patch, 0, 0, 96, theme);
  return thumb;
}

/**
 * @param {Data} data
 * @param {State} state
 * @param {Direction} direction
 * @param {number} patch
 */
function flowDetails(data, { run: name, layer }, direction, patch) {
  const run = data.runs[name], box = element("div", `flow ${direction}`);
  if (fateOf(run.prunedAt, layer, patch) === "pruned") {
    box.append(element("p", "", `Not in layer ${layer} of this run.`));
    return box;
  }
  const share = percent(attentionOf(run, direction, layer, patch));
  const edges = run.edges[direction][layer], edge = edges.ids.indexOf(patch);
  const says = `${direction === "inflow" ? "CLS pays it" : "It pays CLS"} ${share} of its attention`;
  const place = edge < 0 ? "not among the edges shown" : `edge ${edge + 1} of ${edges.ids.length}`;
  box.append(element("p", "", `${says}, ${place}.`));
  if (edge >= 0) box.append(headList(headsOf(edges, edge)));
  return box;
}

/** @param {{ head: number, share: number }[]} heads */
function headList(heads) {
  const list = element("ol", "heads");
  list.append(...heads.slice(0, HEADS_SHOWN).map(headItem));
  if (heads.length > HEADS_SHOWN) {
    list.append(element("li", "more", `and ${heads.length - HEADS_SHOWN} weaker heads`));
  }
  return list;
}

/** @param {{ head: number, share: number }} carried */
function headItem({ head, share }) {
  const item = element("li"), rail = element("span", "rail"), bar = element("span", "bar");
  bar.style.width = `${100 * share}%`;
  rail.append(bar);
  item.append(element("span", "name", `head ${head}`), rail, element("span", "share", percent(share)));
  return item;
}

/**
 * @param {HTMLElement} box
 * @param {Claim} claim
 */
export function showClaim(box, claim) {
  box.replaceChildren(
    element("strong", "", `The paper (${claim.figure}): `), claim.paper, element("br"),
    element("strong", "", "This run: "), claim.run, " ",
    element("span", `verdict ${claim.verdict.replaceAll(" ", "-")}`, claim.verdict),
    element("span", "rule", claim.rule),
  );
}

/**
 * @param {HTMLElement} box
 * @param {Data} data
 * @param {State} state
 */
export function showLegend(box, data, state) {
  box.replaceChildren(...(state.byLayer ? layerLegend(data) : fateLegend()));
}

/** @param {Data} data */
function layerLegend(data) {
  const used = [...new Set(data.runs.pruned.prunedAt)].filter((layer) => layer >= 0).sort((a, b) => a - b);
  const chips = used.map((layer) => {
    const chip = element("span", "chip", layer), colour = data.layerColours[layer];
    chip.style.background = colour;
    chip.style.color = parseInt(colour.slice(3, 5), 16) > 125 ? "#000" : "#fff";
    return chip;
  });
  return [element("span", "", "pruned after layer"), ...chips];
}

function fateLegend() {
  const kinds = [["kept", "kept"], ["leaving", "pruned after this layer"], ["pruned", "pruned before"]];
  return kinds.flatMap(([kind, text]) => [element("span", `swatch ${kind}`), element("span", "", text)]);
}
