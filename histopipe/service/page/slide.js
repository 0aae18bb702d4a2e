// The map of one case: its patches at their positions, coloured by decision or probability.

const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"]
  .map(colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16)));
const TALLEST = 560;
const OVER_TISSUE = 0.55;  // opacity of patches, the same as on the maps that the service draws

export function shade(probability) {
  const at = Math.min(Math.max(probability, 0), 1) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const mixed = VIRIDIS[low].map((value, i) => Math.round(value + (at - low) * (VIRIDIS[low + 1][i] - value)));
  return `rgb(${mixed.join(" ")})`;
}

export function countPositives(patches, threshold) {
  return patches.probability.reduce((count, value) => count + (value >= threshold), 0);
}

export class SlideMap {
  constructor(canvas, onChoose) {
    this.canvas = canvas;
    this.onChoose = onChoose;
    this.chosen = -1;
    canvas.addEventListener("pointermove", event => this.choose(this.under(event)));
    canvas.addEventListener("pointerdown", event => this.choose(this.under(event)));
    canvas.addEventListener("pointerleave", () => this.choose(-1));
    canvas.addEventListener("keydown", event => this.step(event));
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(patches) {
    this.patches = patches;
    this.setTissue(null);
    this.placed = patches.x.map((_, i) => i).filter(i => patches.x[i] !== null && patches.y[i] !== null);
    this.chosen = -1;
    this.draw();
    return this.placed.length > 0;
  }

  // Sets the image of the box around the patches, over which they are drawn.
  setTissue(tissue) {
    this.tissue?.close();
    this.tissue = tissue;
  }

  colour(threshold, shown, overTissue) {
    this.threshold = threshold;
    this.shown = shown;
    this.overTissue = overTissue;
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.draw(); });
  }

  layout() {
    const { x, y, width, height } = this.patches, all = this.placed;
    const least = (values) => all.reduce((value, i) => Math.min(value, values[i]), Infinity);
    const most = (values, sizes) => all.reduce((value, i) => Math.max(value, values[i] + sizes[i]), -Infinity);
    const left = least(x), top = least(y), wide = most(x, width) - left, tall = most(y, height) - top;
    const room = this.canvas.parentElement.clientWidth - 2;
    return { left, top, wide, tall, scale: Math.min(room / wide, TALLEST / tall) };
  }

  draw() {
    if (!this.patches || !this.placed.length || !this.canvas.parentElement.clientWidth) return;
    const at = this.at = this.layout(), dense = window.devicePixelRatio || 1, scale = at.scale * dense;
    const canvas = this.canvas, pen = canvas.getContext("2d");
    canvas.width = Math.round(at.wide * scale);
    canvas.height = Math.round(at.tall * scale);
    canvas.style.width = `${canvas.width / dense}px`;
    canvas.style.height = `${canvas.height / dense}px`;
    const style = getComputedStyle(document.documentElement);
    const [positive, negative, text] = ["--positive", "--negative", "--text"].map(name => style.getPropertyValue(name));
    const { x, y, width, height, probability } = this.patches;
    const box = i => {  // corners are rounded, so that patches that touch on the slide touch here
      const l = Math.round((x[i] - at.left) * scale), t = Math.round((y[i] - at.top) * scale);
      const r = Math.round((x[i] + width[i] - at.left) * scale), b = Math.round((y[i] + height[i] - at.top) * scale);
      return [l, t, Math.max(1, r - l), Math.max(1, b - t)];
    };
    const over = this.overTissue && this.tissue;
    if (over) pen.drawImage(this.tissue, 0, 0, canvas.width, canvas.height);
    pen.globalAlpha = over ? OVER_TISSUE : 1;
    for (const i of this.placed) {
      const isPositive = probability[i] >= this.threshold;
      if (over && this.shown === "decision" && !isPositive) continue;
      pen.fillStyle = this.shown === "probability" ? shade(probability[i]) : isPositive ? positive : negative;
      pen.fillRect(...box(i));
    }
    pen.globalAlpha = 1;
    if (this.chosen >= 0) {
      const [l, t, w, h] = box(this.chosen);
      pen.lineWidth = 3 * dense;
      pen.strokeStyle = style.getPropertyValue("--page");
      pen.strokeRect(l, t, w, h);
      pen.lineWidth = 1.5 * dense;
      pen.strokeStyle = text;
      pen.strokeRect(l, t, w, h);
    }
  }

  under(event) {
    if (!this.at) return -1;
    const bounds = this.canvas.getBoundingClientRect();
    const px = (event.clientX - bounds.left) / this.at.scale + this.at.left;
    const py = (event.clientY - bounds.top) / this.at.scale + this.at.top;
    const { x, y, width, height } = this.patches;
    return this.placed.find(i => px >= x[i] && px < x[i] + width[i] && py >= y[i] && py < y[i] + height[i]) ?? -1;
  }

  step(event) {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!direction || !this.placed?.length) return;
    event.preventDefault();
    if (this.chosen < 0) { this.choose(this.placed[0]); return; }
    const { x, y } = this.patches;
    let best = -1, least = Infinity;
    for (const i of this.placed) {
      const dx = x[i] - x[this.chosen], dy = y[i] - y[this.chosen];
      const along = dx * direction[0] + dy * direction[1], across = Math.abs(dx * direction[1]) + Math.abs(dy * direction[0]);
      if (along > 0 && along + 3 * across < least) { least = along + 3 * across; best = i; }
    }
    if (best >= 0) this.choose(best);
  }

  choose(patch) {
    if (patch === this.chosen) return;
    this.chosen = patch;
    this.draw();
    this.onChoose(patch);
  }
}
