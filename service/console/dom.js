// Building and finding elements. Text is only ever set as text, never parsed as markup: names and details come from outside.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with attributes; keys that begin with "on" are listeners, null and false leave the attribute out. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in the SVG namespace. */
export function drawing(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/**
 * A table with a caption; `columns` are {title, number?, spoken?}, a spoken title is for a screen reader alone.
 *
 * On a narrow screen each row becomes a small block in which every cell carries its title; the roles are named because
 * a browser may forget them when a table is laid out as something else.
 */
export function table(caption, columns, rows) {
  const head = columns.map(({ title, number, spoken: hidden }) =>
    element("th", { role: "columnheader", scope: "col", class: number ? "number" : null }, hidden ? spoken(title) : title));
  const body = rows.map((cells) => element("tr", { role: "row" }, ...cells.map((cell, index) => cellOf(columns[index], cell, index === 0))));
  return element("div", { class: "sheet" },
    element("table", { role: "table" }, element("caption", {}, caption),
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...head)),
      element("tbody", { role: "rowgroup" }, ...body)));
}

function cellOf({ title, number, spoken: hidden }, content, first) {
  const shared = { class: number ? "number" : null, "data-title": hidden || first ? null : title };
  return first ? element("th", { ...shared, role: "rowheader", scope: "row" }, content) : element("td", { ...shared, role: "cell" }, content);
}

/** Terms and what they are. */
export function terms(pairs) {
  return element("dl", {}, ...pairs.filter(Boolean).map(([term, value]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, value))));
}

/** Text for a screen reader alone. */
export const spoken = (text) => element("span", { class: "visually-hidden" }, text);

export const button = (text, onclick, attributes = {}) => element("button", { type: "button", onclick, ...attributes }, text);

export const time = (iso) => element("time", { datetime: iso },
  new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }));

/** Say something that happened, to a screen reader. */
export function announce(text) {
  byId("announcer").textContent = "";
  setTimeout(() => { byId("announcer").textContent = text; }, 50); // a change is spoken, the same text again is not
}

/** Run something once at a time; the button that began it says so meanwhile and keeps the focus. */
export async function busy(control, work) {
  if (control.getAttribute("aria-busy") === "true") return;
  control.setAttribute("aria-busy", "true");
  control.setAttribute("aria-disabled", "true");
  try {
    await work();
  } finally {
    control.removeAttribute("aria-busy");
    control.removeAttribute("aria-disabled");
  }
}
