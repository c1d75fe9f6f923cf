// Enrolling several photos of one person, one after the other, with what became of each.

import { call, newIdempotencyKey } from "./api.js";
import { openCamera } from "./camera.js";
import { button, byId, busy, element } from "./dom.js";
import { cosine, plural, rate } from "./figures.js";
import { nameCrops } from "./model.js";
import { ACCEPTED, droppable, pasteTarget } from "./picture.js";
import { clearProblem, showProblem } from "./problems.js";

const MOST_WAITS = 5;
const LONGEST_WAIT_SECONDS = 30;
const ROUTE = "v1/collections/{name}/people/{person_id}/faces";
let target = null;
let entries = [];
let stopped = false;

export function startEnrolment() {
  const input = element("input", { type: "file", id: "enrol-file", class: "visually-hidden", multiple: true, accept: ACCEPTED });
  input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
  const list = element("ul", { id: "enrol-list", class: "files", "aria-label": "Photos to enrol" });
  const box = element("fieldset", { class: "picture" }, element("legend", {}, "Photos of this person"),
    element("div", { class: "stage small" }, element("p", { class: "drop-hint" }, "Drop or paste photos here")),
    element("div", { class: "tools" },
      element("label", { class: "button", for: "enrol-file" }, "Choose files", input),
      button("Use the camera", () => openCamera((file) => add([file])))),
    list);
  byId("enrol-files").append(box);
  droppable(box, add);
  pasteTarget({ box, file: null, put: (file) => add([file]) });
  byId("enrol-stop").addEventListener("click", () => { stopped = true; });
  byId("enrol-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy(event.currentTarget.querySelector("[type=submit]"), enrolAll);
  });
}

/** The photos are for this person; those chosen for somebody else are dropped. */
export function openEnrolment(collection, person, changed) {
  if (target?.person !== person) {
    stopped = true;
    entries = [];
    byId("enrol-list").replaceChildren();
    byId("enrol-said").textContent = "";
    byId("enrol-progress").hidden = true;
  }
  target = { collection, person, changed };
  nameCrops(byId("enrol-aligned")).catch(() => {}); // only a hint
}

function add(files) {
  for (const file of files) {
    const state = element("span", { class: "state" }, "waiting");
    const problem = element("div", { class: "problem", hidden: true });
    const entry = { file, state, problem, key: newIdempotencyKey(), done: false };
    const drop = button("Remove", () => {
      entries = entries.filter((one) => one !== entry);
      entry.row.remove();
      byId("enrol-file").focus();
    }, { class: "small", "aria-label": `Remove ${file.name}` });
    entry.drop = drop;
    entry.row = element("li", {}, element("span", { class: "name" }, file.name), state, drop, problem);
    byId("enrol-list").append(entry.row);
    entries.push(entry);
  }
  byId("enrol-said").textContent = "";
}

async function enrolAll() {
  const waiting = entries.filter((entry) => !entry.done);
  if (!waiting.length) {
    byId("enrol-said").textContent = "Choose at least one photo first.";
    return byId("enrol-file").focus();
  }
  const here = target;
  stopped = false;
  const bar = byId("enrol-bar");
  bar.max = waiting.length;
  bar.value = 0;
  byId("enrol-progress").hidden = byId("enrol-stop").hidden = false;
  for (const entry of waiting) {
    if (stopped) break;
    await enrol(entry, here);
    bar.value += 1;
  }
  byId("enrol-stop").hidden = true;
  if (target !== here && target?.person !== here.person) return;
  byId("enrol-said").textContent = summary(waiting);
  await here.changed();
}

function summary(tried) {
  const done = tried.filter((entry) => entry.done).length;
  const refused = tried.filter((entry) => entry.failed).length;
  const rest = tried.length - done - refused;
  return [`${plural(done, "photo")} enrolled`, refused ? `${plural(refused, "photo")} refused` : "", rest ? `${plural(rest, "photo")} not sent` : ""]
    .filter(Boolean).join(", ") + ".";
}

async function enrol(entry, { collection, person }) {
  clearProblem(entry.problem);
  entry.failed = false;
  say(entry, "sending", "");
  try {
    const face = await sent(entry, ["v1", "collections", collection, "people", person, "faces"]);
    entry.done = true;
    entry.drop.remove();
    say(entry, "enrolled", "good");
    if (face.warnings.length) warn(entry, face.warnings);
  } catch (problem) {
    entry.failed = true;
    entry.key = newIdempotencyKey(); // another try, with other options, is another write
    say(entry, "refused", "bad");
    showProblem(entry.problem, problem, problem.slug === "several-faces" ? [button("Take the largest face", takeLargest)] : undefined);
  }
}

function takeLargest() {
  byId("enrol-largest").checked = true;
  byId("enrol-form").requestSubmit();
}

/** Send one photo; a service that is too busy is waited for as long as it asks. */
async function sent(entry, path) {
  for (let wait = 0; ; wait += 1) {
    try {
      return await call("POST", path, { form: requested(entry.file), idempotencyKey: entry.key, route: ROUTE });
    } catch (problem) {
      if (problem.status !== 429 || wait === MOST_WAITS || stopped) throw problem;
      say(entry, "waiting for the service", "");
      await new Promise((resume) => { setTimeout(resume, 1000 * Math.min(problem.retryAfterSeconds ?? 1, LONGEST_WAIT_SECONDS)); });
    }
  }
}

function requested(file) {
  const form = new FormData();
  form.append("image", file);
  form.append("aligned", byId("enrol-aligned").checked);
  form.append("face", byId("enrol-largest").checked ? "largest" : "single");
  return form;
}

function say(entry, text, kind) {
  entry.state.textContent = text;
  entry.state.className = `state ${kind}`;
}

function warn(entry, warnings) {
  say(entry, "enrolled, with a warning", "warned");
  entry.row.append(element("div", { class: "notice" }, ...warnings.map((warning) =>
    element("p", {}, `${warning.detail} (similarity ${cosine(warning.similarity)}${warning.fmr === null ? "" : `, false match rate ${rate(warning.fmr)}`}).`))));
}
