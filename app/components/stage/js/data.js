// @ts-check
// What analysis.graph.stage_payload packed, as typed arrays. Nothing here is computed anew.

/** @import { Data, Direction, Edges, Run, RunName } from "./types.js" */

/** @type {RunName[]} */
export const RUNS = ["full", "pruned"];
/** @type {Direction[]} */
export const DIRECTIONS = ["inflow", "outflow"];

/**
 * @param {string} base64
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/**
 * @param {any} edges one layer's, as packed
 * @param {number} headCount
 * @returns {Edges}
 */
function unpackEdges(edges, headCount) {
  return { ...edges, heads: bytesOf(edges.heads), shares: bytesOf(edges.shares), headCount };
}

/**
 * One value for each direction.
 * @template T
 * @param {(direction: Direction) => T} make
 * @returns {Record<Direction, T>}
 */
const eachWay = (make) => ({ inflow: make("inflow"), outflow: make("outflow") });

/**
 * @param {any} run as packed
 * @param {number} headCount
 * @returns {Run}
 */
function unpackRun({ prunedAt, nearestKept, edges, flow, ...rest }, headCount) {
  return {
    ...rest,
    prunedAt: new Int16Array(bytesOf(prunedAt).buffer),
    nearestKept: new Int16Array(bytesOf(nearestKept).buffer),
    edges: eachWay((way) => edges[way].map((/** @type {any} */ layer) => unpackEdges(layer, headCount))),
    flow: eachWay((way) => ({ values: new Uint16Array(bytesOf(flow[way].data).buffer), scale: flow[way].scale })),
  };
}

/**
 * @param {any} payload the JSON's value
 * @returns {Data}
 */
export function unpack({ layerColours, runs, ...payload }) {
  const [full, pruned] = RUNS.map((name) => unpackRun(runs[name], payload.heads));
  return { ...payload, layerColours, runs: { full, pruned } };
}

/**
 * Head-mean attention between CLS and a patch in a layer, 0 to 1.
 * @param {Run} run
 * @param {Direction} direction
 * @param {number} layer
 * @param {number} patch
 */
export function attentionOf(run, direction, layer, patch) {
  const flow = run.flow[direction];
  return flow.values[layer * run.prunedAt.length + patch] * flow.scale[layer];
}

/**
 * The heads that carry an edge, strongest first; their shares, 0 to 1, sum to about 1.
 * @param {Edges} edges
 * @param {number} edge
 */
export function headsOf(edges, edge) {
  const from = edge * edges.headCount;
  return Array.from({ length: edges.headCount }, (_, i) => ({
    head: edges.heads[from + i],
    share: edges.shares[from + i] / 255,
  }));
}

/**
 * Whether a patch is kept beyond a layer, is pruned right after it ("leaving"), or was pruned at an earlier one.
 * @param {Int16Array} prunedAt
 * @param {number} layer
 * @param {number} patch
 * @returns {"kept" | "leaving" | "pruned"}
 */
export function fateOf(prunedAt, layer, patch) {
  const at = prunedAt[patch];
  if (at < 0 || at > layer) return "kept";
  return at === layer ? "leaving" : "pruned";
}

/**
 * The last layer that leads to what the language model reads; those behind it are drawn apart.
 * @param {Data} data
 */
export const lastRead = (data) => Math.min(data.lastReadLayer, data.layers - 1);

/**
 * The first layer that all patches entering it go through to the end, so that the mask is whole; 0 where all are kept.
 * Of a method that prunes behind the layer that is read, this one, which its patches leave.
 * @param {Data} data
 */
export const firstView = (data) =>
  Math.min(data.runs.pruned.removed.findLastIndex((count) => count > 0) + 1, lastRead(data));

/**
 * The weight at which an edge is thickest where all layers have one scale: that of the strongest one of either run.
 * @param {Data} data
 * @param {Direction} direction
 */
export const strongestEdge = ({ runs }, direction) => Math.max(...RUNS.map((run) => runs[run].strongest[direction]));

/** @param {number} share 0 to 1 */
export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;
