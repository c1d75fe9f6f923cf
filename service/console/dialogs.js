// Asking before something that cannot be undone, and asking for a text.

import { byId, busy } from "./dom.js";
import { clearProblem, showProblem } from "./problems.js";

/** Let the Cancel button close a dialog; Escape does so by itself, and the focus goes back to where it was. */
export function closable(dialog) {
  dialog.querySelector(".cancel").addEventListener("click", () => dialog.close());
}

let asking = null;

/**
 * Open the dialog; `work(text)` runs when it is confirmed, and a problem of it is shown in the dialog. `after` runs when the
 * dialog is closed: while it is open nothing else can take the focus.
 *
 * With `mustBe` exactly this text has to be typed; with `value` a text is asked for and begins as this.
 */
export function ask({ title, text, action, danger = false, label = "", mustBe = null, value = null, work, after }) {
  asking = { mustBe, work, after };
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-label").textContent = label;
  byId("ask-field").hidden = mustBe === null && value === null;
  byId("ask-value").value = value ?? "";
  byId("ask-value").removeAttribute("aria-invalid");
  byId("ask-do").textContent = action;
  byId("ask-do").className = danger ? "danger filled" : "primary";
  clearProblem(byId("ask-problem"));
  byId("ask-dialog").showModal();
  if (byId("ask-field").hidden) byId("ask-dialog").querySelector(".cancel").focus();
  else byId("ask-value").focus();
}

export function startDialogs() {
  closable(byId("ask-dialog"));
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy(byId("ask-do"), confirmed);
  });
}

async function confirmed() {
  const typed = byId("ask-value").value.trim();
  if (asking.mustBe !== null && typed !== asking.mustBe) {
    byId("ask-value").setAttribute("aria-invalid", "true");
    byId("ask-problem").textContent = `Type “${asking.mustBe}” exactly to go on.`;
    byId("ask-problem").hidden = false;
    byId("ask-value").focus();
    return;
  }
  clearProblem(byId("ask-problem"));
  try {
    await asking.work(typed);
  } catch (problem) {
    showProblem(byId("ask-problem"), problem);
    return;
  }
  byId("ask-dialog").close();
  await asking.after();
}
