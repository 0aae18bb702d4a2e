import { renderMarkdown } from "./markdown.js";
import { SlideMap, countPositives, shade } from "./slide.js";

const $ = name => document.getElementById(name);
const ARCHIVES = /\.(zip|tar|tgz|tar\.(gz|bz2|xz))$/i;
const SLIDES = /\.(svs|ndpi|scn|bif|svslide|czi)$/i;  // formats of a single file; those of several files can't be sent
const TIFF = /\.tiff?$/i;             // a patch or a slide: only the service can tell
const LONGEST_PATCH = 12 * 2 ** 20;  // bytes; a larger image is sent as a slide
const BATCH = 16;                    // patches sent in one request
const MAX_COUNTED = 60;              // cases whose counts follow the slider
const MAX_TRIES = 6;
const MAX_JOB_TRIES = 20;            // before the service is considered gone while a job runs
const TOKEN_KEY = "histopipe-token";

let description = null;              // of the model in use
let job = null;
let unsized = null;                  // the slide that waits for its pixel size
const counts = { patches: 0, positive: 0 };

class RequestError extends Error {
  constructor(status, problem) {
    super(problem.detail || `the service answered with status ${status}`);
    this.status = status;
    this.errors = problem.errors || [];
  }
}

// ---- requests --------------------------------------------------------------------------------------------------------

async function send(path, options = {}) {
  for (let tried = 1; ; tried++) {
    const token = sessionStorage.getItem(TOKEN_KEY);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new RequestError(0, { detail: "The service doesn't answer. Is it still running?" });
    }
    if (answer.ok) return answer;
    if (answer.status === 429 && tried < MAX_TRIES) {
      await pause(1000 * Number(answer.headers.get("Retry-After") || 1));
      continue;
    }
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 401) requestToken(Boolean(token));
    throw new RequestError(answer.status, problem);
  }
}

// Repeats a request about a job: the service keeps the job while it can't be reached or fails for a moment.
async function sendUntilAnswered(path) {
  for (let tried = 1; ; tried++) {
    try {
      return await (await send(path)).json();
    } catch (problem) {
      const temporary = problem.status === 0 || problem.status === 429 || problem.status >= 500 ||
        !(problem instanceof RequestError);
      if (!temporary || tried >= MAX_JOB_TRIES) throw problem;
      await pause(Math.min(300 * tried, 3000));
    }
  }
}

const pause = milliseconds => new Promise(done => setTimeout(done, milliseconds));

function requestToken(wrong) {
  $("token-form").hidden = false;
  if (wrong) showProblem(new RequestError(401, { detail: "The service doesn't accept this token." }));
  $("token").focus();
}

$("token-form").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN_KEY, $("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
  clearProblem();
  start();
});

// ---- status and problems --------------------------------------------------------------------------------------------

const setStatus = text => { $("status").textContent = text; };
const clearProblem = () => $("problem").replaceChildren();

function showProblem(problem) {
  const box = element("div", "problem");
  box.append(element("strong", "", problem instanceof RequestError ? sentence(problem.message) : String(problem)));
  if (problem.errors?.length) {
    const list = element("ul");
    for (const error of problem.errors.slice(0, 20)) list.append(element("li", "", `${error.name}: ${error.reason}`));
    if (problem.errors.length > 20) list.append(element("li", "", `and ${problem.errors.length - 20} more`));
    box.append(list);
  }
  $("problem").append(box);
}

const sentence = text => text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
const number = value => value.toLocaleString("en");
const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}\u00a0%`;

function element(name, kind = "", text = "") {
  const node = document.createElement(name);
  if (kind) node.className = kind;
  if (text) node.textContent = text;
  return node;
}

// ---- the model ------------------------------------------------------------------------------------------------------

async function start() {
  try {
    description = await (await send("v1/model")).json();
  } catch (problem) {
    $("model").textContent = "";
    if (problem.status !== 401) showProblem(problem);
    return;
  }
  $("model").textContent = `${description.model.name}, version ${description.model.version}`;
  for (const label of document.querySelectorAll(".positive-class")) label.textContent = description.positive_class;
  $("locked").textContent = description.threshold.toFixed(3);
  const [height, width] = description.patch_size;
  const facts = {
    "data set": description.data_set, finds: `${description.positive_class}, rather than ${description.negative_class}`,
    threshold: description.threshold.toFixed(4), "patch, pixels": `${width} × ${height}`, precision: description.precision,
    loaded: new Date(1000 * description.loaded).toLocaleString(),
  };
  $("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const fact = element("div");
    fact.append(element("dt", "", name), element("dd", "", value));
    return fact;
  }));
  $("card").replaceChildren(renderMarkdown(description.card));
  await showExamples();
}

async function showExamples() {
  const examples = await (await send("v1/examples")).json().catch(() => []);
  if (!examples.length) return;
  const buttons = examples.map((example, i) => {
    const button = element("button");
    const image = element("img");
    image.src = `data:image/png;base64,${example.image}`;
    image.alt = "";
    button.type = "button";
    button.append(image, element("span", "", `${example.drawn_as} ${Math.floor(i % (examples.length / 2)) + 1}`));
    button.setAttribute("aria-label", `Predict a synthetic patch of ${example.drawn_as}, ${i + 1} of ${examples.length}`);
    button.addEventListener("click", () => predictFiles([asFile(example)]));
    return button;
  });
  if (description.data_set === "idc") buttons.push(caseButton());
  $("example-list").replaceChildren(...buttons);
  $("examples").hidden = false;
}

function caseButton() {
  const button = element("button");
  button.type = "button";
  button.append(element("span", "grid"), element("span", "", "a whole case"));
  button.setAttribute("aria-label", "Predict a synthetic case and show its map");
  button.addEventListener("click", async () => {
    clearProblem();
    setStatus("Drawing a synthetic case …");
    try {
      const archive = await (await send("v1/examples/case")).blob();
      await predictFiles([new File([archive], "drawn-case.zip")]);
    } catch (problem) { showProblem(problem); }
  });
  return button;
}

function asFile(example) {
  const bytes = Uint8Array.from(atob(example.image), letter => letter.charCodeAt(0));
  return new File([bytes], example.name, { type: "image/png" });
}

// ---- files ----------------------------------------------------------------------------------------------------------

const isSlide = file => ARCHIVES.test(file.name) || SLIDES.test(file.name) || file.size > LONGEST_PATCH;

async function predictFiles(files) {
  clearProblem();
  keepUnsized(null);
  if (!description) { requestToken(false); return; }
  const slides = files.filter(isSlide), patches = files.filter(file => !isSlide(file));
  if (patches.length) slides.push(...await predictPatches(patches));
  if (slides.length > 1) showProblem("Only one case or slide can be predicted at a time: this is the first.");
  if (slides.length) await predictSlide(slides[0]);
}

$("files").addEventListener("change", event => { predictFiles([...event.target.files]); event.target.value = ""; });
const drop = $("drop");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, event => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => drop.classList.remove("over"));
document.addEventListener("drop", event => { event.preventDefault(); predictFiles([...event.dataTransfer.files]); });

// ---- patches --------------------------------------------------------------------------------------------------------

// Returns the files that the service doesn't accept as patches and that may be slides.
async function predictPatches(files) {
  const larger = [];
  $("results").hidden = false;
  for (let at = 0; at < files.length; at += BATCH) {
    setStatus(files.length > 1 ? `Predicting ${at + 1} of ${files.length} …` : "Predicting …");
    await predictBatch(files.slice(at, at + BATCH), larger);
  }
  const done = counts.patches ? `${countSummary()}.` : "No file could be predicted.";
  if (counts.patches || !larger.length) setStatus(done);
  $("results-sum").textContent = counts.patches ? done : "";
  $("results").hidden = !counts.patches;
  return larger;
}

const countSummary = () => `${number(counts.patches)} ${counts.patches === 1 ? "patch" : "patches"} predicted, ` +
  `${number(counts.positive)} classified as ${description.positive_class}`;

async function predictBatch(files, larger) {
  const form = new FormData();
  files.forEach((file, i) => form.append("images", file, `${i}/${file.name}`));
  try {
    const answer = await (await send("v1/predict", { method: "POST", body: form })).json();
    answer.predictions.forEach((prediction, i) => addPatch(files[i], prediction, answer));
  } catch (problem) {
    const refused = problem.status === 422 || problem.status === 413;
    if (refused && files.length > 1) {  // one by one, so that a bad file doesn't fail the others
      for (const file of files) await predictBatch([file], larger);
      return;
    }
    if (refused && TIFF.test(files[0].name)) { larger.push(files[0]); return; }
    showProblem(problem);
  }
}

function addPatch(file, prediction, answer) {
  counts.patches += 1;
  counts.positive += prediction.decision;
  const item = element("li"), pictures = element("div", "pictures"), image = element("img");
  image.src = URL.createObjectURL(file);
  image.alt = `patch ${file.name}`;
  image.addEventListener("error", () => image.replaceWith(element("span", "blank", "can't be displayed")));
  pictures.append(image);
  item.append(pictures, decisionPart(file, prediction, answer), explainButton(file, prediction, item, pictures));
  $("patches").prepend(item);
}

function decisionPart(file, prediction, answer) {
  const part = element("div", "verdict"), label = element("p", "label"), bar = element("div", "bar");
  const name = element("p", "file", file.name);
  name.title = file.name;
  label.append(element("span", `mark${prediction.decision ? " positive" : ""}`), prediction.label,
    element("span", "number", ` · ${prediction.probability.toFixed(3)}`));
  label.setAttribute("aria-label", `${prediction.label}, probability of ${answer.positive_class} ${prediction.probability.toFixed(3)}`);
  bar.setAttribute("aria-hidden", "true");
  const fill = element("i"), mark = element("b");
  fill.style.width = percentOf(prediction.probability);
  mark.style.left = percentOf(answer.threshold);
  bar.append(fill, mark);
  part.append(name, label, bar, element("p", "quiet small", `probability of ${answer.positive_class}; ` +
    `threshold ${answer.threshold.toFixed(3)}`));
  return part;
}

const percentOf = value => `${(100 * value).toFixed(2)}%`;

function explainButton(file, prediction, item, pictures) {
  const button = element("button", "", "Explain");
  button.type = "button";
  button.setAttribute("aria-label", `Explain why ${file.name} is classified as ${prediction.label}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    clearProblem();
    try {
      const form = new FormData();
      form.append("image", file);
      const explanation = await (await send("v1/explain", { method: "POST", body: form })).json();
      const overlay = element("img");
      overlay.src = `data:image/png;base64,${explanation.overlay}`;
      overlay.alt = `evidence in ${file.name}: orange for ${description.positive_class}, purple against`;
      pictures.append(overlay);
      item.append(element("p", "why", `Orange is evidence for ${description.positive_class}, purple against it. The strongest colour is the ` +
        "strongest evidence in this patch."));
      button.remove();
      setStatus(`Explained ${file.name}.`);
    } catch (problem) { button.disabled = false; showProblem(problem); }
  });
  return button;
}

$("clear").addEventListener("click", () => {
  for (const image of $("patches").querySelectorAll("img[src^='blob:']")) URL.revokeObjectURL(image.src);
  $("patches").replaceChildren();
  counts.patches = counts.positive = 0;
  $("results").hidden = true;
  setStatus("");
  $("files").focus();
});

// ---- pixel sizes ----------------------------------------------------------------------------------------------------

const sizeFields = [...$("sizes").querySelectorAll("input")];
const filledIn = () => sizeFields.filter(field => field.value);

function keepUnsized(file) {
  unsized = file;
  $("again").hidden = !file;
  $("again").textContent = file ? `Predict ${file.name} again` : "";
}

// Asks the user to fill in a field; the slide waits until then. Returns false if there is no such field.
function requestSize(file, field, remedy) {
  if (!field) return false;
  field.parentElement.hidden = false;
  keepUnsized(file);
  showProblem(new RequestError(422, { detail: `${remedy} “${labelOf(field)}” and predict it again` }));
  field.focus();
  return true;
}

const labelOf = field => field.labels[0].textContent;
const requestCorrection = file => requestSize(file, sizeFields.find(field => !field.checkValidity()),
  `This is not a valid pixel size, so ${file.name} wasn't sent: correct`);
const requestMissing = (file, error) => requestSize(file, sizeFields.find(field => error.includes(`the parameter \`${field.name}\``)),
  `The service doesn't know how to cut ${file.name} into patches: enter`);

$("sizes").addEventListener("submit", event => {
  event.preventDefault();
  if (unsized) predictFiles([unsized]);
});

// ---- a case or slide ------------------------------------------------------------------------------------------------

const map = new SlideMap($("canvas"), readOut);

function readOut(patch) {
  if (patch < 0) { $("readout").textContent = "Point at a patch to see its probability."; return; }
  const { x, y, probability } = map.patches;
  $("readout").textContent = `x ${x[patch]}, y ${y[patch]}: ${probability[patch].toFixed(3)}, ` +
    `${probability[patch] >= threshold() ? description.positive_class : description.negative_class}`;
}

// The slider has steps: the step nearest to the model's threshold stands for exactly that threshold.
const isAtModelThreshold = () => Math.abs(Number($("threshold").value) - Math.round(1000 * job.result.threshold) / 1000) < 1e-6;
const threshold = () => isAtModelThreshold() ? job.result.threshold : Number($("threshold").value);

async function predictSlide(file) {
  if (!ARCHIVES.test(file.name) && requestCorrection(file)) return;
  await deleteJob();
  const sizes = ARCHIVES.test(file.name) ? [] : filledIn();
  const current = job = { file, stop: new AbortController(), patches: new Map() };
  $("used-sizes").textContent = sizes.map(field => `${labelOf(field)}: ${field.value}, as you entered it.`).join(" ");
  $("used-sizes").hidden = !sizes.length;
  $("slide").hidden = $("running").hidden = false;
  $("job-result").hidden = true;
  $("slide-title").textContent = file.name;
  $("cancel").textContent = "Cancel";
  showProgress(`Sending ${file.name}`, null);
  try {
    const form = new FormData();
    form.append("file", file);
    for (const field of sizes) form.append(field.name, field.value);
    let state = await (await send("v1/slides", { method: "POST", body: form, signal: current.stop.signal })).json();
    current.id = state.id;
    while (!["done", "failed", "cancelled"].includes(state.state)) {
      await pause(400);
      if (current !== job) return;
      state = await sendUntilAnswered(`v1/slides/${current.id}`);
      if (current !== job) return;
      showProgress(...describeProgress(state));
    }
    if (current !== job) return;
    if (state.state !== "done") {
      await deleteJob();
      setStatus("");
      const error = state.error || `the job was ${state.state}`;
      if (!requestMissing(file, error)) showProblem(new RequestError(422, { detail: error }));
      return;
    }
    $("cancel").textContent = "Delete";
    await showSlide(current);
  } catch (problem) {
    if (current !== job) return;
    if (!current.id) await deleteJob();  // the service accepted no job; one that it did accept may still run, and is kept
    showProblem(problem);
  }
}

function describeProgress(state) {
  if (state.state === "waiting") return ["Waiting for other slides", null];
  if (!state.done) return ["Starting", null];
  const share = state.total ? state.done / state.total : null;
  return [`${number(state.done)} ${state.total ? `of ${number(state.total)} ` : ""}patches predicted`, share];
}

function showProgress(text, share) {
  if ($("progress-label").textContent !== text) { $("progress-label").textContent = text; setStatus(text); }
  if (share === null) $("progress").removeAttribute("value"); else $("progress").value = share;
}

async function showSlide(current) {
  current.result = await sendUntilAnswered(`v1/slides/${current.id}/result`);
  const cases = current.result.cases;
  for (const entry of cases.slice(0, MAX_COUNTED)) await patchesOf(current, entry.case_id);
  if (current !== job) return;
  $("case").replaceChildren(...cases.map(entry => new Option(`${entry.case_id} (${number(entry.patches)})`, entry.case_id)));
  $("threshold").value = current.result.threshold;
  $("running").hidden = true;
  $("job-result").hidden = false;
  $("aside").replaceChildren(...Object.entries(current.result.summary.set_aside || {}).map(([reason, group]) =>
    element("p", "", `Set aside, ${reason}: ${number(group.count)} (${group.files.slice(0, 3).join(", ")}${group.count > 3 ? ", …" : ""})`)));
  await showCase();
  if (current !== job) return;
  setStatus(`${current.file.name} is done: ${number(current.result.summary.patches)} patches of ${number(cases.length)} ` +
    `${cases.length === 1 ? "case" : "cases"}.`);
  $("slide").scrollIntoView({ block: "start" });
}

// Returns the patches of a case, or null if it has more than the service sends to a browser.
async function patchesOf(current, name) {
  if (!current.patches.has(name)) {
    const path = `v1/slides/${current.id}/patches?case=${encodeURIComponent(name)}`;
    current.patches.set(name, await sendUntilAnswered(path).catch(problem => {
      if (problem.status !== 413) throw problem;
      return null;
    }));
  }
  return current.patches.get(name);
}

async function showCase() {
  const name = $("case").value, current = job;
  try {
    const patches = await patchesOf(current, name), { map: drawn, tissue } = current.result.cases.find(entry => entry.case_id === name);
    if (current !== job || name !== $("case").value) return;
    const placed = patches !== null && map.show(patches);
    $("canvas").hidden = $("readout").hidden = !placed;
    $("no-map").hidden = placed || patches === null;
    $("map-file").disabled = !drawn;
    $("tissue-part").hidden = !(placed && tissue);
    await showPicture(current, name, patches === null && drawn);
    if (current !== job || name !== $("case").value) return;
    recolour();
    if (placed && tissue) await showTissue(current, name);
  } catch (problem) { if (current === job) showProblem(problem); }
}

// Shows the map that the service drew, if the page can't draw one.
async function showPicture(current, name, needed) {
  const image = $("picture");
  URL.revokeObjectURL(image.src);
  image.removeAttribute("src");
  $("many").hidden = !needed;
  if (!needed) return;
  image.src = URL.createObjectURL(await (await send(`v1/slides/${current.id}/map?case=${encodeURIComponent(name)}`)).blob());
  image.alt = `Map of case ${name}: probability and decision of its patches.`;
}

async function showTissue(current, name) {
  const answer = await send(`v1/slides/${current.id}/tissue?case=${encodeURIComponent(name)}`);
  const tissue = await createImageBitmap(await answer.blob());
  if (current !== job || name !== $("case").value) return;
  map.setTissue(tissue);
  recolour();
}

function recolour() {
  const at = threshold(), shown = document.querySelector("[name=shown]:checked").value, name = $("case").value;
  const patches = job.patches.get(name), entry = job.result.cases.find(entry => entry.case_id === name);
  if (patches) { map.colour(at, shown, $("tissue").checked); readOut(map.chosen); }
  $("threshold").disabled = !patches;
  $("threshold-value").textContent = at.toFixed(3);
  $("reset").disabled = isAtModelThreshold();
  const positive = positives(entry, at), all = entry.patches;
  const sum = positive === null ? `Case ${name}: ${number(all)} patches, too many to count here at ${at.toFixed(3)}.` :
    `Case ${name}: ${number(positive)} of ${number(all)} patches (${percent(positive / all)}) classified as ` +
    `${description.positive_class} at ${at.toFixed(3)}${isAtModelThreshold() ? "" : ", not the model's own threshold"}.`;
  $("case-sum").textContent = sum;
  $("canvas").setAttribute("aria-label", `Map. ${sum}`);
  showKey(shown);
  $("cases").replaceChildren(...job.result.cases.map(entry => caseRow(entry, at, name)));
}

// Returns how many patches of a case are at or above a threshold, or null if the page doesn't have them.
function positives(entry, at) {
  const patches = job.patches.get(entry.case_id);
  return patches ? countPositives(patches, at) : isAtModelThreshold() ? entry.positive : null;
}

function caseRow(entry, at, chosen) {
  const row = element("tr", entry.case_id === chosen ? "chosen" : ""), head = element("th", "", entry.case_id);
  head.scope = "row";
  const positive = positives(entry, at);
  const cells = [number(entry.patches), positive === null ? "–" : number(positive),
    positive === null ? "–" : percent(positive / entry.patches), entry.mean_probability.toFixed(3)];
  row.append(head, ...cells.map(cell => element("td", "number", cell)));
  return row;
}

function showKey(shown) {
  const over = $("tissue").checked && !$("tissue-part").hidden, drawn = `${shown} ${over}`;
  if ($("key").dataset.drawn === drawn) return;
  $("key").dataset.drawn = drawn;
  if (shown === "decision") {
    const negative = over ? ["--ground", `${description.negative_class}, not coloured`] : ["--negative", description.negative_class];
    $("key").replaceChildren(...[["--positive", description.positive_class], negative].map(([colour, name]) => {
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

async function deleteJob() {
  const old = job;
  job = null;
  map.setTissue(null);
  $("slide").hidden = true;
  if (!old) return;
  old.stop.abort();
  if (old.id) await send(`v1/slides/${old.id}`, { method: "DELETE" }).catch(() => {});
}

$("cancel").addEventListener("click", async () => {
  const done = Boolean(job?.result);
  await deleteJob();
  setStatus(done ? "The result is deleted." : "Cancelled.");
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
      link.href = URL.createObjectURL(await (await send(`v1/slides/${job.id}/${path}`)).blob());
      link.download = button.dataset.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    } catch (problem) { showProblem(problem); }
  });
}

start();
