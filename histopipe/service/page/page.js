import { rendered } from "./markdown.js";
import { SlideMap, called, shade } from "./slide.js";

const $ = name => document.getElementById(name);
const ARCHIVES = /\.(zip|tar|tgz|tar\.(gz|bz2|xz))$/i;
const SLIDES = /\.(svs|ndpi|scn|bif|svslide|czi)$/i;  // formats of several files can't be sent as one
const TIFF = /\.tiff?$/i;             // a patch, or a slide: the server knows once it has tried
const LONGEST_PATCH = 12 * 2 ** 20;  // bytes; a larger picture is taken for a slide
const TOGETHER = 16;                 // patches of one request
const MOST_COUNTED = 60;             // cases whose counts follow the slider
const TRIES = 6;
const ASKED_AGAIN = 20;              // times, of a job, before the server is taken for gone
const KEY = "histopipe-token";

let about = null;
let job = null;
let unsized = null;                  // a slide that waits for its pixel size
const counts = { patches: 0, positive: 0 };

class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || `the server answered ${status}`);
    this.status = status;
    this.errors = problem.errors || [];
  }
}

// ---- asking the server ----------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  for (let tried = 1; ; tried++) {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new Refused(0, { detail: "The server doesn't answer. Is it still running?" });
    }
    if (answer.ok) return answer;
    if (answer.status === 429 && tried < TRIES) {
      await pause(1000 * Number(answer.headers.get("Retry-After") || 1));
      continue;
    }
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 401) askForToken(Boolean(token));
    throw new Refused(answer.status, problem);
  }
}

// Of a job: a server that can't be reached for a moment, or fails, still has it.
async function askAgain(path) {
  for (let tried = 1; ; tried++) {
    try {
      return await (await ask(path)).json();
    } catch (problem) {
      const passing = problem.status === 0 || problem.status === 429 || problem.status >= 500 || !(problem instanceof Refused);
      if (!passing || tried >= ASKED_AGAIN) throw problem;
      await pause(Math.min(300 * tried, 3000));
    }
  }
}

const pause = milliseconds => new Promise(done => setTimeout(done, milliseconds));

function askForToken(wrong) {
  $("token-form").hidden = false;
  if (wrong) show(new Refused(401, { detail: "The server doesn't accept this token." }));
  $("token").focus();
}

$("token-form").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
  clearProblem();
  start();
});

// ---- saying what happens --------------------------------------------------------------------------------------------

const say = text => { $("status").textContent = text; };
const clearProblem = () => $("problem").replaceChildren();

function show(problem) {
  const box = element("div", "problem");
  box.append(element("strong", "", problem instanceof Refused ? sentence(problem.message) : String(problem)));
  if (problem.errors?.length) {
    const list = element("ul");
    for (const one of problem.errors.slice(0, 20)) list.append(element("li", "", `${one.name}: ${one.reason}`));
    if (problem.errors.length > 20) list.append(element("li", "", `and ${problem.errors.length - 20} more`));
    box.append(list);
  }
  $("problem").append(box);
}

const sentence = text => text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
const number = value => value.toLocaleString("en");
const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}\u00a0%`;

function element(name, kind = "", text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  return made;
}

// ---- the model ------------------------------------------------------------------------------------------------------

async function start() {
  try {
    about = await (await ask("v1/model")).json();
  } catch (problem) {
    $("model").textContent = "";
    if (problem.status !== 401) show(problem);
    return;
  }
  $("model").textContent = `${about.model.name}, version ${about.model.version}`;
  for (const place of document.querySelectorAll(".positive-class")) place.textContent = about.positive_class;
  $("locked").textContent = about.threshold.toFixed(3);
  const [height, width] = about.patch_size;
  const facts = {
    "data set": about.data_set, finds: `${about.positive_class}, rather than ${about.negative_class}`,
    threshold: about.threshold.toFixed(4), "patch, pixels": `${width} × ${height}`, precision: about.precision,
    loaded: new Date(1000 * about.loaded).toLocaleString(),
  };
  $("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const one = element("div");
    one.append(element("dt", "", name), element("dd", "", value));
    return one;
  }));
  $("card").replaceChildren(rendered(about.card));
  await offerExamples();
}

async function offerExamples() {
  const found = await (await ask("v1/examples")).json().catch(() => []);
  if (!found.length) return;
  const buttons = found.map((example, i) => {
    const button = element("button");
    const image = element("img");
    image.src = `data:image/png;base64,${example.image}`;
    image.alt = "";
    button.type = "button";
    button.append(image, element("span", "", `${example.drawn_as} ${Math.floor(i % (found.length / 2)) + 1}`));
    button.setAttribute("aria-label", `Grade a patch drawn as ${example.drawn_as}, ${i + 1} of ${found.length}`);
    button.addEventListener("click", () => take([asFile(example)]));
    return button;
  });
  if (about.data_set === "idc") buttons.push(caseButton());
  $("example-list").replaceChildren(...buttons);
  $("examples").hidden = false;
}

function caseButton() {
  const button = element("button");
  button.type = "button";
  button.append(element("span", "grid"), element("span", "", "a whole case"));
  button.setAttribute("aria-label", "Grade a drawn case and see its map");
  button.addEventListener("click", async () => {
    clearProblem();
    say("Drawing a case …");
    try {
      const drawn = await (await ask("v1/examples/case")).blob();
      await take([new File([drawn], "drawn-case.zip")]);
    } catch (problem) { show(problem); }
  });
  return button;
}

function asFile(example) {
  const bytes = Uint8Array.from(atob(example.image), letter => letter.charCodeAt(0));
  return new File([bytes], example.name, { type: "image/png" });
}

// ---- taking files ---------------------------------------------------------------------------------------------------

const isSlide = file => ARCHIVES.test(file.name) || SLIDES.test(file.name) || file.size > LONGEST_PATCH;

async function take(files) {
  clearProblem();
  keepUnsized(null);
  if (!about) { askForToken(false); return; }
  const slides = files.filter(isSlide), patches = files.filter(file => !isSlide(file));
  if (patches.length) slides.push(...await gradePatches(patches));
  if (slides.length > 1) show("One case or slide at a time: the first was taken.");
  if (slides.length) await gradeSlide(slides[0]);
}

$("files").addEventListener("change", event => { take([...event.target.files]); event.target.value = ""; });
const drop = $("drop");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, event => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => drop.classList.remove("over"));
document.addEventListener("drop", event => { event.preventDefault(); take([...event.dataTransfer.files]); });

// ---- patches --------------------------------------------------------------------------------------------------------

// Gives back what the server doesn't take for patches and may be slides.
async function gradePatches(files) {
  const larger = [];
  $("results").hidden = false;
  for (let at = 0; at < files.length; at += TOGETHER) {
    say(files.length > 1 ? `Grading ${at + 1} of ${files.length} …` : "Grading …");
    await gradeTogether(files.slice(at, at + TOGETHER), larger);
  }
  const done = counts.patches ? `${summed()}.` : "Nothing could be graded.";
  if (counts.patches || !larger.length) say(done);
  $("results-sum").textContent = counts.patches ? done : "";
  $("results").hidden = !counts.patches;
  return larger;
}

const summed = () => `${number(counts.patches)} ${counts.patches === 1 ? "patch" : "patches"} graded, ` +
  `${number(counts.positive)} called ${about.positive_class}`;

async function gradeTogether(files, larger) {
  const form = new FormData();
  files.forEach((file, i) => form.append("images", file, `${i}/${file.name}`));
  try {
    const answer = await (await ask("v1/predict", { method: "POST", body: form })).json();
    answer.predictions.forEach((grade, i) => addPatch(files[i], grade, answer));
  } catch (problem) {
    const refused = problem.status === 422 || problem.status === 413;
    if (refused && files.length > 1) {  // one by one: a bad one must not take the others with it
      for (const file of files) await gradeTogether([file], larger);
      return;
    }
    if (refused && TIFF.test(files[0].name)) { larger.push(files[0]); return; }
    show(problem);
  }
}

function addPatch(file, grade, answer) {
  counts.patches += 1;
  counts.positive += grade.decision;
  const item = element("li"), pictures = element("div", "pictures"), image = element("img");
  image.src = URL.createObjectURL(file);
  image.alt = `patch ${file.name}`;
  image.addEventListener("error", () => image.replaceWith(element("span", "blank", "can't be shown here")));
  pictures.append(image);
  item.append(pictures, verdict(file, grade, answer), whyButton(file, grade, item, pictures));
  $("patches").prepend(item);
}

function verdict(file, grade, answer) {
  const part = element("div", "verdict"), label = element("p", "label"), bar = element("div", "bar");
  const name = element("p", "file", file.name);
  name.title = file.name;
  label.append(element("span", `mark${grade.decision ? " positive" : ""}`), grade.label,
    element("span", "number", ` · ${grade.probability.toFixed(3)}`));
  label.setAttribute("aria-label", `${grade.label}, probability of ${answer.positive_class} ${grade.probability.toFixed(3)}`);
  bar.setAttribute("aria-hidden", "true");
  const fill = element("i"), mark = element("b");
  fill.style.width = percentOf(grade.probability);
  mark.style.left = percentOf(answer.threshold);
  bar.append(fill, mark);
  part.append(name, label, bar, element("p", "quiet small", `probability of ${answer.positive_class}; ` +
    `threshold ${answer.threshold.toFixed(3)}`));
  return part;
}

const percentOf = value => `${(100 * value).toFixed(2)}%`;

function whyButton(file, grade, item, pictures) {
  const button = element("button", "", "Why?");
  button.type = "button";
  button.setAttribute("aria-label", `Why ${grade.label}? Explain ${file.name}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    clearProblem();
    try {
      const form = new FormData();
      form.append("image", file);
      const found = await (await ask("v1/explain", { method: "POST", body: form })).json();
      const overlay = element("img");
      overlay.src = `data:image/png;base64,${found.overlay}`;
      overlay.alt = `evidence in ${file.name}: orange for ${about.positive_class}, purple against`;
      pictures.append(overlay);
      item.append(element("p", "why", `Orange speaks for ${about.positive_class}, purple against it; the strongest colour is ` +
        "this patch's own strongest evidence."));
      button.remove();
      say(`Explained ${file.name}.`);
    } catch (problem) { button.disabled = false; show(problem); }
  });
  return button;
}

$("clear").addEventListener("click", () => {
  for (const image of $("patches").querySelectorAll("img[src^='blob:']")) URL.revokeObjectURL(image.src);
  $("patches").replaceChildren();
  counts.patches = counts.positive = 0;
  $("results").hidden = true;
  say("");
  $("files").focus();
});

// ---- pixel sizes ----------------------------------------------------------------------------------------------------

const sizeFields = [...$("sizes").querySelectorAll("input")];
const filledIn = () => sizeFields.filter(field => field.value);

function keepUnsized(file) {
  unsized = file;
  $("again").hidden = !file;
  $("again").textContent = file ? `Grade ${file.name} again` : "";
}

// Whether there is a field to mend: then the slide waits until that is done.
function askForSize(file, field, remedy) {
  if (!field) return false;
  field.parentElement.hidden = false;
  keepUnsized(file);
  show(new Refused(422, { detail: `${remedy} “${labelOf(field)}” and grade it again` }));
  field.focus();
  return true;
}

const labelOf = field => field.labels[0].textContent;
const askForCorrection = file => askForSize(file, sizeFields.find(field => !field.checkValidity()),
  `No pixel has such a size, so ${file.name} wasn't sent: correct`);
const askForMissing = (file, error) => askForSize(file, sizeFields.find(field => error.includes(`the parameter \`${field.name}\``)),
  `Nothing tells how to cut ${file.name} into patches: fill in`);

$("sizes").addEventListener("submit", event => {
  event.preventDefault();
  if (unsized) take([unsized]);
});

// ---- a case or slide ------------------------------------------------------------------------------------------------

const map = new SlideMap($("canvas"), readOut);

function readOut(patch) {
  if (patch < 0) { $("readout").textContent = "Point at a patch to read its probability."; return; }
  const { x, y, probability } = map.patches;
  $("readout").textContent = `x ${x[patch]}, y ${y[patch]}: ${probability[patch].toFixed(3)}, ` +
    `${probability[patch] >= threshold() ? about.positive_class : about.negative_class}`;
}

// The slider has steps: at the one nearest to the model's own threshold that very one is meant.
const atOwn = () => Math.abs(Number($("threshold").value) - Math.round(1000 * job.result.threshold) / 1000) < 1e-6;
const threshold = () => atOwn() ? job.result.threshold : Number($("threshold").value);

async function gradeSlide(file) {
  if (!ARCHIVES.test(file.name) && askForCorrection(file)) return;
  await forget();
  const sizes = ARCHIVES.test(file.name) ? [] : filledIn();
  const mine = job = { file, stop: new AbortController(), patches: new Map() };
  $("said-sizes").textContent = sizes.map(field => `${labelOf(field)}: ${field.value}, as you filled it in.`).join(" ");
  $("said-sizes").hidden = !sizes.length;
  $("slide").hidden = $("running").hidden = false;
  $("graded").hidden = true;
  $("slide-title").textContent = file.name;
  $("cancel").textContent = "Cancel";
  progress(`Sending ${file.name}`, null);
  try {
    const form = new FormData();
    form.append("file", file);
    for (const field of sizes) form.append(field.name, field.value);
    let state = await (await ask("v1/slides", { method: "POST", body: form, signal: mine.stop.signal })).json();
    mine.id = state.id;
    while (!["done", "failed", "cancelled"].includes(state.state)) {
      await pause(400);
      if (mine !== job) return;
      state = await askAgain(`v1/slides/${mine.id}`);
      if (mine !== job) return;
      progress(...told(state));
    }
    if (mine !== job) return;
    if (state.state !== "done") {
      await forget();
      say("");
      const error = state.error || `it was ${state.state}`;
      if (!askForMissing(file, error)) show(new Refused(422, { detail: error }));
      return;
    }
    $("cancel").textContent = "Delete";
    await showSlide(mine);
  } catch (problem) {
    if (mine !== job) return;
    if (!mine.id) await forget();  // nothing was taken; else the server may well have it, or a result: that stays
    show(problem);
  }
}

function told(state) {
  if (state.state === "waiting") return ["Waiting for its turn", null];
  if (!state.done) return ["Starting", null];
  const share = state.total ? state.done / state.total : null;
  return [`${number(state.done)} ${state.total ? `of ${number(state.total)} ` : ""}patches graded`, share];
}

function progress(text, share) {
  if ($("progress-label").textContent !== text) { $("progress-label").textContent = text; say(text); }
  if (share === null) $("progress").removeAttribute("value"); else $("progress").value = share;
}

async function showSlide(mine) {
  mine.result = await askAgain(`v1/slides/${mine.id}/result`);
  const cases = mine.result.cases;
  for (const one of cases.slice(0, MOST_COUNTED)) await patchesOf(mine, one.case_id);
  if (mine !== job) return;
  $("case").replaceChildren(...cases.map(one => new Option(`${one.case_id} (${number(one.patches)})`, one.case_id)));
  $("threshold").value = mine.result.threshold;
  $("running").hidden = true;
  $("graded").hidden = false;
  $("aside").replaceChildren(...Object.entries(mine.result.summary.set_aside || {}).map(([reason, one]) =>
    element("p", "", `Set aside, ${reason}: ${number(one.count)} (${one.files.slice(0, 3).join(", ")}${one.count > 3 ? ", …" : ""})`)));
  await showCase();
  if (mine !== job) return;
  say(`${mine.file.name} is graded: ${number(mine.result.summary.patches)} patches of ${number(cases.length)} ` +
    `${cases.length === 1 ? "case" : "cases"}.`);
  $("slide").scrollIntoView({ block: "start" });
}

// Nothing of a case with more patches than the server sends to a browser.
async function patchesOf(mine, name) {
  if (!mine.patches.has(name)) {
    const path = `v1/slides/${mine.id}/patches?case=${encodeURIComponent(name)}`;
    mine.patches.set(name, await askAgain(path).catch(problem => {
      if (problem.status !== 413) throw problem;
      return null;
    }));
  }
  return mine.patches.get(name);
}

async function showCase() {
  const name = $("case").value, mine = job;
  try {
    const patches = await patchesOf(mine, name), { map: drawn, tissue } = mine.result.cases.find(one => one.case_id === name);
    if (mine !== job || name !== $("case").value) return;
    const placed = patches !== null && map.show(patches);
    $("canvas").hidden = $("readout").hidden = !placed;
    $("no-map").hidden = placed || patches === null;
    $("map-file").disabled = !drawn;
    $("tissue-part").hidden = !(placed && tissue);
    await showPicture(mine, name, patches === null && drawn);
    if (mine !== job || name !== $("case").value) return;
    recolour();
    if (placed && tissue) await layTissue(mine, name);
  } catch (problem) { if (mine === job) show(problem); }
}

// The server's own map, where the page can't draw one.
async function showPicture(mine, name, wanted) {
  const image = $("picture");
  URL.revokeObjectURL(image.src);
  image.removeAttribute("src");
  $("many").hidden = !wanted;
  if (!wanted) return;
  image.src = URL.createObjectURL(await (await ask(`v1/slides/${mine.id}/map?case=${encodeURIComponent(name)}`)).blob());
  image.alt = `Map of case ${name}: probability and decision of its patches.`;
}

async function layTissue(mine, name) {
  const answer = await ask(`v1/slides/${mine.id}/tissue?case=${encodeURIComponent(name)}`);
  const tissue = await createImageBitmap(await answer.blob());
  if (mine !== job || name !== $("case").value) return;
  map.lay(tissue);
  recolour();
}

function recolour() {
  const at = threshold(), shown = document.querySelector("[name=shown]:checked").value, name = $("case").value;
  const patches = job.patches.get(name), one = job.result.cases.find(one => one.case_id === name);
  if (patches) { map.colour(at, shown, $("tissue").checked); readOut(map.chosen); }
  $("threshold").disabled = !patches;
  $("threshold-value").textContent = at.toFixed(3);
  $("reset").disabled = atOwn();
  const positive = positives(one, at), all = one.patches;
  const sum = positive === null ? `Case ${name}: ${number(all)} patches, too many to be counted here at ${at.toFixed(3)}.` :
    `Case ${name}: ${number(positive)} of ${number(all)} patches (${percent(positive / all)}) called ` +
    `${about.positive_class} at ${at.toFixed(3)}${atOwn() ? "" : ", not the model's own threshold"}.`;
  $("case-sum").textContent = sum;
  $("canvas").setAttribute("aria-label", `Map. ${sum}`);
  showKey(shown);
  $("cases").replaceChildren(...job.result.cases.map(one => caseRow(one, at, name)));
}

// How many of a case's patches are called positive; nothing where the page doesn't have them.
function positives(one, at) {
  const known = job.patches.get(one.case_id);
  return known ? called(known, at) : atOwn() ? one.positive : null;
}

function caseRow(one, at, chosen) {
  const row = element("tr", one.case_id === chosen ? "chosen" : ""), head = element("th", "", one.case_id);
  head.scope = "row";
  const positive = positives(one, at);
  const cells = [number(one.patches), positive === null ? "–" : number(positive),
    positive === null ? "–" : percent(positive / one.patches), one.mean_probability.toFixed(3)];
  row.append(head, ...cells.map(cell => element("td", "number", cell)));
  return row;
}

function showKey(shown) {
  const over = $("tissue").checked && !$("tissue-part").hidden, drawn = `${shown} ${over}`;
  if ($("key").dataset.drawn === drawn) return;
  $("key").dataset.drawn = drawn;
  if (shown === "decision") {
    const negative = over ? ["--ground", `${about.negative_class}, left as it is`] : ["--negative", about.negative_class];
    $("key").replaceChildren(...[["--positive", about.positive_class], negative].map(([colour, name]) => {
      const part = element("span"), box = element("i");
      box.style.background = `var(${colour})`;
      part.append(box, name);
      return part;
    }));
    return;
  }
  const ramp = element("canvas"), pen = ramp.getContext("2d");
  ramp.width = 100;
  ramp.height = 1;
  for (let i = 0; i < 100; i++) { pen.fillStyle = shade(i / 99); pen.fillRect(i, 0, 1, 1); }
  const part = element("span");
  part.append("0", ramp, "1");
  $("key").replaceChildren(part);
}

async function forget() {
  const old = job;
  job = null;
  map.lay(null);
  $("slide").hidden = true;
  if (!old) return;
  old.stop.abort();
  if (old.id) await ask(`v1/slides/${old.id}`, { method: "DELETE" }).catch(() => {});
}

$("cancel").addEventListener("click", async () => {
  const done = Boolean(job?.result);
  await forget();
  say(done ? "The result is deleted." : "Cancelled.");
  $("files").focus();
});
$("case").addEventListener("change", showCase);
$("threshold").addEventListener("input", recolour);
$("reset").addEventListener("click", () => { $("threshold").value = job.result.threshold; recolour(); $("threshold").focus(); });
for (const choice of [...document.querySelectorAll("[name=shown]"), $("tissue")]) choice.addEventListener("change", recolour);
for (const button of document.querySelectorAll("[data-file]")) {
  button.addEventListener("click", async () => {
    const path = button.dataset.file === "map" ? `map?case=${encodeURIComponent($("case").value)}` : button.dataset.file;
    try {
      const link = element("a");
      link.href = URL.createObjectURL(await (await ask(`v1/slides/${job.id}/${path}`)).blob());
      link.download = button.dataset.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    } catch (problem) { show(problem); }
  });
}

start();
