// A place for one photo: dropped, pasted, chosen or taken; with the faces that the service found drawn over it.

import { openCamera } from "./camera.js";
import { button, drawing, element } from "./dom.js";
import { clearProblem } from "./problems.js";
import { count, plural } from "./figures.js";

export const ACCEPTED = "image/jpeg,image/png,image/webp,image/bmp";
const targets = [];

export class Picture {
  /** Fill a container; `name` is what the photo is called, as in "First photo". */
  constructor(container, name, changed = () => {}) {
    this.name = name;
    this.changed = changed;
    this.file = null;
    const id = container.id;
    this.input = element("input", { type: "file", id: `${id}-file`, class: "visually-hidden", accept: ACCEPTED,
      "aria-describedby": `${id}-problem`, onchange: () => this.input.files.length && this.put(this.input.files[0]) });
    this.image = element("img", { alt: "" });
    this.overlay = drawing("svg", { class: "overlay", "aria-hidden": "true" });
    this.frame = element("div", { class: "frame", hidden: true }, this.image, this.overlay);
    this.hint = element("p", { class: "drop-hint" }, "Drop or paste a photo here");
    this.said = element("p", { class: "fine", role: "status" });
    this.problem = element("div", { class: "problem", id: `${id}-problem`, role: "alert", hidden: true });
    this.remove = button("Remove", () => { this.clear(); this.input.focus(); }, { hidden: true, "aria-label": `Remove: ${name}` });
    this.box = element("fieldset", { class: "picture" }, element("legend", {}, name),
      element("div", { class: "stage" }, this.hint, this.frame), this.said,
      element("div", { class: "tools" },
        element("label", { class: "button", for: `${id}-file` }, "Choose a file", element("span", { class: "visually-hidden" }, `: ${name}`), this.input),
        button("Use the camera", () => openCamera((file) => this.put(file)), { "aria-label": `Use the camera: ${name}` }),
        this.remove),
      this.problem);
    container.append(this.box);
    droppable(this.box, (files) => this.put(files[0]));
    pasteTarget(this);
  }

  /** Take a file and show it. A file that the browser cannot show is kept: the service says what is wrong with it. */
  put(file) {
    this.clear();
    this.file = file;
    this.url = URL.createObjectURL(file);
    this.remove.hidden = false;
    this.image.onload = () => {
      this.frame.hidden = false;
      this.hint.hidden = true;
      this.said.textContent = `${file.name}, ${count(this.image.naturalWidth)} × ${count(this.image.naturalHeight)} pixels`;
    };
    this.image.onerror = () => {
      this.hint.textContent = "This browser cannot show the file";
      this.said.textContent = file.name;
    };
    this.image.alt = `${this.name}: ${file.name}`;
    this.image.src = this.url;
    this.changed();
  }

  clear() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = this.file = null;
    this.input.value = "";
    this.image.removeAttribute("src");
    this.frame.hidden = this.remove.hidden = true;
    this.hint.hidden = false;
    this.hint.textContent = "Drop or paste a photo here";
    this.said.textContent = "";
    this.overlay.replaceChildren();
    clearProblem(this.problem);
    this.changed();
  }

  /** Ask for a photo where none is; true if there is one. */
  demand() {
    if (this.file) return true;
    this.problem.replaceChildren(element("p", {}, "Choose a photo first."));
    this.problem.hidden = false;
    return false;
  }

  /** Draw boxes and landmarks; of several faces the first is the one compared, if `chosen`. */
  showFaces(faces, chosen = true) {
    const { naturalWidth: width, naturalHeight: height } = this.image;
    if (!width) return;
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.overlay.replaceChildren(...faces.filter((face) => face.box).flatMap((face, index) =>
      marks(face, index, { size: Math.max(width, height), chosen: chosen && index === 0, numbered: faces.length > 1 })));
    this.said.textContent = `${this.file.name}, ${count(width)} × ${count(height)} pixels; ${found(faces)}`;
  }
}

function found(faces) {
  if (faces.length === 1 && !faces[0].box) return "taken as an aligned crop";
  if (faces.length === 1) return `1 face found, detector score ${faces[0].score.toFixed(2)}`;
  return `${plural(faces.length, "face")} found, numbered from the largest`;
}

function marks(face, index, { size, chosen, numbered }) {
  const { x, y, width, height } = face.box;
  const label = { x: x + size * 0.008, y: y + size * 0.035, "font-size": size * 0.035, class: "face-number" };
  return [
    drawing("rect", { x, y, width, height, class: "face-shadow" }),
    drawing("rect", { x, y, width, height, class: chosen ? "face-box" : "face-box other" }),
    ...(face.landmarks ?? []).map(([cx, cy]) => drawing("circle", { cx, cy, r: size * 0.006, class: "face-point" })),
    ...(numbered ? [drawing("text", label, String(index + 1))] : []),
  ];
}

/** Let files be dropped on an element, which shows where they would go. */
export function droppable(target, dropped) {
  const light = (on) => target.classList.toggle("over", on);
  target.addEventListener("dragover", (event) => { event.preventDefault(); light(true); });
  target.addEventListener("dragleave", (event) => { if (!target.contains(event.relatedTarget)) light(false); });
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    light(false);
    if (event.dataTransfer.files.length) dropped([...event.dataTransfer.files]);
  });
}

/** Make something with a `box`, a `file` and a `put(file)` a place where photos can be pasted. */
export const pasteTarget = (target) => targets.push(target);

/** A pasted photo goes to the place that has the focus, else to the first empty one of the page, else to the last. */
export function startPasting() {
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    const here = targets.filter((target) => target.box.checkVisibility());
    if (!file || !here.length || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    const chosen = here.find((one) => one.box.contains(document.activeElement)) ?? here.find((one) => !one.file) ?? here.at(-1);
    chosen.put(file);
  });
  // A file dropped beside its place would replace the page.
  for (const type of ["dragover", "drop"]) window.addEventListener(type, (event) => event.preventDefault());
}
