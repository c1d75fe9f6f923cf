// Calls of the service's REST API: the key, the problem that came back, the time it took.

const KEY = "facemargin.key";
const timings = new Map();

/** What went wrong, in the words of the service (RFC 9457) or of this page. */
export class Problem extends Error {
  constructor({ detail, type = "", status = 0, ...members }, retryAfterSeconds = null) {
    super(detail);
    this.slug = type.replace("urn:facemargin:problem:", "");
    this.status = status;
    this.members = members;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

export const key = {
  read: () => sessionStorage.getItem(KEY) ?? "",
  use(value) {
    sessionStorage.setItem(KEY, value);
    window.dispatchEvent(new Event("facemargin:key"));
  },
  forget() {
    sessionStorage.removeItem(KEY);
    window.dispatchEvent(new Event("facemargin:key"));
  },
  /** The part of a key that is no secret. */
  id: () => key.read().split("_").slice(0, 2).join("_"),
};

/** Round trips of this page by route, in milliseconds. */
export const roundTrips = () => timings;

/** A text that no other write has. `crypto.randomUUID` is missing on a page without https. */
export const newIdempotencyKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * Send a request and give what it answers: JSON, text where `text` asks for it, null for 204.
 *
 * `path` is a list of segments, each encoded here; `route` names the call in the table of times.
 * Throws a Problem for everything but success.
 */
export async function call(method, path, { route, query, json, form, idempotencyKey, text = false, token } = {}) {
  const url = path.map(encodeURIComponent).join("/") + (query ? `?${new URLSearchParams(query)}` : "");
  const headers = {};
  const secret = token ?? key.read();
  if (secret) headers.Authorization = `Bearer ${secret}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  if (idempotencyKey) headers["Idempotency-Key"] = idempotencyKey;
  const started = performance.now();
  const [response, body] = await answer(url, { method, headers, body: json !== undefined ? JSON.stringify(json) : form, cache: "no-store" });
  note(`${method} /${route ?? path.join("/")}`, performance.now() - started);
  if (!response.ok) throw new Problem(problemOf(response, body), Number(response.headers.get("Retry-After")) || null);
  if (text) return body;
  return body === "" ? null : JSON.parse(body);
}

async function answer(url, request) {
  try {
    const response = await fetch(url, request);
    return [response, await response.text()];
  } catch {
    throw new Problem({ detail: "The service does not answer. It may be stopped, or this page has lost its connection to it." });
  }
}

function problemOf(response, body) {
  try {
    const problem = JSON.parse(body);
    if (typeof problem.detail === "string") return problem;
  } catch {
    // not JSON: something between the page and the service answered
  }
  return { detail: `The service answered with status ${response.status} and no reason.`, status: response.status };
}

function note(name, elapsedMs) {
  if (!timings.has(name)) timings.set(name, []);
  timings.get(name).push(elapsedMs);
}
