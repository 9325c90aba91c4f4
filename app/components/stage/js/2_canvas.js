// Canvas helpers: sharp on dense displays, colours from the page's theme.

/** Size a canvas to its box in CSS pixels, at the display's density; returns its context and size. */
function fit(canvas, width, height) {
  const density = window.devicePixelRatio || 1;
  const wide = Math.round(width * density), high = Math.round(height * density);
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function luminance(colour) {
  const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}

/** The theme as the page has it now; also tells the style sheet whether it is dark. */
function readTheme(root) {
  const probe = getComputedStyle(root);
  root.dataset.dark = luminance(probe.getPropertyValue("background-color")) < 0.4 ? "yes" : "no";
  const style = getComputedStyle(root);
  const value = (name) => style.getPropertyValue(name).trim();
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

const patterns = new Map();

/** Slanted lines, for what is forced, leaves, or was never seen: told without colour. Each kind is made once. */
function hatch(context, colour, gap, width) {
  const density = window.devicePixelRatio || 1, key = [colour, gap, width, density].join();
  if (!patterns.has(key)) patterns.set(key, makeHatch(context, colour, gap, width, density));
  return patterns.get(key);
}

function makeHatch(context, colour, gap, width, density) {
  const tile = document.createElement("canvas"), side = Math.round(gap * density);
  tile.width = tile.height = side;
  const pen = tile.getContext("2d");
  pen.strokeStyle = colour;
  pen.lineWidth = width * density;
  for (const shift of [-side, 0, side]) {
    pen.moveTo(shift - 1, side + 1);
    pen.lineTo(shift + side + 1, -1);
  }
  pen.stroke();
  const pattern = context.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scale(1 / density));
  return pattern;
}

function write(context, theme, text, x, y, { size = 11, align = "left", colour = theme.soft, weight = 400 } = {}) {
  context.font = `${weight} ${size}px ${theme.font}`;
  context.textAlign = align;
  context.textBaseline = "middle";
  context.fillStyle = colour;
  context.fillText(text, x, y);
}

/** A filled triangle with its tip at x, y, pointing along the angle. */
function arrowhead(context, x, y, angle, size) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x - size * Math.cos(angle - 0.45), y - size * Math.sin(angle - 0.45));
  context.lineTo(x - size * Math.cos(angle + 0.45), y - size * Math.sin(angle + 0.45));
  context.fill();
}
