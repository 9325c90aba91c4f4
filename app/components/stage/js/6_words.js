// What the pictures show, in words: status line, read-outs, the patch pointed at.

const HEADS_SHOWN = 6;
const VERDICTS = { agrees: "agrees", mixed: "mixed", disagrees: "does not agree" };

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function statusText(data, layer) {
  const run = data.runs.pruned, removed = run.removed[layer];
  const title = data.panes ? `${run.title}, ${data.partName}` : run.title;
  const enter = `${title}: ${run.alive[layer]} of ${run.patches ?? run.died.length} patches enter layer ${layer}`;
  if (removed === 0) return `${enter}; none leave after it.`;
  const left = run.alive[layer] - removed;
  return `${enter}; ${removed} leave after it (${reasonText(run, layer)}), ${left} stay.`;
}

function reasonText(run, layer) {
  if (!run.scored) return "all at once: this method cuts here only";
  if (run.forced[layer]) return "forced: the rest down to the target";
  const entropy = run.askedEntropy[layer]?.toFixed(2);
  if (run.asked[layer] === null) return `as the entropy of each one's head-averaged row asked, ${entropy} on average`;
  return `the head-averaged row's entropy, ${entropy}, asked for ${run.asked[layer]}`;
}

function shownText(data, state) {
  const run = data.runs[state.run], [inflow, outflow] = DIRECTIONS.map((d) => run.edges[d][state.layer]);
  return `Shown at layer ${state.layer}: ${percent(inflow.shown)} of the inflow (${inflow.ids.length} edges) and `
    + `${percent(outflow.shown)} of the outflow (${outflow.ids.length}). All layers together: `
    + `${percent(run.shown.inflow)} and ${percent(run.shown.outflow)}.`;
}

function relayHow(data) {
  return `${data.howToRead.relay} Up to ${percent(data.mass)} of the layer's flow, at most ${data.maxEdges} edges each way; `
    + `of the other layers, the strongest ${RELAY.few}.`;
}

function valueText(metric, value) {
  if (value === null) return "undefined";
  return metric.unit === "patches" ? value.toFixed(0) : value.toFixed(2);
}

function valuesText(data, state) {
  const metric = data.curves[state.metric];
  const told = RUNS.map((run) => {
    const [mean, low, high] = ["mean", "low", "high"].map((part) => valueText(metric, metric[run][part][state.layer]));
    return `${data.runs[run].title} ${mean} (heads ${low} to ${high})`;
  });
  return `${metric.label} at layer ${state.layer}: ${told.join(", ")}.`;
}

const FATES = {
  alive: (died) => (died < 0 ? "kept to the end" : `leaves after layer ${died}`),
  leaving: () => "leaves after this layer",
  gone: (died) => `left after layer ${died}`,
};

const HINT = "Point at a patch, here or in the graph, to light it in both; click to keep it.";

/** The patch pointed at or chosen, or else the one that CLS gathers most from: its fate, and the heads that carry it. */
function showDetails(box, data, state, mask, theme) {
  const chosen = state.hover ?? state.patch;
  const patch = chosen ?? data.runs[state.run].edges.inflow[state.layer].ids[0];
  const pruned = data.runs.pruned, fate = FATES[fateOf(pruned, state.layer, patch)](pruned.died[patch]);
  const thumb = document.createElement("canvas");
  thumb.className = "thumb";
  thumb.width = thumb.height = 96;
  mask.copyPatch(thumb.getContext("2d"), patch, 0, 0, 96, theme);
  const title = element("p", "patch-title");
  const where = `${mask.placeText(patch)}, ${fate}.`;
  title.append(chosen === null ? "CLS gathers most from " : "", element("strong", "", `patch ${mask.nameOf(patch)}`), where);
  if (chosen === null) title.append(element("span", "hint", HINT));
  const head = element("div", "patch-head");
  head.append(thumb, title);
  box.replaceChildren(head, ...DIRECTIONS.map((direction) => flowDetails(data, state, direction, patch)));
}

function flowDetails(data, state, direction, patch) {
  const run = data.runs[state.run], part = element("div", `flow ${direction}`);
  if (fateOf(run, state.layer, patch) === "gone") {
    part.append(element("p", "", `Not in layer ${state.layer} of this run.`));
    return part;
  }
  const attention = percent(attentionOf(data, state.run, direction, state.layer, patch));
  const edges = run.edges[direction][state.layer], edge = edges.ids.indexOf(patch);
  const says = direction === "inflow" ? `CLS pays it ${attention} of its attention` : `It pays CLS ${attention} of its attention`;
  const place = edge < 0 ? "not among the edges shown" : `edge ${edge + 1} of ${edges.ids.length}`;
  part.append(element("p", "", `${says}, ${place}.`));
  if (edge >= 0) part.append(headList(headsOf(edges, edge)));
  return part;
}

function headList(heads) {
  const list = element("ol", "heads");
  for (const { head, share } of heads.slice(0, HEADS_SHOWN)) {
    const item = element("li"), bar = element("span", "bar");
    bar.style.width = `${100 * share}%`;
    item.append(element("span", "name", `head ${head}`), element("span", "rail"), element("span", "share", percent(share)));
    item.querySelector(".rail").append(bar);
    list.append(item);
  }
  if (heads.length > HEADS_SHOWN) list.append(element("li", "more", `and ${heads.length - HEADS_SHOWN} weaker heads`));
  return list;
}

function showClaim(box, claim) {
  box.replaceChildren(
    element("strong", "", "The paper: "), claim.paper, element("br"),
    element("strong", "", "This run: "), claim.run, " ",
    element("span", `verdict ${claim.verdict}`, VERDICTS[claim.verdict]),
  );
}

function showLegend(box, data, state) {
  box.replaceChildren();
  if (state.byLayer) {
    const used = [...new Set(data.runs.pruned.died)].filter((layer) => layer >= 0).sort((a, b) => a - b);
    box.append(element("span", "", "left after layer"));
    for (const layer of used) {
      const chip = element("span", "chip", layer);
      chip.style.background = data.deathColours[layer];
      chip.style.color = parseInt(data.deathColours[layer].slice(3, 5), 16) > 125 ? "#000" : "#fff";
      box.append(chip);
    }
    return;
  }
  for (const [kind, text] of [["stays", "stays"], ["leaving", "leaves after this layer"], ["gone", "gone"]]) {
    box.append(element("span", `swatch ${kind}`), element("span", "", text));
  }
}
