// The latent map: up to 50,000 rows, stamped into the pixels of a canvas, so that a frame costs a
// few milliseconds without a graphics card. What differs in colour differs in shape, too.

const SHAPES = [
  ["..#..", ".###.", "#####", ".###.", "..#.."],
  ["#####", "#####", "#####", "#####", "#####"],
  ["..#..", "..#..", ".###.", ".###.", "#####"],
  ["#...#", ".#.#.", "..#..", ".#.#.", "#...#"],
  [".###.", "#####", "#####", "#####", ".###."],
  ["#####", ".###.", ".###.", "..#..", "..#.."],
  ["..#..", "..#..", "#####", "..#..", "..#.."],
  ["#####", "#...#", "#...#", "#...#", "#####"],
  ["..#..", ".#.#.", "#...#", ".#.#.", "..#.."],
  ["##...", "####.", "#####", "####.", "##..."],
  ["...##", ".####", "#####", ".####", "...##"],
  ["#.#.#", ".#.#.", "#.#.#", ".#.#.", "#.#.#"],
].map(rows => rows.flatMap((row, y) => [...row].flatMap((c, x) => c === "#" ? [[x - 2, y - 2]] : [])));
const DOT = [[0, 0], [1, 0], [0, 1], [1, 1]];  // of a number, where there are very many

// Okabe and Ito's colours for those who see few, then Tol's; each pair of light and dark.
export const COLOURS = [
  ["#0072b2", "#56b4e9"], ["#c04f00", "#ff9d4d"], ["#007a5a", "#2fd0a2"], ["#a2447f", "#e79cc8"],
  ["#8a6d00", "#f0d442"], ["#3b3b9c", "#a5a6ff"], ["#7a1f1f", "#ff8f8f"], ["#20701f", "#8fe08c"],
  ["#5c5c5c", "#c9c9c9"], ["#006f7a", "#62e0ec"], ["#7c3aed", "#c7a6ff"], ["#6b4a1b", "#d9b382"],
];
const OTHERS = ["#767676", "#9a9a9a"];
// viridis, cut where a white ground (light) or a black one (dark) would swallow it
const VIRIDIS = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779",
  "#6dcd59", "#b4de2c", "#fde725"];

const words = hex => {  // a pixel as the canvas stores it
  const n = parseInt(hex.slice(1), 16);
  return (255 << 24 | (n & 255) << 16 | (n >> 8 & 255) << 8 | n >> 16) >>> 0;
};

export function colourOf(level, dark) {
  return (COLOURS[level] || OTHERS)[dark ? 1 : 0];
}

export function ramp(dark) {
  return dark ? VIRIDIS.slice(2) : VIRIDIS.slice(0, 9);
}

export class Plane {
  constructor(box, canvas, {chosen, moved}) {
    Object.assign(this, {box, canvas, onChosen: chosen, onMoved: moved});
    this.context = canvas.getContext("2d", {alpha: false});
    this.x = new Float32Array(0);
    this.y = new Float32Array(0);
    this.colour = null;
    this.selected = -1;
    this.frames = [];
    this.pointers = new Map();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.resize());
  }

  show(x, y) {
    const known = v => v ?? NaN;  // of very many rows UMAP places some
    this.x = Float32Array.from(x, known);
    this.y = Float32Array.from(y, known);
    this.selected = -1;
    this.all();
  }

  paint(colour) {  // {values, levels, low, high} or null
    this.colour = colour;
    this.request();
  }

  all() {
    const ends = v => {
      let low = Infinity, high = -Infinity;
      for (const each of v) { if (each < low) low = each; if (each > high) high = each; }
      return low < high ? [low, high] : [low - 1, low + 1];
    };
    const [a, b] = ends(this.x), [c, d] = ends(this.y);
    this.view = {x: (a + b) / 2, y: (c + d) / 2, w: (b - a) * 1.08, h: (d - c) * 1.08, zoom: 1};
    this.changed();
  }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const view = this.view, next = Math.min(1e4, Math.max(0.5, view.zoom * factor));
    const by = next / view.zoom, x = this.left(px), y = this.up(py);
    view.zoom = next;
    view.w /= by; view.h /= by;
    view.x = x + (view.x - x) / by;
    view.y = y + (view.y - y) / by;
    this.changed();
  }

  pan(dx, dy) {
    this.view.x -= dx / this.width * this.view.w;
    this.view.y += dy / this.height * this.view.h;
    this.changed();
  }

  changed() {
    if (!this.view) return;
    this.box.style.touchAction = this.view.zoom > 1.01 ? "none" : "pan-y";
    this.onMoved?.(this.view);
    this.request();
  }

  // between the plane and pixels of the page
  across(x) { return ((x - this.view.x) / this.view.w + 0.5) * this.width; }
  down(y) { return (0.5 - (y - this.view.y) / this.view.h) * this.height; }
  left(px) { return (px / this.width - 0.5) * this.view.w + this.view.x; }
  up(py) { return (0.5 - py / this.height) * this.view.h + this.view.y; }

  resize() {
    this.width = this.box.clientWidth;
    this.height = this.box.clientHeight;
    this.scale = Math.min(2, devicePixelRatio || 1);
    const w = Math.round(this.width * this.scale), h = Math.round(this.height * this.scale);
    if (!w || !h) return;
    this.canvas.width = w;
    this.canvas.height = h;
    this.image = this.context.createImageData(w, h);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.request();
  }

  request() {
    if (this.waiting || !this.pixels || !this.view) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      const began = performance.now();
      this.draw();
      this.frames.push(performance.now() - began);
      if (this.frames.length > 200) this.frames.shift();
    });
  }

  draw() {
    const style = getComputedStyle(this.box), dark = style.getPropertyValue("--dark").trim() === "1";
    const {pixels, scale} = this, w = this.canvas.width, h = this.canvas.height;
    pixels.fill(words(style.getPropertyValue("--field").trim()));
    const colour = this.colour, n = this.x.length;
    const levels = colour?.levels.length, missing = words(OTHERS[dark ? 1 : 0]);
    const own = levels ? colour.levels.map((_, i) => words(colourOf(i, dark))) : ramp(dark).map(words);
    const plain = words(COLOURS[0][dark ? 1 : 0]);
    const small = n > 20000 && this.view.zoom < 4;
    const grow = small ? 1 : Math.max(1, Math.round(scale * (n < 3000 ? 1.6 : 1)));
    const stamps = SHAPES.map(shape => this.stamp(shape, grow, w)), dot = this.stamp(DOT, small ? 1 : grow, w);
    const {x: cx, y: cy, w: vw, h: vh} = this.view, edge = 3 * grow;
    for (let i = 0; i < n; i++) {
      const px = ((this.x[i] - cx) / vw + 0.5) * w | 0, py = (0.5 - (this.y[i] - cy) / vh) * h | 0;
      if (px < edge || py < edge || px >= w - edge || py >= h - edge) continue;
      let shape = stamps[4], ink = plain;
      if (colour) {
        const value = colour.values[i];
        if (value === null || value === undefined) {
          shape = dot; ink = missing;
        } else if (levels) {
          ink = own[value]; shape = stamps[value] || dot;
        } else {
          const t = (value - colour.low) / (colour.high - colour.low || 1);
          ink = own[Math.min(own.length - 1, Math.max(0, t * own.length | 0))];
        }
      }
      if (small) shape = dot;
      const at = py * w + px;
      for (let k = 0; k < shape.length; k++) pixels[at + shape[k]] = ink;
    }
    this.context.putImageData(this.image, 0, 0);
    if (this.selected >= 0) this.ring(style.getPropertyValue("--ink").trim());
  }

  stamp(shape, grow, w) {
    const offsets = new Int32Array(shape.length * grow * grow);
    let k = 0;
    for (const [dx, dy] of shape)
      for (let a = 0; a < grow; a++)
        for (let b = 0; b < grow; b++) offsets[k++] = (dy * grow + b) * w + dx * grow + a;
    return offsets;
  }

  ring(ink) {
    const c = this.context, s = this.scale;
    const x = this.across(this.x[this.selected]) * s, y = this.down(this.y[this.selected]) * s;
    c.lineWidth = 2 * s;
    c.strokeStyle = ink;
    c.beginPath();
    c.arc(x, y, 8 * s, 0, 2 * Math.PI);
    c.moveTo(x - 14 * s, y); c.lineTo(x - 8 * s, y);
    c.moveTo(x + 8 * s, y); c.lineTo(x + 14 * s, y);
    c.moveTo(x, y - 14 * s); c.lineTo(x, y - 8 * s);
    c.moveTo(x, y + 8 * s); c.lineTo(x, y + 14 * s);
    c.stroke();
  }

  choose(i, told = true) {
    this.selected = i;
    if (i >= 0) {  // a row that is chosen is in sight
      const px = this.across(this.x[i]), py = this.down(this.y[i]);
      if (px < 0 || py < 0 || px > this.width || py > this.height) {
        this.view.x = this.x[i]; this.view.y = this.y[i];
        this.changed();
      }
    }
    this.request();
    if (told) this.onChosen(i);
  }

  nearest(px, py, within) {
    let best = -1, least = within * within;
    for (let i = 0; i < this.x.length; i++) {
      const dx = this.across(this.x[i]) - px, dy = this.down(this.y[i]) - py, d = dx * dx + dy * dy;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }

  // The next row in a direction: near, and rather straight ahead than aside.
  step(ux, uy) {
    if (this.selected < 0 || Number.isNaN(this.x[this.selected])) {
      this.choose(this.nearest(this.width / 2, this.height / 2, Infinity));
      return;
    }
    const sx = this.across(this.x[this.selected]), sy = this.down(this.y[this.selected]);
    let best = -1, least = Infinity;
    for (let i = 0; i < this.x.length; i++) {
      const dx = this.across(this.x[i]) - sx, dy = this.down(this.y[i]) - sy;
      const ahead = dx * ux + dy * uy, aside = Math.abs(dx * uy - dy * ux);
      if (ahead <= 0.01 || aside > 2 * ahead) continue;
      const cost = ahead + 2 * aside;
      if (cost < least) { least = cost; best = i; }
    }
    if (best >= 0) this.choose(best);
  }

  listen() {
    const box = this.box, place = e => {
      const r = box.getBoundingClientRect();
      return [e.clientX - r.left, e.clientY - r.top];
    };
    box.addEventListener("pointerdown", e => {
      this.pointers.set(e.pointerId, place(e));
      this.dragged = 0;
      if (e.pointerType === "mouse") box.setPointerCapture(e.pointerId);
    });
    box.addEventListener("pointermove", e => {
      const before = this.pointers.get(e.pointerId);
      if (!before) return;
      const now = place(e);
      if (this.pointers.size === 2) {
        const [other] = [...this.pointers].filter(([id]) => id !== e.pointerId).map(([, p]) => p);
        const apart = p => Math.hypot(p[0] - other[0], p[1] - other[1]);
        this.zoom(apart(now) / (apart(before) || 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else if (e.pointerType === "mouse" || this.view.zoom > 1.01) {
        this.pan(now[0] - before[0], now[1] - before[1]);
      }
      this.dragged += Math.hypot(now[0] - before[0], now[1] - before[1]);
      this.pointers.set(e.pointerId, now);
    });
    const end = e => {
      const there = this.pointers.delete(e.pointerId);
      if (there && e.type === "pointerup" && this.dragged < 5) {
        const near = this.nearest(...place(e), e.pointerType === "mouse" ? 12 : 24);
        if (near >= 0) this.choose(near);
      }
    };
    box.addEventListener("pointerup", end);
    box.addEventListener("pointercancel", end);
    box.addEventListener("wheel", e => {
      if (document.activeElement !== box && !e.ctrlKey) return;
      e.preventDefault();
      this.zoom(Math.exp(-e.deltaY / 400), ...place(e));
    }, {passive: false});
    box.addEventListener("keydown", e => {
      const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
      if (e.ctrlKey || e.metaKey || e.altKey || !this.x.length) return;
      if (arrows[e.key]) this.step(...arrows[e.key]);
      else if (e.key === "+" || e.key === "=") this.zoom(1.5);
      else if (e.key === "-") this.zoom(1 / 1.5);
      else if (e.key === "0") this.all();
      else if (e.key === "Escape") this.choose(-1);
      else return;
      e.preventDefault();
    });
  }
}

Plane.shape = level => SHAPES[level] || DOT;
