// @ts-check
// What the stage's modules hand to one another. The browser never loads this file: it holds types only.

/** @typedef {"full" | "pruned"} RunName */
/** @typedef {"inflow" | "outflow"} Direction */

/** @typedef {[number, number, number, number]} Box left, top, right, bottom, in pixels of the original picture */
/** @typedef {{ box: Box, rows: number, cols: number }} Grid where the patches lie on the original picture */

/**
 * Both ends of CLS's attention in one layer, strongest edge first; heads and shares are [edges, headCount].
 * @typedef {{
 *   ids: number[], weights: number[], total: number, shown: number,
 *   heads: Uint8Array, shares: Uint8Array, headCount: number,
 * }} Edges
 */

/** @typedef {{ values: Uint16Array, scale: number[] }} Flow [layers, patches], and a factor for each layer */

/**
 * One run. `prunedAt` is the layer after which each patch was pruned, -1 where it was kept; `nearestKept` the one most
 * like a pruned one, or -1; `strongest` the weight of its strongest edge in the layers that are read;
 * `entering` and `removed` count patches by layer.
 * @typedef {{
 *   title: string, facts: string, patches?: number, prunedAt: Int16Array, nearestKept: Int16Array,
 *   entering: number[], removed: number[], clamped: boolean[], scored: boolean,
 *   requested: (number | null)[], requestedEntropy: (number | null)[],
 *   shown: Record<Direction, number>, strongest: Record<Direction, number>,
 *   edges: Record<Direction, Edges[]>, flow: Record<Direction, Flow>,
 *   clsToItself: number[],
 * }} Run
 */

/** @typedef {{ mean: (number | null)[], low: (number | null)[], high: (number | null)[] }} Curve */

/**
 * @typedef {{
 *   key: string, label: string, unit: string, reads: string, ticks: number[], full: Curve, pruned: Curve,
 * }} Metric
 */

/**
 * A finding of the paper, and what is counted as which verdict.
 * @typedef {{
 *   figure: string, paper: string, run: string, rule: string, verdict: "holds" | "half holds" | "does not hold",
 * }} Claim
 */

/**
 * The one picture that the encoder saw; `canvas` holds it and its grid, `unseen` what no patch covers.
 * @typedef {{
 *   url: string, width: number, height: number, canvas: Box, grid: Grid, seen: Box, unseen: Box[], padding: number[],
 * }} Picture
 */

/** @typedef {Grid & { view: number, first: number, padding: number[] }} ViewGrid a row of the encoder on a pane */

/**
 * A picture on which the encoder saw one or several rows.
 * @typedef {{
 *   title: string, picture: number, width: number, height: number, canvas: Box, seen: Box, unseen: Box[],
 *   grids: ViewGrid[],
 * }} Pane
 */

/**
 * All that the stage draws: either one `picture`, or `pictures` with the `panes` and `views` on them.
 * @typedef {{
 *   layers: number, heads: number, lastReadLayer: number, mass: number, maxEdges: number,
 *   runs: Record<RunName, Run>, curves: Metric[], claim: Claim, howToRead: Record<string, string>,
 *   layerColours: string[], notRead: string,
 *   picture?: Picture, pictures?: string[], panes?: Pane[], views?: string[], view?: number | null, viewName?: string,
 * }} Data
 */

/**
 * What a mask shows: a picture with one grid, and what becomes of the grid's patches.
 * @typedef {{
 *   picture: Omit<Picture, "url" | "canvas">, canvas: Box, prunedAt: Int16Array, nearestKept: Int16Array | null,
 *   layerColours: string[],
 * }} MaskView
 */

/**
 * What is chosen on the stage. `focus` is the layer that the graph shows wide, between two while it moves; `oneScale`
 * whether its edges are as thick as their attention is in all layers, not in their own.
 * @typedef {{
 *   layer: number, focus: number, run: RunName, metric: number, byLayer: boolean, oneScale: boolean,
 *   hover: number | null, patch: number | null,
 * }} State
 */

/**
 * @typedef {{
 *   background: string, text: string, soft: string, line: string, inflow: string, outflow: string,
 *   full: string, pruned: string, accent: string, font: string,
 * }} Theme
 */

/**
 * What Streamlit calls a component with.
 * @typedef {{
 *   data: Uint8Array, parentElement: ParentNode, setStateValue: (name: string, value: unknown) => void,
 * }} Component
 */

export {};
