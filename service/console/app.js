// The console: which page the address names, and the parts that every page shares.

import { startCamera } from "./camera.js";
import { openCollections, startCollections } from "./collections.js";
import { startDialogs } from "./dialogs.js";
import { byId } from "./dom.js";
import { startEnrolment } from "./enrol.js";
import { startKey } from "./key.js";
import { startModel } from "./model.js";
import { openPeople, startPeople } from "./people.js";
import { openPerson, startPerson } from "./person.js";
import { startPasting } from "./picture.js";
import { openSearch, startSearch } from "./search.js";
import { openStatus, startStatus } from "./status.js";
import { openVerify, startVerify } from "./verify.js";

/** Pages by the shape of their address: the section, the entry of the navigation, what opens it. */
const PAGES = [
  { path: /^verify$/, view: "verify", entry: "verify", open: openVerify },
  { path: /^search(?:\/([^/]+))?$/, view: "search", entry: "search", open: openSearch },
  { path: /^collections$/, view: "collections", entry: "collections", open: openCollections },
  { path: /^collections\/([^/]+)$/, view: "collection", entry: "collections", open: openPeople },
  { path: /^collections\/([^/]+)\/([^/]+)$/, view: "person", entry: "collections", open: openPerson },
  { path: /^status$/, view: "status", entry: "status", open: openStatus },
];
const UNKNOWN = { view: "unknown", entry: "", open: async () => {} };

function named(hash) {
  const address = hash.replace(/^#\/?/, "") || "verify";
  const page = PAGES.find(({ path }) => path.test(address));
  try {
    if (page) return [page, page.path.exec(address).slice(1).map((part) => part && decodeURIComponent(part))];
  } catch {
    // a percent sign that encodes nothing
  }
  return [UNKNOWN, []];
}

/** Show the page that the address names; after a change of page the focus goes to its heading. */
async function show({ focus }) {
  if (location.hash && !location.hash.startsWith("#/")) return; // a place within the page, as the skip link names
  const [page, parts] = named(location.hash);
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== `view-${page.view}`;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash === `#/${page.entry}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = byId(`${page.view}-title`);
  const opening = page.open(...parts);
  document.title = `${heading.textContent} · facemargin`;
  if (focus) {
    heading.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  await opening;
  document.title = `${heading.textContent} · facemargin`;
}

for (const start of [startDialogs, startCamera, startModel, startKey, startPasting, startVerify, startSearch, startCollections,
  startPeople, startPerson, startEnrolment, startStatus]) start();
window.addEventListener("hashchange", () => show({ focus: true }));
window.addEventListener("facemargin:key", () => show({ focus: false }));
await show({ focus: false });
