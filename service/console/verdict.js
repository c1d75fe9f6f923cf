// The parts of an answer that verify and search share.

import { drawing, element } from "./dom.js";

const LOWEST = -0.25; // cosines of faces hardly ever lie below; what does is drawn at the edge
const MARKS = {
  yes: "M5 12.5l4.5 4.5L19 7.5",
  no: "M7 7l10 10M17 7L7 17",
};

/** The decision as a heading, with a sign that is not colour alone. */
export function verdict(positive, text) {
  const sign = drawing("svg", { viewBox: "0 0 24 24", class: "sign", "aria-hidden": "true" },
    drawing("circle", { cx: 12, cy: 12, r: 11 }), drawing("path", { d: positive ? MARKS.yes : MARKS.no }));
  return element("h2", { class: positive ? "yes" : "no" }, sign, element("span", {}, text));
}

/** Where the similarity lies beside the threshold; a picture of two numbers that are also given as text. */
export function scale(similarity, threshold) {
  const at = (value) => 10 + (380 * (Math.min(1, Math.max(LOWEST, value)) - LOWEST)) / (1 - LOWEST);
  return element("div", { class: "scale", "aria-hidden": "true" },
    drawing("svg", { viewBox: "0 0 400 30" },
      drawing("rect", { x: 10, y: 12, width: 380, height: 6, rx: 3, class: "scale-rest" }),
      drawing("rect", { x: at(threshold), y: 12, width: 390 - at(threshold), height: 6, rx: 3, class: "scale-match" }),
      drawing("line", { x1: at(threshold), x2: at(threshold), y1: 3, y2: 27, class: "scale-threshold" }),
      drawing("circle", { cx: at(similarity), cy: 15, r: 6, class: "scale-similarity" })),
    element("p", { class: "fine" }, element("span", { class: "key dot" }), "similarity ",
      element("span", { class: "key tick" }), "threshold; right of it is a match"));
}

/** The mark of a threshold beyond observed data. */
export function extrapolatedNote() {
  return element("p", { class: "notice" }, element("strong", {}, "Extrapolated. "),
    "The calibration holds too few pairs to observe this rate; the threshold comes from a fitted tail and may be off.");
}
