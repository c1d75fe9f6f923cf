// The people of one collection, page by page: add, find by name, rename, delete.

import { call, newIdempotencyKey } from "./api.js";
import { announce, busy, button, byId, element, table, time } from "./dom.js";
import { ask } from "./dialogs.js";
import { count, plural } from "./figures.js";
import { accept, attempt, demandText, refuse } from "./problems.js";

const PAGE = 50;
const MANY = "v1/collections/{name}/people";
export const ONE_PERSON = `${MANY}/{person_id}`;
let shown = { name: null, cursors: [], exact: "" };

export function startPeople() {
  byId("people-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy(event.currentTarget.querySelector("[type=submit]"), add);
  });
  byId("people-filter").addEventListener("submit", (event) => {
    event.preventDefault();
    shown = { ...shown, cursors: [], exact: byId("people-exact").value.trim() };
    busy(event.currentTarget.querySelector("[type=submit]"), load);
  });
}

export async function openPeople(name) {
  if (shown.name !== name) {
    shown = { name, cursors: [], exact: "" };
    byId("people-exact").value = "";
    byId("people-list").replaceChildren();
    byId("people-pages").replaceChildren();
  }
  byId("collection-title").textContent = name;
  byId("collection-search").href = `#/search/${encodeURIComponent(name)}`;
  await load();
}

async function load() {
  const { name, cursors, exact } = shown;
  await attempt(byId("collection-problem"), async () => {
    const query = { limit: PAGE, ...(cursors.length ? { cursor: cursors.at(-1) } : {}), ...(exact ? { name: exact } : {}) };
    const [about, page] = await Promise.all([
      call("GET", ["v1", "collections", name], { route: "v1/collections/{name}" }),
      call("GET", ["v1", "collections", name, "people"], { route: MANY, query }),
    ]);
    if (shown.name !== name) return;
    byId("collection-facts").textContent = `${plural(about.people, "person", "people")}, ${plural(about.faces, "face")}, model ${about.model}`;
    byId("people-list").replaceChildren(page.people.length ? listed(page.people) : none());
    byId("people-pages").replaceChildren(...pageButtons(page.next));
  });
}

function none() {
  return element("p", { class: "empty" }, shown.exact ? `Nobody is called exactly “${shown.exact}”.` : "Nobody is in this collection yet.");
}

function pageButtons(next) {
  const turn = (cursors) => async () => {
    shown = { ...shown, cursors };
    await load();
    byId("people-title").focus();
    announce(`Page ${count(cursors.length + 1)}`);
  };
  return [
    shown.cursors.length ? button("Previous page", turn(shown.cursors.slice(0, -1))) : null,
    next ? button("Next page", turn([...shown.cursors, next])) : null,
  ].filter(Boolean);
}

function listed(people) {
  const columns = [{ title: "Name" }, { title: "Faces", number: true }, { title: "Id" },
    { title: "Added" }, { title: "Actions", spoken: true, number: true }];
  return table(`People of ${shown.name}, page ${count(shown.cursors.length + 1)}`, columns, people.map((one) => [
    element("a", { href: personHref(one) }, one.name), count(one.faces), element("code", {}, one.id), time(one.created_at),
    element("span", { class: "actions" },
      button("Rename", () => rename(one, afterwards), { class: "small", "aria-label": `Rename ${one.name}` }),
      button("Delete", () => remove(one, afterwards), { class: "danger small", "aria-label": `Delete ${one.name}` })),
  ]));
}

const personHref = ({ collection, id }) => `#/collections/${encodeURIComponent(collection)}/${encodeURIComponent(id)}`;

async function afterwards() {
  await load();
  byId("people-title").focus();
}

async function add() {
  const field = byId("people-name");
  const path = ["v1", "collections", shown.name, "people"];
  if (!demandText(field, byId("people-form-problem"))) return;
  const done = await attempt(byId("people-form-problem"), () =>
    call("POST", path, { route: MANY, json: { name: field.value }, idempotencyKey: newIdempotencyKey() }));
  if (!done) return refuse(field);
  announce(`${field.value} is added.`);
  accept(field);
  await load();
}

/** Ask for a new name of a person; `after` runs when it is changed. */
export function rename({ collection, id, name }, after) {
  ask({
    title: `Rename ${name}`, text: "The faces and the id stay.", label: "New name", value: name, action: "Rename",
    work: async (typed) => {
      const path = ["v1", "collections", collection, "people", id];
      await call("PATCH", path, { route: ONE_PERSON, json: { name: typed }, idempotencyKey: newIdempotencyKey() });
      announce(`${name} is now called ${typed}.`);
    },
    after,
  });
}

/** Ask whether to erase a person; `after` runs when it is done. */
export function remove({ collection, id, name, faces }, after) {
  ask({
    title: `Delete ${name}?`,
    text: `The person (${id}) and ${plural(faces, "enrolled face")} are erased. This cannot be undone.`,
    action: "Delete person", danger: true,
    work: async () => {
      const path = ["v1", "collections", collection, "people", id];
      await call("DELETE", path, { route: ONE_PERSON, idempotencyKey: newIdempotencyKey() });
      announce(`${name} is deleted.`);
    },
    after,
  });
}
