// Who is this? The candidates of a collection at a stated error rate.

import { call, Problem } from "./api.js";
import { button, busy, byId, element, table } from "./dom.js";
import { cosine, count, percent, plural, rate } from "./figures.js";
import { nameCrops } from "./model.js";
import { Picture } from "./picture.js";
import { attempt, clearProblem, showProblem } from "./problems.js";
import { chosenCriterion, startRates } from "./rates.js";
import { drawAll } from "./verify.js";
import { extrapolatedNote, verdict } from "./verdict.js";

const RATES = [0.1, 0.01, 0.001, 0.0001];
const USUAL = 0.01;
const NO_COLLECTION = "There is no collection yet. Make one under “Collections” and enrol somebody first.";
let picture = null;
let round = 0; // an answer about a photo that was changed meanwhile is not shown

export function startSearch() {
  picture = new Picture(byId("search-picture"), "Photo to look for", clear);
  startRates("search", RATES, USUAL);
  byId("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy(event.currentTarget.querySelector("[type=submit]"), search);
  });
}

/** Offer the collections; the address may name one. */
export async function openSearch(wanted) {
  const select = byId("search-collection");
  const chosen = wanted ?? select.value;
  await attempt(byId("search-problem"), async () => {
    const { collections } = await call("GET", ["v1", "collections"]);
    select.replaceChildren(...collections.map(({ name, faces }) =>
      element("option", { value: name, selected: name === chosen }, `${name} (${plural(faces, "face")})`)));
    if (!collections.length) throw new Problem({ detail: NO_COLLECTION });
  });
  nameCrops(byId("search-aligned")).catch(() => {}); // only a hint
}

function clear() {
  round += 1;
  clearProblem(byId("search-problem"));
  for (const name of ["verdict", "details"]) byId(`search-${name}`).replaceChildren();
}

async function search() {
  clear();
  clearProblem(picture.problem);
  if (!picture.demand()) return picture.input.focus();
  const name = byId("search-collection").value;
  const asked = round;
  try {
    const reply = await call("POST", ["v1", "collections", name, "search"], { form: requested(), route: "v1/collections/{name}/search" });
    if (asked === round) show(reply);
  } catch (problem) {
    if (asked === round) await explain(problem);
  }
}

function requested() {
  const form = new FormData();
  form.append("image", picture.file);
  form.append("aligned", byId("search-aligned").checked);
  form.append("face", byId("search-largest").checked ? "largest" : "single");
  form.append("limit", byId("search-limit").value);
  for (const [name, value] of Object.entries(chosenCriterion("search", "max_fpir"))) form.append(name, value);
  return form;
}

async function explain(problem) {
  const several = problem.slug === "several-faces";
  const place = problem.members?.image ? picture.problem : byId("search-problem");
  showProblem(place, problem, several ? [button("Take the largest face", takeLargest)] : undefined);
  if (several) await drawAll(picture);
}

function takeLargest() {
  byId("search-largest").checked = true;
  byId("search-form").requestSubmit();
}

function show(reply) {
  if (reply.face) picture.showFaces([reply.face]);
  byId("search-verdict").replaceChildren(verdict(reply.candidates.length > 0, decision(reply)));
  byId("search-details").replaceChildren(...[
    reply.extrapolated ? extrapolatedNote() : null,
    reply.candidates.length ? candidates(reply) : null,
    element("p", { class: "fine" }, compared(reply)),
  ].filter(Boolean));
  byId("search-verdict").scrollIntoView({ block: "nearest" });
}

function decision({ candidates: found, templates, collection }) {
  if (!templates) return `Nobody is enrolled in ${collection}`;
  const chosen = chosenCriterion("search", "max_fpir");
  const limit = chosen.max_fpir === undefined ? "above your threshold" : `at a false positive identification rate of at most ${rate(Number(chosen.max_fpir))}`;
  return found.length ? `${plural(found.length, "candidate")} ${limit}` : `Nobody in ${collection} matches ${limit}`;
}

function compared({ templates, threshold, threshold_fmr: fmr, model }) {
  if (threshold === null) return `Model ${model}.`;
  const meaning = fmr === null ? "" : `, a false match rate of ${rate(fmr)} for each comparison`;
  return `Compared with ${plural(templates, "template")} at a threshold of ${cosine(threshold)}${meaning}. Model ${model}.`;
}

function candidates({ collection, candidates: found }) {
  const columns = [{ title: "Person" }, { title: "Similarity", number: true }, { title: "Probability", number: true },
    { title: "FPIR", number: true }, { title: "FMR", number: true }];
  const or = (value, format) => (value === null ? "not known" : format(value));
  return table(`Candidates in ${collection}, the most similar first`, columns, found.map((one, index) => [
    element("a", { href: `#/collections/${encodeURIComponent(collection)}/${encodeURIComponent(one.person.id)}` }, `${count(index + 1)}. ${one.person.name}`),
    cosine(one.similarity), or(one.probability, percent), or(one.fpir, rate), or(one.fmr, rate),
  ]));
}
