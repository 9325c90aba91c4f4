// The page around the stage: marks in other panels for what is chosen here, and clicks there that choose here.
// The marks are rules of one style sheet, since the panels are drawn anew by the server whenever it likes.

class PageLinks {
  constructor() {
    this.sheet = document.createElement("style");
    document.head.append(this.sheet);
  }

  /** The layer's row in the table, and the patch's place on pictures of the whole original. */
  mark({ layer, patch }, picture) {
    const rules = [`.lens-why tr[data-layer="${layer}"] { --here: "▸ "; --here-line: currentColor; }`];
    if (patch !== null && picture) {
      const { box, rows, cols } = picture.grid, across = (box[2] - box[0]) / cols, down = (box[3] - box[1]) / rows;
      const left = box[0] + (patch % cols) * across, top = box[1] + Math.floor(patch / cols) * down;
      const places = [["left", left / picture.width], ["top", top / picture.height], ["width", across / picture.width], ["height", down / picture.height]];
      rules.push(`html .lens-heat .mark { display: block; ${places.map(([name, share]) => `${name}: ${100 * share}%`).join("; ")} }`);
    }
    const text = rules.join("\n");
    if (text !== this.sheet.textContent) this.sheet.textContent = text;
  }

  /** What a click somewhere on the page asks for: { patch }, { layer } or null. */
  asked(event, picture) {
    const button = event.target.closest?.("[data-patch], button[data-layer]");
    if (button?.dataset.patch) return { patch: Number(button.dataset.patch) };
    if (button) return { layer: Number(button.dataset.layer) };
    const heat = event.target.closest?.(".lens-heat");
    return heat ? { patch: this.patchAt(event, heat.getBoundingClientRect(), picture) } : null;
  }

  patchAt(event, shown, { width, height, grid: { box, rows, cols } }) {
    const x = ((event.clientX - shown.left) / shown.width) * width, y = ((event.clientY - shown.top) / shown.height) * height;
    const column = Math.floor(((x - box[0]) / (box[2] - box[0])) * cols), row = Math.floor(((y - box[1]) / (box[3] - box[1])) * rows);
    return row >= 0 && row < rows && column >= 0 && column < cols ? row * cols + column : null;
  }

  remove() {
    this.sheet.remove();
  }
}
