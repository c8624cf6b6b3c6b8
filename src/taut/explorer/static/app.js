// The page of `taut explore`: it asks the server for plain values and shows them. Texts from data
// go into the page as text, never as markup.

import {Plane, colourOf, ramp} from "./map.js";

const $ = id => document.getElementById(id);
const state = {run: 0, runs: [], about: null, z: [], scores: null, fresh: {}};

// ------------------------------------------------------------------------------------ helpers

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter(c => c != null && c !== ""));
  return element;
}

function fill(id, ...children) {
  $(id).replaceChildren(...children.flat().filter(Boolean));
}

function banner(text, again) {
  const parts = text ? [h("p", {class: "note bad"}, text, " ")] : [];
  if (text && again) parts[0].append(h("button", {type: "button", onclick: again}, "Try again"));
  fill("banner", ...parts);
}

class Refused extends Error {}

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body),
  };
  for (let attempt = 0; ; attempt++) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      banner("The server does not answer: is taut explore still running?", () => location.reload());
      throw new Refused("");
    }
    if ((answer.status === 429 || answer.status === 503) && attempt < 8) {
      await new Promise(done => setTimeout(done, 400 * (attempt + 1)));
      continue;
    }
    const values = await answer.json().catch(() => ({error: "the answer cannot be read"}));
    banner("");
    if (!answer.ok) throw new Refused(values.error);
    return values;
  }
}

const here = path => `api/runs/${state.run}/${path}`;

// Runs a function of a view; what the server refuses stands where the answer would.
async function into(id, work) {
  const box = $(id), run = state.run;
  box.setAttribute("aria-busy", "true");
  try {
    const made = await work();
    if (run === state.run && made !== undefined) box.replaceChildren(...[made].flat().filter(Boolean));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.message && run === state.run) box.replaceChildren(h("p", {class: "note"}, error.message));
  } finally {
    box.removeAttribute("aria-busy");
  }
}

// Of many calls in a short time the last one counts, and one is under way at a time; what was asked
// of a run that is no longer shown is dropped.
function lastOf(work) {
  let busy = false, next = null;
  return async function call(...given) {
    next = {run: state.run, given};
    if (busy) return;
    busy = true;
    while (next) {
      const now = next;
      next = null;
      const asked = now.run === state.run && state.about;
      try { if (asked) await work(...now.given); } finally { if (!next) busy = false; }
    }
  };
}

function later(work, wait) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), wait); };
}

// A long name of a column may break after an underscore.
function broken(name) {
  if (typeof name !== "string") return name;
  return name.split("_").flatMap((part, i) => i ? ["_", document.createElement("wbr"), part] : [part]);
}

function table(label, header, rows, first = true) {
  const cell = (value, i) => i === 0 && first ? h("th", {scope: "row"}, broken(value)) : h("td", {}, value);
  return h("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": label},
    h("table", {}, h("caption", {}, label),
      h("thead", {}, h("tr", {}, header.map(name => h("th", {scope: "col"},
        name || h("span", {class: "visually-hidden"}, "drawn"))))),
      h("tbody", {}, rows.map(row => h("tr", {}, row.map(cell))))));
}

const picture = (src, alt, large) => h("img", {src, alt, class: large ? "pixels large" : "pixels"});
const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

// A bar from the middle, for a change in standard deviations.
function bar(change, most) {
  const box = h("span", {class: change < 0 ? "bar less" : "bar", "aria-hidden": "true"}, h("i", {}));
  box.firstChild.style.width = `${Math.min(50, 50 * Math.abs(change) / (most || 1))}%`;
  return box;
}

// --------------------------------------------------------------------------------------- runs

async function start() {
  const {runs} = await ask("api/runs");
  state.runs = runs;
  $("run").replaceChildren(...runs.map((run, i) => h("option", {value: i}, run.name)));
  $("run").disabled = runs.length < 2;
  $("with-compare").hidden = runs.length < 2;
  $("run").addEventListener("change", () => enter(Number($("run").value)));
  addEventListener("hashchange", () => turn(true));
  listenMap();
  listenDecode();
  listenSamples();
  $("start-compare").addEventListener("click", showComparison);
  await enter(0);
}

async function enter(run) {
  Object.assign(state, {run, about: null, scores: null, fresh: {}, z: [], given: undefined, colour: null});
  plane.colour = null;
  plane.show([], []);
  const info = state.runs[run];
  $("what").textContent = info.data + (info.finished ? "" : " · in training");
  try {
    state.about = await ask(here("about"));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.message) banner(`${info.name}: ${error.message}`);
    state.about = {finished: false, broken: true};
  }
  const about = state.about;
  if (about.finished) {
    const of = about.of > about.rows ? `${count(about.rows, about.each)} of ${about.of.toLocaleString("en")}`
      : count(about.rows, about.each);
    $("what").textContent = `${info.data} · ${of}, ${about.part}`;
  }
  for (const name of ["overview", "map", "decode", "samples"])
    document.querySelector(`#views a[href="#${name}"]`).parentElement.hidden = !about.finished;
  fill("point", h("p", {class: "soft"}, "No row is chosen yet."));
  turn();
}

const VIEWS = {overview: showOverview, map: showMap, decode: showDecode, samples: showSamples,
  compare: () => {}, training: showTraining};

function turn(moved) {
  let name = location.hash.slice(1);
  const link = document.querySelector(`#views a[href="#${CSS.escape(name)}"]`);
  if (!VIEWS[name] || !link || link.parentElement.hidden)
    name = state.about?.finished ? "overview" : "training";
  for (const each of Object.keys(VIEWS)) {
    $(each).hidden = each !== name;
    const own = document.querySelector(`#views a[href="#${each}"]`);
    if (each === name) own.setAttribute("aria-current", "page");
    else own.removeAttribute("aria-current");
  }
  document.title = `${$("h-" + name).textContent} · ${state.runs[state.run].name} · taut`;
  if (moved) $("main").focus({preventScroll: true});
  if (!state.fresh[name]) {
    state.fresh[name] = true;
    VIEWS[name]();
  }
}

// ----------------------------------------------------------------------------------- overview

function showOverview() {
  into("numbers", async () => {
    const found = await ask(here("overview"));
    const facts = Object.entries(found.facts).flatMap(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]);
    const findings = found.findings.map(f => h("li", {},
      h("h4", {}, f.name, h("span", {class: "worth"}, f.worth)),
      h("p", {}, f.what), h("p", {class: "soft"}, f.evidence), h("p", {}, f.action, ": ", h("code", {}, f.command))));
    return [
      h("dl", {}, facts),
      found.warnings.length ? h("div", {class: "note"}, "Before you rely on these numbers:",
        h("ul", {}, found.warnings.map(line => h("li", {}, line)))) : null,
      h("h3", {}, "What would make it better"),
      findings.length ? h("ol", {class: "findings"}, findings)
        : h("p", {class: "soft"}, found.audited ? "The audit found nothing that is worth changing."
          : "Not audited yet: taut audit says how loose the bound is, why, and what would help."),
      h("h3", {}, "Every number"),
      ...found.tables.map(t => {
        const shown = table(t.label, t.columns, t.lines.map(([title, depth, cells]) =>
          [h("span", {class: `deep${depth}`}, title), ...cells]));
        return t.lines.length > 20 ? h("details", {}, h("summary", {}, t.label), shown) : shown;
      }),
    ];
  });
}

// ---------------------------------------------------------------------------------------- map

let plane;

function listenMap() {
  plane = new Plane($("plane"), $("points"), {
    chosen: i => { tell(i); lookAt(i); },
    moved: view => {
      $("plane").dataset.zoom = view.zoom.toFixed(2);
    },
  });
  window.taut = {plane, state};
  $("by").addEventListener("change", () => {
    for (const axis of document.querySelectorAll(".axis")) axis.hidden = $("by").value !== "rates";
    showPlane();
  });
  for (const axis of ["axis-a", "axis-b"]) $(axis).addEventListener("change", showPlane);
  $("colour").addEventListener("change", showColour);
  $("zoom-in").addEventListener("click", () => plane.zoom(1.5));
  $("zoom-out").addEventListener("click", () => plane.zoom(1 / 1.5));
  $("zoom-all").addEventListener("click", () => plane.all());
  $("go").addEventListener("submit", event => {
    event.preventDefault();
    look($("go-to").valueAsNumber);
  });
  $("find-odd").addEventListener("click", findOdd);
  $("listed").addEventListener("toggle", () => { if ($("listed").open) showList(0); });
}

async function showMap() {
  const latent = state.about.latent, why = latent.why;
  refuseMap(why ? `No map: ${why}.` : "");
  for (const part of ["plane", "legend", "plane-help"]) $(part).hidden = Boolean(why);
  document.querySelector("#map .under").hidden = document.querySelector("#map .controls").hidden = Boolean(why);
  $("go-to").max = state.about.rows - 1;
  $("find-odd").hidden = !state.about.scores;
  $("listed").open = Boolean(why);
  if (why) return;
  const dims = latent.dims.map(d => h("option", {value: d.dim}, d.rate ? `${d.name}, ${d.rate}` : d.name));
  $("axis-a").replaceChildren(...dims);
  $("axis-b").replaceChildren(...dims.map(d => d.cloneNode(true)));
  $("axis-b").selectedIndex = dims.length > 1 ? 1 : 0;
  const names = state.about.colours.map(name => h("option", {value: name}, name));
  const odd = state.about.scores ? [h("option", {value: " log p"}, "log p(x)")] : [];
  $("colour").replaceChildren(h("option", {value: ""}, "nothing"), ...odd, ...names);
  if (state.about.colours.includes("label")) $("colour").value = "label";
  await showPlane();
  await showColour();
}

function refuseMap(why) {
  $("map-why").hidden = !why;
  $("map-why").textContent = why;
}

// The last choice shows: another does not wait for UMAP.
async function showPlane() {
  const by = $("by").value, run = state.run, turn = state.turn = (state.turn || 0) + 1;
  const last = () => turn === state.turn && run === state.run;
  if (by === "umap") refuseMap("UMAP places the rows: up to a minute the first time.");
  const dims = by === "rates" ? `&a=${$("axis-a").value}&b=${$("axis-b").value}` : "";
  try {
    const found = await ask(here(`map?by=${by}${dims}`));
    if (!last()) return;
    state.numbers = found.numbers;
    refuseMap("");
    plane.show(found.x, found.y);
    if (state.pending !== undefined) plane.choose(state.pending);
    state.pending = undefined;
    $("axis-x").textContent = `${found.axes[0]} →`;
    $("axis-y").textContent = `${found.axes[1]} →`;
    $("plane").setAttribute("aria-label", `Map of ${count(found.x.length, state.about.each)}: across `
      + `${found.axes[0]}, up ${found.axes[1]}`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (last()) refuseMap(error.message);
  }
}

const showColour = lastOf(async () => {
  const name = $("colour").value;
  try {
    if (name === " log p") await colourByScores();
    else if (name) paint(name, await ask(here(`colour?name=${encodeURIComponent(name)}`)));
    else paint("", null);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
});

function paint(name, found) {
  state.colour = found && {...found, name};
  if (found && !found.levels.length) {
    const known = found.values.filter(v => v !== null).sort((a, b) => a - b);
    const at = share => known[Math.round(share * (known.length - 1))];
    Object.assign(found, {low: at(0.01), high: at(0.99)});  // a single far row leaves colour to the rest
  }
  plane.paint(found);
  if (!found) return fill("legend");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const missing = found.values.includes(null) ? " · grey: not known" : "";
  if (found.levels.length) {
    fill("legend", h("span", {class: "soft"}, name), ...found.levels.map((level, i) => {
      const mark = h("canvas", {width: 11, height: 11, "aria-hidden": "true", "data-level": i});
      stampLegend(mark, i, dark);
      return h("span", {class: "key"}, mark, level);
    }), missing);
  } else {
    const colours = ramp(dark), strip = h("span", {class: "ramp", "aria-hidden": "true"});
    strip.style.background = `linear-gradient(to right, ${colours.join(",")})`;
    fill("legend", h("span", {class: "soft"}, name), found.ends[0], strip, found.ends[1], missing);
  }
}

function stampLegend(canvas, level, dark) {
  const c = canvas.getContext("2d");
  c.fillStyle = colourOf(level, dark);
  for (const [dx, dy] of Plane.shape(level)) c.fillRect(5 + 2 * dx - 1, 5 + 2 * dy - 1, 2, 2);
}

async function scoresUntil(done) {
  const run = state.run;
  do {
    state.scores = await ask(here("scores"));
    if (run !== state.run) return;
    if (done) done(state.scores);
  } while (state.scores.rows.length < state.scores.total);
}

const number = new Intl.NumberFormat("en", {maximumSignificantDigits: 4});

async function colourByScores() {
  await scoresUntil(scores => {
    if ($("colour").value !== " log p") return;
    const values = new Array(state.about.rows).fill(null);
    scores.rows.forEach((row, i) => { values[row] = scores.values[i]; });
    const known = scores.values.filter(v => v !== null);
    const ends = [number.format(Math.min(...known)), number.format(Math.max(...known))];
    paint(`log p(x), nats, of ${scores.rows.length} rows, ${scores.samples} samples each`,
      {values, levels: [], ends});
  });
}

async function findOdd() {
  await into("list", async () => {
    await scoresUntil(s => { $("told").textContent = `${s.rows.length} of ${s.total} rows`; });
    const of = new Map(state.scores.rows.map((row, i) => [row, state.scores.values[i]]));
    return listOf(`The least probable of ${count(state.scores.total, "row")}`, state.scores.odd,
      row => of.get(row) === null ? "no number" : `${number.format(of.get(row))} nats`, "log p(x)");
  });
}

function listOf(label, rows, told, title) {
  return table(label, ["row", title], rows.map(row => [
    h("button", {type: "button", class: "link", onclick: () => look(row)}, `row ${numberOf(row)}`),
    told(row)]));
}

function showList(first) {
  const size = 20, rows = [];
  for (let i = first; i < Math.min(first + size, state.about.rows); i++) rows.push(i);
  const turn = (to, word) => h("button", {type: "button", disabled: to < 0 || to >= state.about.rows,
    onclick: () => showList(to)}, word);
  const told = row => {
    const value = state.colour?.values[row];
    if (value == null) return "–";
    return state.colour.levels.length ? state.colour.levels[value] : number.format(value);
  };
  fill("list", listOf(`Rows ${first} to ${rows.at(-1)}`, rows, told, state.colour?.name || "colour"),
    h("p", {}, turn(first - size, "Before"), " ", turn(first + size, "After")));
}

const numberOf = i => state.numbers ? state.numbers[i] : i;

function colourWords(i) {
  const colour = state.colour, value = colour?.values[i];
  if (value == null) return "";
  const said = colour.levels.length ? colour.levels[value] : number.format(value);
  return `, ${colour.name.split(",")[0]} ${said}`;
}

const tell = later(i => {
  $("told").textContent = i < 0 ? "no row is chosen" : `row ${numberOf(i)}${colourWords(i)}`;
}, 150);

const lookAt = later(i => { if (i >= 0) showPoint(i); else fill("point", h("p", {class: "soft"}, "No row is chosen.")); }, 60);

function look(i) {
  if (!(i >= 0 && i < state.about.rows)) return;
  location.hash = "map";
  if (state.about.latent.why) { tell(i); lookAt(i); }
  else if (plane.x.length) plane.choose(i);
  else state.pending = i;  // until the map is there
}

const showPoint = lastOf(async (i, closer) => {
  await into("point", async () => {
    const row = await ask(here(`rows/${i}${closer ? "?closer=true" : ""}`));
    const title = row.name || `Row ${row.number}`;
    const parts = [h("h3", {}, title, row.label !== undefined ? h("span", {class: "soft"}, ` · label ${row.label}`) : null)];
    if (row.pictures) parts.push(h("div", {class: "pictures"}, row.pictures.map(p =>
      h("figure", {}, picture(p.src, `${title}: ${p.title}`, true), h("figcaption", {}, p.title)))));
    parts.push(h("dl", {class: "tight"}, facts(row)));
    const doubtful = row.entries?.some(e => e.log_p && !e.reliable) && row.closer;
    const unsure = row.log_evidence && (!row.reliable || doubtful);
    if (unsure && !closer) parts.push(h("p", {}, h("button", {type: "button", id: "closer",
      onclick: event => { event.target.disabled = true; showPoint(i, true); }}, "Look closer"),
      h("span", {class: "soft small"}, " what is unsure gets better samples, which takes seconds")));
    else if (unsure) parts.push(h("p", {class: "note"}, "What is unsure here stays so: few samples carry it."));
    if (row.entries) parts.push(...entries(row));
    if (row.rates?.length) parts.push(rates(row));
    if (row.z && !state.about.latent.line) parts.push(h("p", {}, h("button", {type: "button",
      onclick: () => { state.z = [...row.z]; state.given = row.row_given; location.hash = "decode"; moveAll(); }},
      "Put the sliders here")));
    return parts;
  });
});

function facts(row) {
  const pairs = [];
  if (row.no_density) pairs.push(["log p(x)", "none: a generator has no density"]);
  if (row.log_evidence) pairs.push(["log p(x)", `${row.log_evidence} nats${row.reliable ? "" : " (unsure)"}, by ${row.method}`]);
  if (row.elbo) pairs.push(["ELBO", `${row.elbo} nats`]);
  if (row.rank) pairs.push(["among others", row.rank]);
  if (row.rate) pairs.push(["rate", `${row.rate} nats`]);
  for (const given of row.row_given || []) pairs.push([`given ${given.name}`, given.value ?? "missing"]);
  return pairs.flatMap(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]);
}

function entries(row) {
  const judged = row.entries.some(e => e.log_p), gone = row.entries.some(e => e.filled);
  const header = ["entry", "value", ...(gone ? ["filled in"] : []), "reconstructed",
    ...(judged ? ["log p given the others"] : [])];
  const lines = row.entries.map(e => [e.name, e.value, ...(gone ? [e.filled] : []), e.mean,
    ...(judged ? [e.log_p + (e.reliable ? "" : " (unsure)")] : [])]);
  const first = 15, label = judged ? "Its entries, the oddest first" : "Its entries";
  const parts = [table(label, header, lines.slice(0, first))];
  if (lines.length > first) parts.push(h("details", {},
    h("summary", {}, row.hidden ? `More of them; ${row.hidden} are not shown` : "The others"),
    table("Its other entries", header, lines.slice(first))));
  return parts;
}

function rates(row) {
  const most = Math.max(...row.rates.map(r => r.nats));
  const rest = row.rates_hidden ? `; ${row.rates_hidden} others say less` : "";
  return table(`What each dimension says of it${rest}`, ["dimension", "rate, nats", "", "mean of z"], row.rates.map(r => {
    const box = h("span", {class: "bar whole", "aria-hidden": "true"}, h("i", {}));
    box.firstChild.style.width = `${100 * Math.max(0, r.nats) / (most || 1)}%`;
    return [r.name, r.rate, box, r.mean];
  }));
}

// ------------------------------------------------------------------------------------- decode

function givenFields(id, changed) {
  const values = Object.fromEntries((state.given || []).map(g => [g.name, g.value]));
  fill(id, ...state.about.given.map(g => {
    const value = values[g.name] ?? g.value;
    const field = g.levels.length
      ? h("select", {name: g.name}, g.levels.map(l => h("option", {value: l, selected: l === value}, l)))
      : h("input", {name: g.name, value, maxlength: 100});
    field.addEventListener("change", changed);
    return h("label", {}, `given ${g.name} `, field);
  }));
}

const givenOf = id => Object.fromEntries(
  [...$(id).querySelectorAll("[name]")].map(field => [field.name, field.value]));

function listenDecode() {
  $("sliders").addEventListener("submit", event => event.preventDefault());
  $("draw").addEventListener("change", decode);
  $("to-mean").addEventListener("click", () => { state.z = [...state.about.latent.start]; moveAll(); });
  $("to-random").addEventListener("click", async () => {
    const place = Math.floor(Math.random() * state.about.rows);
    const row = await ask(here(`rows/${place}`));
    state.z = [...row.z];
    moveAll();
  });
  $("nearest").addEventListener("click", () => look(state.nearest));
  $("traverse-dim").addEventListener("change", showTraversals);
}

function showDecode() {
  const latent = state.about.latent, why = latent.why || latent.line;
  $("decode-why").hidden = !why;
  $("decode-why").textContent = why ? `No sliders: ${why}.` : "";
  $("decode-all").hidden = $("traverse").hidden = Boolean(why);
  if (why) return;
  if (!state.z.length) state.z = [...latent.start];
  givenFields("decode-given", decode);
  const made = latent.dims.map(slider);
  $("dims").replaceChildren(...made.slice(0, latent.first));
  $("more-dims").replaceChildren(...made.slice(latent.first));
  $("others").hidden = made.length <= latent.first;
  $("traverse-dim").replaceChildren(h("option", {value: ""}, "the most telling ones"),
    ...latent.dims.map(d => h("option", {value: d.dim}, d.rate ? `${d.name}, ${d.rate}` : d.name)));
  moveAll();
  showTraversals();
}

function slider(d) {
  const span = d.high - d.low || 1, step = Number((span / 200).toPrecision(1));
  const id = `z${d.dim}`, shared = {min: d.low, max: d.high, step: "any"};
  const range = h("input", {type: "range", id, ...shared, "data-dim": d.dim, "aria-describedby": `${id}-rate`});
  const box = h("input", {type: "number", step, "aria-label": `${d.name}, exactly`, "data-dim": d.dim});
  const move = value => {
    if (!Number.isFinite(value) || Math.abs(value) > 1e6) return;
    state.z[d.dim] = value;
    place(range, box, value);
    decode();
  };
  range.addEventListener("input", () => move(range.valueAsNumber));
  range.addEventListener("keydown", event => {  // an arrow is a hundredth of the way
    const way = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10}[event.key];
    if (!way) return;
    event.preventDefault();
    move(Math.min(d.high, Math.max(d.low, Number((state.z[d.dim] + way * span / 100).toPrecision(6)))));
  });
  box.addEventListener("change", () => move(box.valueAsNumber));
  return h("div", {class: "slider"}, h("label", {for: id}, d.name), range, box,
    h("span", {class: "soft small", id: `${id}-rate`}, d.rate));
}

function place(range, box, value) {
  range.value = value;
  range.setAttribute("aria-valuetext", value.toFixed(2));
  box.value = Number(value.toPrecision(3));
}

function moveAll() {
  for (const range of document.querySelectorAll("#sliders input[type=range]")) {
    place(range, range.nextElementSibling, state.z[range.dataset.dim]);
  }
  if (document.querySelector("#sliders input[type=range]")) decode();
}

const decode = lastOf(async () => {
  const began = performance.now();
  await into("decoded", async () => {
    const asked = {z: state.z, draw: $("draw").checked, given: givenOf("decode-given")};
    const found = await ask(here("decode"), asked);
    state.nearest = found.support.nearest;
    state.decoded = found;
    sayS(`Row ${numberOf(state.nearest)} lies nearest; ${found.support.closer} of the rows have a nearer neighbour.`
      + (found.support.far ? " No row is near: the decoder was not trained here." : ""));
    $("nearest").hidden = false;
    if (found.picture) return picture(found.picture, "what z decodes to", true);
    const most = Math.max(1, ...found.entries.map(e => Math.abs(e.change)));
    const more = found.hidden ? `, ${found.hidden} more hardly move` : "";
    return table(`In the user's units; bars: change from the mean of the rows, in standard deviations${more}`,
      ["entry", "value", "change", ""], found.entries.map(e =>
        [e.name, e.value, e.change.toFixed(2), bar(e.change, most)]));
  });
  state.decodeTime = performance.now() - began;
});

const sayS = later(text => { $("support").textContent = text; }, 200);

function showTraversals() {
  into("strips", async () => {
    const dim = $("traverse-dim").value;
    const {lines} = await ask(here(`traversals${dim ? `?dim=${dim}` : ""}`));
    return lines.map(line => line.picture
      ? h("figure", {}, h("figcaption", {}, line.title), picture(line.picture, `traversal of ${line.title}`))
      : moves(line));
  });
}

function moves(line) {
  const most = Math.max(1, ...line.moved.map(m => Math.abs(m.change)));
  return table(line.title, ["column", "change, sd", "", "from and to"], line.moved.map(m =>
    [m.name, m.change.toFixed(2), bar(m.change, most), m.words]));
}

// ------------------------------------------------------------------------------------ samples

function listenSamples() {
  $("sampling").addEventListener("submit", event => { event.preventDefault(); sample(); });
  $("others-please").addEventListener("click", () => {
    $("seed").value = $("seed").valueAsNumber + 1 || 0;
    sample();
  });
  $("leveling").addEventListener("submit", event => { event.preventDefault(); level(); });
  for (const id of ["kept", "of", "level-row"]) $(id).addEventListener("change", () => {
    $("with-row").hidden = $("of").value !== "row";
    level();
  });
}

function showSamples() {
  const about = state.about, groups = about.latent.groups || [];
  givenFields("sample-given", () => sample());
  $("with-mean").hidden = !about.mean;
  $("by-level").hidden = groups.length < 2;
  $("level-row").max = about.rows - 1;
  $("kept").replaceChildren(...groups.map((g, i) => h("option", {value: i + 1, selected: i === 0},
    groups.slice(0, i + 1).map(each => each.name).join(", "))));
  sample();
  if (groups.length > 1) level();
}

function many(found, label) {
  if (found.picture) return picture(found.picture, label);
  const more = found.hidden ? `, ${found.hidden} more columns not shown` : "";
  return table(label + more, found.header, found.table, false);
}

const sample = lastOf(() => into("sampled", async () => {
  if (!$("sampling").reportValidity()) return undefined;
  const asked = {count: $("count").valueAsNumber, seed: $("seed").valueAsNumber,
    mean: state.about.mean && $("mean").checked, given: givenOf("sample-given")};
  return many(await ask(here("samples"), asked), count(asked.count, "sample"));
}));

const level = lastOf(() => into("leveled", async () => {
  if (!$("leveling").reportValidity()) return undefined;
  const kept = $("kept").selectedOptions[0];
  if (!kept) return undefined;
  const label = `${kept.text} kept, the rest drawn again`;
  const asked = {kept: Number(kept.value), seed: $("level-seed").valueAsNumber, given: givenOf("sample-given")};
  if ($("of").value === "row") asked.row = $("level-row").valueAsNumber;
  return many(await ask(here("levels"), asked), label);
}));

// -------------------------------------------------------------------------------- comparison

function showComparison() {
  fill("compared", h("p", {class: "soft"}, "comparing, this may take a minute ..."));
  into("compared", async () => {
    const found = await ask("api/compare", {});
    return [...found.warnings.map(line => h("p", {class: "note"}, line)),
      table("Runs on the same held-out rows", found.header, found.lines),
      found.picture ? picture(found.picture, "real images, reconstructions and samples of each run") : null];
  });
}

// ----------------------------------------------------------------------------------- training

function showTraining() {
  const run = state.run;
  into("curve", async () => {
    const found = await ask(here("history"));
    const wasLive = !state.runs[run].finished;
    state.runs[run].finished = found.finished;
    if (!found.finished) setTimeout(() => { if (run === state.run) showTraining(); }, 1500);
    else if (wasLive) enter(run);
    const last = found.step.length - 1;
    if (last < 0) {
      $("progress").textContent = found.finished ? "No curve was kept." : "Training has begun.";
      return h("p", {class: "soft"}, "Nothing is measured yet.");
    }
    const told = v => v === null ? "–" : number.format(v);
    $("progress").textContent = `${found.finished ? "Done" : "Training"}: step ${found.step[last].toLocaleString("en")}, `
      + `held-out bound ${told(found.validation.findLast(v => v !== null) ?? null)} nats.`
      + (found.best === null ? "" : ` Weights of step ${found.best.toLocaleString("en")} are kept.`);
    const rows = found.step.map((s, i) => [String(s), told(found.bound[i]), told(found.validation[i])]);
    fill("curve-table", table("The last 50 measurements", ["step", "training, nats", "held out, nats"], rows.slice(-50)));
    return chart(found);
  });
}

const SVG = "http://www.w3.org/2000/svg";

function s(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function chart(found) {
  const w = 720, tall = 360, left = 70, right = 30, top = 14, under = 46;
  const known = [...found.bound, ...found.validation].filter(v => v !== null).sort((a, b) => a - b);
  let low = known[Math.floor(known.length * 0.03)], high = known.at(-1);  // the first steps lie far below
  if (!(low < high)) { low -= 1; high += 1; }
  const x0 = found.step[0], x1 = Math.max(found.step.at(-1), x0 + 1);
  const x = v => left + (v - x0) / (x1 - x0) * (w - left - right);
  const y = v => top + (high - Math.max(v, low)) / (high - low) * (tall - top - under);
  const line = (values, name) => s("polyline", {class: `line ${name}`, points: values
    .map((v, i) => v === null ? "" : `${x(found.step[i]).toFixed(1)},${y(v).toFixed(1)}`).filter(Boolean).join(" ")});
  const marks = ticks(low, high, 5).map(v => s("g", {},
    s("line", {class: "grid", x1: left, x2: w - right, y1: y(v), y2: y(v)}),
    s("text", {x: left - 8, y: y(v) + 4, "text-anchor": "end"}, number.format(v))));
  const feet = ticks(x0, x1, 6).map(v =>
    s("text", {x: x(v), y: tall - 26, "text-anchor": "middle"}, v.toLocaleString("en")));
  const kept = found.best === null ? [] : [
    s("line", {class: "kept", x1: x(found.best), x2: x(found.best), y1: top, y2: tall - under})];
  const words = `The bound in training, from step ${x0} to ${x1}: training ${number.format(found.bound.at(-1) ?? 0)}`
    + ` nats, held out ${number.format(found.validation.findLast(v => v !== null) ?? 0)} nats at the end`;
  return h("figure", {class: "chart"},
    s("svg", {viewBox: `0 0 ${w} ${tall}`, role: "img", "aria-label": words}, ...marks, ...feet, ...kept,
      line(found.bound, "train"), line(found.validation, "held"),
      s("text", {x: (left + w - right) / 2, y: tall - 6, "text-anchor": "middle"}, "step"),
      s("text", {x: 14, y: (top + tall - under) / 2, "text-anchor": "middle",
        transform: `rotate(-90 14 ${(top + tall - under) / 2})`}, "nats a row")),
    h("figcaption", {}, h("span", {class: "key"}, h("i", {class: "swatch train"}), "training"),
      h("span", {class: "key"}, h("i", {class: "swatch held"}), "held out"),
      found.best === null ? null : h("span", {class: "key"}, h("i", {class: "swatch kept"}), "kept weights")));
}

function ticks(low, high, most) {
  const rough = (high - low) / most, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * size).find(m => m >= rough), found = [];
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) found.push(Number(v.toPrecision(12)));
  return found;
}

start();
