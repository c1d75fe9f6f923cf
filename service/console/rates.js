// Choosing an error rate, or a threshold instead of one.

import { byId, element } from "./dom.js";
import { rate } from "./figures.js";

export const OWN_THRESHOLD = "threshold";

/** Fill the select of a form; the field of the threshold is shown when it is chosen. `name` is the form's prefix. */
export function startRates(name, rates, usual) {
  const select = byId(`${name}-rate`);
  select.replaceChildren(
    ...rates.map((value) => element("option", { value, selected: value === usual }, rate(value))),
    element("option", { value: OWN_THRESHOLD }, "a threshold of my own"));
  select.addEventListener("change", () => { byId(`${name}-threshold-field`).hidden = select.value !== OWN_THRESHOLD; });
}

/** Say of each rate whether the calibration's data support it. */
export function markExtrapolated(name, smallestSupported) {
  for (const option of byId(`${name}-rate`).options) {
    if (option.value === OWN_THRESHOLD) continue;
    const beyond = smallestSupported !== null && Number(option.value) < smallestSupported;
    option.textContent = rate(Number(option.value)) + (beyond ? " (extrapolated)" : "");
  }
}

/** The field of a request that the choice is: one of `rateField` and `threshold`. */
export function chosenCriterion(name, rateField) {
  const choice = byId(`${name}-rate`).value;
  return choice === OWN_THRESHOLD ? { threshold: byId(`${name}-threshold`).value } : { [rateField]: choice };
}
