// What the service says of its models, asked once for each key.

import { call } from "./api.js";
import { byId, element } from "./dom.js";

let known = null;

/** The reply of GET /v1/models. */
export function models() {
  known ??= call("GET", ["v1", "models"]).catch((problem) => {
    known = null;
    throw problem;
  });
  return known;
}

/** The model that pictures are embedded by unless another is named. */
export async function defaultModel() {
  const reply = await models();
  return reply.models.find((model) => model.id === reply.model) ?? reply.models[0];
}

/** Let a field choose among the models; it stays hidden while there is one only. `name` is the form's prefix. */
export async function offerModels(name) {
  const { model: usual, models: all } = await models();
  const select = byId(`${name}-model`);
  const chosen = select.value || usual;
  select.replaceChildren(...all.map((model) =>
    element("option", { value: model.id, selected: model.id === chosen }, `${model.name} (${model.id})`)));
  byId(`${name}-model-field`).hidden = all.length < 2;
}

/** The chosen model; null for the default one. */
export const chosenModel = (name) => (byId(`${name}-model-field`).hidden ? null : byId(`${name}-model`).value);

export function startModel() {
  window.addEventListener("facemargin:key", () => { known = null; });
}

/** Name the template of aligned crops beside a checkbox; the plain text stays where the key does not tell the model. */
export async function nameCrops(checkbox) {
  const { template } = await defaultModel();
  const text = checkbox.parentElement.querySelector("span");
  if (!text.querySelector("code")) text.append(" by the template ", element("code", {}, template));
}
