// The API key: typed once, kept for this tab, tried before it is kept.

import { call, key, Problem } from "./api.js";
import { byId, busy, announce } from "./dom.js";
import { closable } from "./dialogs.js";
import { clearProblem, showProblem } from "./problems.js";

const dialog = () => byId("key-dialog");

export function openKeyDialog() {
  clearProblem(byId("key-problem"));
  byId("key-value").value = "";
  byId("key-value").removeAttribute("aria-invalid");
  byId("key-forget").hidden = !key.read();
  dialog().showModal();
  byId("key-value").focus();
}

export function startKey() {
  closable(dialog());
  byId("key-open").addEventListener("click", openKeyDialog);
  byId("key-forget").addEventListener("click", () => {
    key.forget();
    dialog().close();
    announce("The key is forgotten.");
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy(event.submitter ?? byId("key-value"), use);
  });
  window.addEventListener("facemargin:key", showState);
  showState();
}

async function use() {
  const value = byId("key-value").value.trim();
  clearProblem(byId("key-problem"));
  try {
    await tried(value);
  } catch (problem) {
    byId("key-value").setAttribute("aria-invalid", "true");
    showProblem(byId("key-problem"), problem, []);
    byId("key-value").focus();
    return;
  }
  key.use(value);
  dialog().close();
  announce("The key is valid and in use.");
}

/** Any valid key may ask for the models. A header can carry visible ASCII only, and keys have nothing else. */
async function tried(value) {
  if (!/^[\x21-\x7e]+$/.test(value)) throw new Problem({ detail: "Type a key: one word of letters, digits and signs." });
  await call("GET", ["v1", "models"], { token: value });
}

function showState() {
  byId("key-state").textContent = key.read() ? key.id() : "none";
}
