// What analysis.graph.stage_payload packed, as typed arrays. Nothing here is computed anew.

const RUNS = ["full", "pruned"];
const DIRECTIONS = ["inflow", "outflow"];

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function unpackEdges(flow, heads) {
  return { ...flow, heads: bytesOf(flow.heads), shares: bytesOf(flow.shares), headCount: heads };
}

function unpackRun(run, heads) {
  const edges = {}, flow = {};
  for (const direction of DIRECTIONS) {
    edges[direction] = run.edges[direction].map((layer) => unpackEdges(layer, heads));
    const packed = run.flow[direction];
    flow[direction] = { values: new Uint16Array(bytesOf(packed.data).buffer), scale: packed.scale };
  }
  const [died, twins] = [run.died, run.twins].map((packed) => new Int16Array(bytesOf(packed).buffer));
  return { ...run, died, twins, edges, flow };
}

function unpack(payload) {
  const runs = {};
  for (const name of RUNS) runs[name] = unpackRun(payload.runs[name], payload.heads);
  return { ...payload, runs };
}

/** Head-mean attention between CLS and a patch in a layer, 0 to 1. */
function attentionOf(data, run, direction, layer, patch) {
  const flow = data.runs[run].flow[direction];
  return flow.values[layer * data.runs[run].died.length + patch] * flow.scale[layer];
}

/** The heads that carry an edge, strongest first: [{head, share}], shares 0 to 1. */
function headsOf(edges, edge) {
  const from = edge * edges.headCount;
  return Array.from({ length: edges.headCount }, (_, i) => ({
    head: edges.heads[from + i],
    share: edges.shares[from + i] / 255,
  }));
}

/** Whether a patch of this run is still there when the layer begins, goes after it, or went before. */
function fateOf(run, layer, patch) {
  const died = run.died[patch];
  if (died < 0 || died > layer) return "alive";
  return died === layer ? "leaving" : "gone";
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;
