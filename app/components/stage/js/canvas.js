// @ts-check
// Canvas helpers: sharp on dense displays, colours from the page's theme.

/** @import { Theme } from "./types.js" */

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {CanvasRenderingContext2D}
 */
export const penOf = (canvas) => /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));

/** The display's pixels for each CSS pixel. */
export const densityOf = () => window.devicePixelRatio || 1;

/**
 * Size a canvas to its box in CSS pixels, at the display's density, and clear it.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
export function fit(canvas, width, height) {
  const density = densityOf();
  const wide = Math.round(width * density), high = Math.round(height * density);
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.height = `${height}px`;
  }
  const context = penOf(canvas);
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/**
 * Red, green and blue, 0 to 255, of a colour as style sheets give it.
 * @param {string} colour
 */
export const channelsOf = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);

/**
 * @param {number[]} channels
 * @returns {number} 0 to 1
 */
export const luminance = ([r, g, b]) => (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;

/**
 * The theme as the page has it now; also tells the style sheet whether it is dark.
 * @param {HTMLElement} root
 * @returns {Theme}
 */
export function readTheme(root) {
  const background = getComputedStyle(root).getPropertyValue("background-color");
  root.dataset.dark = luminance(channelsOf(background)) < 0.4 ? "yes" : "no";
  const style = getComputedStyle(root);
  const value = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  return {
    background: style.backgroundColor,
    text: style.color,
    soft: value("--soft"),
    line: value("--line"),
    inflow: value("--inflow"),
    outflow: value("--outflow"),
    full: value("--full"),
    pruned: value("--pruned"),
    accent: value("--accent"),
    font: style.fontFamily,
  };
}

/** @type {Map<string, CanvasPattern>} */
const patterns = new Map();

/**
 * Slanted lines, for what is clamped, leaves, or was never seen: told without colour. Each kind is made once.
 * @param {CanvasRenderingContext2D} context
 * @param {string} colour
 * @param {number} gap between lines, CSS pixels
 * @param {number} width of a line, CSS pixels
 */
export function hatch(context, colour, gap, width) {
  const key = [colour, gap, width, densityOf()].join();
  const pattern = patterns.get(key) ?? makeHatch(context, colour, gap, width, densityOf());
  patterns.set(key, pattern);
  return pattern;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} colour
 * @param {number} gap
 * @param {number} width
 * @param {number} density
 */
function makeHatch(context, colour, gap, width, density) {
  const tile = document.createElement("canvas"), side = Math.round(gap * density);
  tile.width = tile.height = side;
  const pen = penOf(tile);
  pen.strokeStyle = colour;
  pen.lineWidth = width * density;
  for (const shift of [-side, 0, side]) {
    pen.moveTo(shift - 1, side + 1);
    pen.lineTo(shift + side + 1, -1);
  }
  pen.stroke();
  const pattern = /** @type {CanvasPattern} */ (context.createPattern(tile, "repeat"));
  pattern.setTransform(new DOMMatrix().scale(1 / density));
  return pattern;
}

/**
 * A line of text, by its middle's height.
 * @param {CanvasRenderingContext2D} context
 * @param {Theme} theme
 * @param {string | number} text
 * @param {number} x
 * @param {number} y
 * @param {{ size?: number, align?: CanvasTextAlign, colour?: string, weight?: number }} look
 */
export function write(context, theme, text, x, y, look = {}) {
  const { size = 11, align = "left", colour = theme.soft, weight = 400 } = look;
  context.font = `${weight} ${size}px ${theme.font}`;
  context.textAlign = align;
  context.textBaseline = "middle";
  context.fillStyle = colour;
  context.fillText(String(text), x, y);
}

/** Width from which on a strip has room for its word across, CSS pixels. */
export const ROOMY = 200;

/**
 * A shaded strip with a word along it, or across its head where it is wide, for layers that are drawn apart.
 * @param {CanvasRenderingContext2D} context
 * @param {Theme} theme
 * @param {string} text
 * @param {[number, number, number, number]} sides left, top, width, height
 * @param {number} middle of the word, from the top; by itself that of the strip
 */
export function shade(context, theme, text, sides, middle = sides[1] + sides[3] / 2) {
  const [left, , width] = sides;
  context.fillStyle = hatch(context, theme.line, 6, 1.6);
  context.fillRect(...sides);
  if (width > ROOMY) {
    write(context, theme, text, left + width - 6, 11, { align: "right", size: 10.5 });
    return;
  }
  context.save();
  context.translate(left + width / 2, middle);
  context.rotate(-Math.PI / 2);
  write(context, theme, text, 0, 0, { align: "center", size: 10.5 });
  context.restore();
}

/**
 * A filled triangle with its tip at x, y, pointing along the angle.
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {number} angle in radians
 * @param {number} size
 */
export function arrowhead(context, x, y, angle, size) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x - size * Math.cos(angle - 0.45), y - size * Math.sin(angle - 0.45));
  context.lineTo(x - size * Math.cos(angle + 0.45), y - size * Math.sin(angle + 0.45));
  context.fill();
}

/**
 * A frame that shows on any picture: in the accent's colour, on a wider one in the background's.
 * @param {CanvasRenderingContext2D} context
 * @param {Theme} theme
 * @param {[number, number, number, number]} sides left, top, width, height
 * @param {number} line width of the inner line
 * @param {number} under width of the outer one
 * @param {number[]} dash of the inner line
 */
export function frame(context, theme, sides, line, under, dash = []) {
  context.lineWidth = under;
  context.strokeStyle = theme.background;
  context.strokeRect(...sides);
  context.lineWidth = line;
  context.strokeStyle = theme.accent;
  context.setLineDash(dash);
  context.strokeRect(...sides);
  context.setLineDash([]);
}
