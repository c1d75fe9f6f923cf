// One person: the enrolled faces with their quality, rename, delete.

import { call, newIdempotencyKey } from "./api.js";
import { announce, button, byId, element, table, time } from "./dom.js";
import { ask } from "./dialogs.js";
import { openEnrolment } from "./enrol.js";
import { plural, quality } from "./figures.js";
import { ONE_PERSON, remove, rename } from "./people.js";
import { attempt } from "./problems.js";

const SOURCES = { image: "photo", aligned: "aligned crop", embedding: "embedding" };
let who = null;
let shownId = null;

export function startPerson() {
  byId("person-rename").addEventListener("click", () => who && rename(who, reload));
  byId("person-delete").addEventListener("click", () => who && remove(who, () => {
    location.hash = `#/collections/${encodeURIComponent(who.collection)}`;
  }));
}

export async function openPerson(collection, id) {
  if (shownId !== id) {
    shownId = id;
    who = null;
    byId("faces-list").replaceChildren();
    byId("person-title").textContent = "Person";
    byId("person-facts").textContent = "";
  }
  byId("person-back").textContent = collection;
  byId("person-back").href = `#/collections/${encodeURIComponent(collection)}`;
  openEnrolment(collection, id, reload);
  await load(collection, id);
}

const reload = () => load(who.collection, who.id);

async function load(collection, id) {
  const path = ["v1", "collections", collection, "people", id];
  const found = await attempt(byId("person-problem"), async () => {
    const [person, { faces }] = await Promise.all([
      call("GET", path, { route: ONE_PERSON }),
      call("GET", [...path, "faces"], { route: `${ONE_PERSON}/faces` }),
    ]);
    if (shownId !== id) return; // another person was opened meanwhile
    who = person;
    byId("person-title").textContent = person.name;
    byId("person-facts").replaceChildren("Id ", element("code", {}, person.id), `, ${plural(faces.length, "face")}, added `, time(person.created_at),
      ...(person.expires_at ? [", erased by itself on ", time(person.expires_at)] : []));
    byId("faces-list").replaceChildren(faces.length ? listed(faces) : none());
  });
  for (const name of ["person-rename", "person-delete", "enrol-form", "faces-title"]) byId(name).hidden = !found && !who;
}

const none = () => element("p", { class: "empty" }, "No face is enrolled yet. A search cannot find this person until one is.");

function listed(faces) {
  const columns = [{ title: "Enrolled" }, { title: "From" }, { title: "Detector score", number: true }, { title: "Between the eyes", number: true },
    { title: "Sharpness", number: true }, { title: "Pose" }, { title: "Actions", spoken: true, number: true }];
  return table("Enrolled faces and their quality", columns, faces.map((face) => {
    const { score, eyes, sharpness, pose } = quality(face.quality);
    return [time(face.created_at), SOURCES[face.source] ?? face.source, score, eyes, sharpness, pose,
      button("Delete", () => removeFace(face), { class: "danger small", "aria-label": `Delete face ${face.id}` })];
  }));
}

function removeFace({ id }) {
  ask({
    title: "Delete this face?", text: `Face ${id} is erased. This cannot be undone.`, action: "Delete face", danger: true,
    work: async () => {
      const path = ["v1", "collections", who.collection, "people", who.id, "faces", id];
      await call("DELETE", path, { route: `${ONE_PERSON}/faces/{face_id}`, idempotencyKey: newIdempotencyKey() });
      announce("The face is deleted.");
    },
    after: async () => {
      await reload();
      byId("faces-title").focus();
    },
  });
}
