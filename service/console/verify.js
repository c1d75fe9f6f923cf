// Are these two faces of one person?

import { call } from "./api.js";
import { button, busy, byId, element, table, terms } from "./dom.js";
import { cosine, percent, quality, rate } from "./figures.js";
import { chosenModel, defaultModel, nameCrops, offerModels } from "./model.js";
import { Picture } from "./picture.js";
import { clearProblem, showProblem } from "./problems.js";
import { chosenCriterion, markExtrapolated, startRates } from "./rates.js";
import { extrapolatedNote, scale, verdict } from "./verdict.js";

const RATES = [0.1, 0.01, 0.001, 0.0001, 0.00001, 0.000001];
const USUAL = 0.001;
let pictures = {};
let round = 0; // an answer about photos that were changed meanwhile is not shown

export function startVerify() {
  pictures = {
    image_a: new Picture(byId("verify-a"), "First photo", clear),
    image_b: new Picture(byId("verify-b"), "Second photo", clear),
  };
  startRates("verify", RATES, USUAL);
  byId("verify-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy(event.currentTarget.querySelector("[type=submit]"), compare);
  });
}

/** The page is shown: say what the model makes of rates and crops, if the key may ask for it. */
export async function openVerify() {
  try {
    await offerModels("verify");
    const model = await defaultModel();
    markExtrapolated("verify", model.calibration?.smallest_supported_fmr ?? null);
    await nameCrops(byId("verify-aligned"));
  } catch {
    // only hints: the comparison itself says what is wrong
  }
}

function clear() {
  round += 1;
  clearProblem(byId("verify-problem"));
  for (const name of ["verdict", "details"]) byId(`verify-${name}`).replaceChildren();
}

async function compare() {
  const places = Object.values(pictures);
  clear();
  places.forEach((picture) => clearProblem(picture.problem));
  if (!places.map((picture) => picture.demand()).every(Boolean)) {
    places.find((picture) => !picture.file).input.focus();
    return;
  }
  const asked = round;
  try {
    const reply = await call("POST", ["v1", "verify"], { form: requested() });
    if (asked === round) show(reply);
  } catch (problem) {
    if (asked === round) await explain(problem);
  }
}

function requested() {
  const form = new FormData();
  for (const [name, picture] of Object.entries(pictures)) form.append(name, picture.file);
  form.append("aligned", byId("verify-aligned").checked);
  form.append("face", byId("verify-largest").checked ? "largest" : "single");
  if (chosenModel("verify")) form.append("model", chosenModel("verify"));
  for (const [name, value] of Object.entries(chosenCriterion("verify", "max_fmr"))) form.append(name, value);
  return form;
}

/** A problem about one photo is shown under it, with all its faces where there are several. */
async function explain(problem) {
  const picture = pictures[problem.members?.image];
  const several = problem.slug === "several-faces";
  showProblem(picture?.problem ?? byId("verify-problem"), problem, several ? [button("Take the largest face", takeLargest)] : undefined);
  if (several && picture) await drawAll(picture);
}

export async function drawAll(picture) {
  const form = new FormData();
  form.append("images", picture.file);
  try {
    picture.showFaces((await call("POST", ["v1", "embeddings"], { form })).images[0].faces, false);
  } catch {
    // a key without the scope `embed` does without the drawing
  }
}

function takeLargest() {
  byId("verify-largest").checked = true;
  byId("verify-form").requestSubmit();
}

function show(reply) {
  pictures.image_a.showFaces([reply.face_a]);
  pictures.image_b.showFaces([reply.face_b]);
  byId("verify-verdict").replaceChildren(verdict(reply.match, decision(reply)));
  byId("verify-details").replaceChildren(...[
    reply.extrapolated ? extrapolatedNote() : null,
    scale(reply.similarity, reply.threshold),
    figures(reply),
    measured(reply),
  ].filter(Boolean));
  byId("verify-verdict").scrollIntoView({ block: "nearest" });
}

function decision({ match, threshold_fmr: fmr }) {
  const chosen = chosenCriterion("verify", "max_fmr");
  if (chosen.threshold !== undefined) return match ? "The similarity reaches your threshold" : "The similarity does not reach your threshold";
  return `${match ? "Match" : "No match"} at a false match rate of at most ${rate(Number(chosen.max_fmr ?? fmr))}`;
}

function figures({ similarity, probability, fmr, threshold, threshold_fmr: thresholdFmr, extrapolated, model }) {
  const unknown = "not known: the model has no calibration";
  return terms([
    ["Similarity", `${cosine(similarity)} (cosine)`],
    ["Threshold", `${cosine(threshold)}${thresholdFmr === null ? "" : `, for a false match rate of ${rate(thresholdFmr)}`}${extrapolated ? ", extrapolated" : ""}`],
    ["False match rate of this similarity", fmr === null ? unknown : `${rate(fmr)} of the pairs of different people reach it`],
    ["Probability of the same person", probability === null ? unknown : percent(probability)],
    ["Model", element("code", {}, model)],
  ]);
}

function measured({ face_a: a, face_b: b }) {
  const columns = [{ title: "Photo" }, { title: "Detector score", number: true }, { title: "Between the eyes", number: true },
    { title: "Sharpness", number: true }, { title: "Pose" }];
  const row = (name, face) => {
    const { score, eyes, sharpness, pose } = quality(face.quality);
    return [name, score, eyes, sharpness, pose];
  };
  return table("Quality of the two faces", columns, [row("First", a), row("Second", b)]);
}
