// Showing what went wrong at the place where it happened.

import { Problem } from "./api.js";
import { element, button } from "./dom.js";
import { openKeyDialog } from "./key.js";

const NAMES = { image_a: "First photo", image_b: "Second photo", image: "The photo" };

/** Take away what was shown. */
export function clearProblem(place) {
  place.hidden = true;
  place.replaceChildren();
}

/** Show a problem; `actions` are buttons that help against it. Anything but a Problem is a mistake of this page. */
export function showProblem(place, problem, actions = helpers(problem)) {
  if (!(problem instanceof Problem)) {
    place.replaceChildren(element("p", {}, `This page made a mistake: ${problem.message}`));
    place.hidden = false;
    throw problem;
  }
  place.replaceChildren(
    element("p", {}, wordsOf(problem)),
    ...(actions.length ? [element("div", { class: "tools" }, ...actions)] : []),
    ...(problem.members.request_id ? [element("p", { class: "fine" }, `Request ${problem.members.request_id}`)] : []));
  place.hidden = false;
}

const helpers = (problem) => (problem.status === 401 ? [button("Enter an API key", openKeyDialog)] : []);

/** Run something and show at a place why it failed; true if it did not. */
export async function attempt(place, work) {
  clearProblem(place);
  try {
    await work();
    return true;
  } catch (problem) {
    showProblem(place, problem);
    return false;
  }
}

/** Mark a field as wrong and go back to it. */
export function refuse(field) {
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

/** The field was right: empty it for the next one. */
export function accept(field) {
  field.removeAttribute("aria-invalid");
  field.value = "";
}

/** Ask for a text where there is none of this pattern; true if there is one. */
export function demandText(field, place, pattern = /./, words = "Type a name first.") {
  clearProblem(place);
  if (pattern.test(field.value.trim())) return true;
  place.replaceChildren(element("p", {}, words));
  place.hidden = false;
  refuse(field);
  return false;
}

/** The detail, with the name of the request's part as this page calls it. */
export function wordsOf(problem) {
  const part = problem.members.image ?? "";
  const detail = part && problem.message.startsWith(`${part}: `) ? problem.message.slice(part.length + 2) : problem.message;
  return part in NAMES && detail !== problem.message ? `${NAMES[part]}: ${detail}` : detail;
}
