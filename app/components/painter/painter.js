// Draws data.picture with the mask of data.kept; edits against data.base carry a + or a - besides their colour.
// A click, a lasso or the space bar is an edit: the ids of the patches to toggle, and a serial number that only grows.
// Python gets all edits that it has not confirmed (data.seen) as the trigger "toggled": of two triggers that wait for
// the same run of the page Streamlit keeps the later one.
const CLICK_PIXELS = 5;
const painters = new WeakMap(); // Streamlit calls with every run of the page

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".painter");
  let painter = painters.get(root);
  if (!painter) {
    painter = new Painter(root);
    painters.set(root, painter);
  }
  painter.show(data, (edits) => setTriggerValue("toggled", edits));
}

class Painter {
  constructor(root) {
    this.canvas = root.querySelector("canvas");
    this.says = root.querySelector(".says");
    this.image = new Image();
    this.image.onload = () => this.draw();
    this.path = [];
    this.cursor = null;
    this.waiting = [];
    this.serial = 0;
    this.canvas.onpointerdown = (event) => this.begin(event);
    this.canvas.onpointermove = (event) => this.extend(event);
    this.canvas.onpointerup = (event) => this.end(event);
    this.canvas.onpointercancel = () => this.forget();
    this.canvas.onkeydown = (event) => this.key(event);
  }

  show(data, send) {
    this.waiting = this.waiting.filter((edit) => data.mask === this.data.mask && edit.serial > data.seen);
    this.serial = Math.max(this.serial, data.seen);
    this.data = data;
    this.send = send;
    this.kept = new Set(data.kept);
    this.waiting.forEach(({ ids }) => this.flip(ids));
    this.base = new Set(data.base);
    const density = Math.min(2, window.devicePixelRatio || 1);
    [this.canvas.width, this.canvas.height] = data.size.map((side) => Math.round(side * density));
    this.count();
    if (this.image.src === data.picture) this.draw();
    else this.image.src = data.picture;
  }

  point(event) {
    const frame = this.canvas.getBoundingClientRect();
    const [width, height] = this.data.size;
    return [((event.clientX - frame.left) / frame.width) * width, ((event.clientY - frame.top) / frame.height) * height];
  }

  patchAt([x, y]) {
    return this.data.boxes.findIndex(([left, top, right, bottom]) => x >= left && x < right && y >= top && y < bottom);
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.path = [this.point(event)];
  }

  extend(event) {
    if (!this.path.length) return;
    this.path.push(this.point(event));
    this.draw();
  }

  end(event) {
    const path = [...this.path, this.point(event)];
    this.forget();
    const [x0, y0] = path[0];
    const moved = Math.max(...path.map(([x, y]) => Math.hypot(x - x0, y - y0)));
    const ids = moved < CLICK_PIXELS ? [this.patchAt(path[0])].filter((id) => id >= 0) : this.lassoed(path);
    if (moved < CLICK_PIXELS && ids.length) this.cursor = ids[0];
    this.toggle(ids);
  }

  forget() {
    this.path = [];
    this.draw();
  }

  // The patches whose centre lies inside, and that the lasso's task would change.
  lassoed(path) {
    const rescues = this.data.lasso === "rescue";
    const ids = [];
    this.data.boxes.forEach(([left, top, right, bottom], id) => {
      if (this.kept.has(id) !== rescues && inside(path, (left + right) / 2, (top + bottom) / 2)) ids.push(id);
    });
    return ids;
  }

  toggle(ids) {
    if (!ids.length) return;
    this.serial = Math.max(this.serial + 1, Date.now()); // a painter of the page's next visit goes on counting
    this.waiting.push({ serial: this.serial, ids });
    this.flip(ids);
    this.count();
    this.draw();
    this.send([...this.waiting]);
  }

  flip(ids) {
    ids.forEach((id) => (this.kept.has(id) ? this.kept.delete(id) : this.kept.add(id)));
  }

  count() {
    this.canvas.setAttribute("aria-label", `Mask: ${this.kept.size} of ${this.data.boxes.length} patches kept`);
    this.canvas.dataset.kept = this.kept.size;
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.data.columns, ArrowDown: this.data.columns }[event.key];
    if (step !== undefined) {
      const next = this.cursor === null ? 0 : this.cursor + step;
      if (next >= 0 && next < this.data.boxes.length) this.cursor = next;
    } else if (event.key === " " && this.cursor !== null) {
      this.toggle([this.cursor]);
    } else {
      return;
    }
    event.preventDefault();
    this.tell();
    this.draw();
  }

  tell() {
    const row = Math.floor(this.cursor / this.data.columns);
    const state = this.kept.has(this.cursor) ? "kept" : "cut";
    this.says.textContent = `Patch ${this.cursor}, row ${row}, column ${this.cursor % this.data.columns}: ${state}`;
  }

  draw() {
    if (!this.data || !this.image.complete || !this.image.naturalWidth) return;
    const context = this.canvas.getContext("2d");
    const scale = this.canvas.width / this.data.size[0];
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.drawImage(this.image, 0, 0, ...this.data.size);
    this.data.boxes.forEach((box, id) => this.drawPatch(context, box, id));
    this.drawPath(context);
  }

  drawPatch(context, [left, top, right, bottom], id) {
    const [width, height] = [right - left, bottom - top];
    const kept = this.kept.has(id);
    if (!kept) {
      context.fillStyle = "rgba(255, 255, 255, 0.72)";
      context.fillRect(left, top, width, height);
    }
    if (kept !== this.base.has(id)) this.drawEdit(context, left, top, width, height, kept);
    if (id === this.cursor) {
      context.setLineDash([3, 2]);
      context.strokeStyle = "#000";
      context.lineWidth = 1.5;
      context.strokeRect(left + 1, top + 1, width - 2, height - 2);
      context.setLineDash([]);
    }
  }

  drawEdit(context, left, top, width, height, rescued) {
    context.strokeStyle = rescued ? "#0b6b3a" : "#a3123a";
    context.lineWidth = 2;
    context.strokeRect(left + 1, top + 1, width - 2, height - 2);
    const [x, y, arm] = [left + width / 2, top + height / 2, Math.min(width, height) * 0.28];
    context.beginPath();
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    if (rescued) {
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
    }
    context.stroke();
  }

  drawPath(context) {
    if (this.path.length < 2) return;
    context.beginPath();
    this.path.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.strokeStyle = "#111";
    context.lineWidth = 1.5;
    context.setLineDash([5, 3]);
    context.stroke();
    context.setLineDash([]);
  }
}

// Whether a point lies inside a closed path: a ray to the right crosses its sides an odd number of times.
function inside(path, x, y) {
  let odd = false;
  path.forEach(([x1, y1], at) => {
    const [x2, y2] = path[(at + 1) % path.length];
    if (y1 > y !== y2 > y && x < x1 + ((y - y1) / (y2 - y1)) * (x2 - x1)) odd = !odd;
  });
  return odd;
}
