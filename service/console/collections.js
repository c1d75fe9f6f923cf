// The list of collections: make, open, delete.

import { call, newIdempotencyKey } from "./api.js";
import { announce, busy, button, byId, element, table, time } from "./dom.js";
import { ask } from "./dialogs.js";
import { count, plural } from "./figures.js";
import { chosenModel, offerModels } from "./model.js";
import { accept, attempt, clearProblem, demandText, refuse } from "./problems.js";

const ONE = "v1/collections/{name}";
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const NAME_RULE = "A name has up to 63 letters, digits, dots, underscores and hyphens, and begins with a letter or digit.";

export function startCollections() {
  byId("collections-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy(event.currentTarget.querySelector("[type=submit]"), make);
  });
}

export async function openCollections() {
  await attempt(byId("collections-problem"), async () => {
    const { model, collections } = await call("GET", ["v1", "collections"]);
    byId("collections-list").replaceChildren(collections.length ? listed(collections, model) : none());
  });
  offerModels("collections").catch(() => {}); // without it the service takes its default model
}

const none = () => element("p", { class: "empty" }, "There is no collection yet. Make the first one below.");

function listed(collections, loaded) {
  const columns = [{ title: "Name" }, { title: "People", number: true }, { title: "Faces", number: true },
    { title: "Model" }, { title: "Made" }, { title: "Actions", spoken: true, number: true }];
  return table("Collections of this service", columns, collections.map((one) => [
    element("a", { href: `#/collections/${encodeURIComponent(one.name)}` }, one.name),
    count(one.people), count(one.faces),
    element("span", {}, element("code", {}, one.model), one.model === loaded ? null : " (not the default model)",
      one.keep_crops ? ", crops kept" : null),
    time(one.created_at),
    button("Delete", () => remove(one), { class: "danger small", "aria-label": `Delete collection ${one.name}` }),
  ]));
}

async function make() {
  const field = byId("collections-name");
  const name = field.value.trim();
  clearProblem(byId("collections-problem"));
  if (!demandText(field, byId("collections-form-problem"), NAME, NAME_RULE)) return;
  const json = { keep_crops: byId("collections-crops").checked, ...(chosenModel("collections") ? { model: chosenModel("collections") } : {}) };
  const done = await attempt(byId("collections-form-problem"), () =>
    call("PUT", ["v1", "collections", name], { route: ONE, json, idempotencyKey: newIdempotencyKey() }));
  if (!done) return refuse(field);
  accept(field);
  announce(`Collection ${name} is there.`);
  await openCollections();
}

function remove({ name, people, faces }) {
  ask({
    title: `Delete collection ${name}?`,
    text: `${plural(people, "person", "people")} and ${plural(faces, "face")} are erased with it. This cannot be undone.`,
    label: `Type “${name}” to confirm`, mustBe: name, action: "Delete collection", danger: true,
    work: async () => {
      await call("DELETE", ["v1", "collections", name], { route: ONE, idempotencyKey: newIdempotencyKey() });
      announce(`Collection ${name} is deleted.`);
    },
    after: async () => {
      await openCollections();
      byId("collections-title").focus();
    },
  });
}
