// Can the service do its work, how well is its model measured, how fast does it answer?

import { call, roundTrips } from "./api.js";
import { busy, byId, element, table, terms } from "./dom.js";
import { count, milliseconds, percent, quantile, rate } from "./figures.js";
import { histogramQuantile, histograms, samples } from "./metrics.js";
import { models } from "./model.js";
import { attempt, clearProblem, showProblem, wordsOf } from "./problems.js";
import { verdict } from "./verdict.js";

const REQUESTS = 40;
const LIVE = ["health", "live"];

export function startStatus() {
  byId("status-again").addEventListener("click", (event) => busy(event.currentTarget, openStatus));
  byId("status-measure").addEventListener("click", (event) => busy(event.currentTarget, measure));
}

export async function openStatus() {
  await Promise.all([showReadiness(), showModels(), showMetrics()]);
  showCalls();
}

async function showReadiness() {
  const place = byId("status-ready");
  try {
    const { detector, calibrated, checks } = await call("GET", ["health", "ready"]);
    place.replaceChildren(verdict(true, "The service is ready"), terms([
      ["Face detector", detector ? "present" : "missing: only aligned crops and embeddings are taken"],
      ["Error rates", calibrated ? "known, from the model's calibration" : "unknown: the model has no calibration"],
      ...checked(checks),
    ]));
  } catch (problem) {
    place.replaceChildren(verdict(false, "The service is not ready"), element("p", {}, wordsOf(problem)), terms(checked(problem.members?.checks)));
  }
}

/** What was checked, where the service tells it one by one. */
function checked(checks) {
  if (!Array.isArray(checks)) return [];
  return checks.map(({ name, ok, detail }) => [name, [ok ? "works" : "does not work", detail].filter(Boolean).join(": ")]);
}

async function measure() {
  const times = [];
  const measured = await attempt(byId("status-latency"), async () => {
    for (let index = 0; index < REQUESTS; index += 1) {
      const started = performance.now();
      await call("GET", LIVE);
      times.push(performance.now() - started);
    }
  });
  if (!measured) return;
  byId("status-latency").className = "";
  byId("status-latency").hidden = false;
  byId("status-latency").replaceChildren(element("p", {}, `${count(REQUESTS)} requests one after the other: half within `,
    element("strong", {}, milliseconds(quantile(times, 0.5))), ", 95 % within ", element("strong", {}, milliseconds(quantile(times, 0.95))),
    `, the slowest ${milliseconds(Math.max(...times))}.`));
  showCalls();
}

function showCalls() {
  const columns = [{ title: "Call" }, { title: "Requests", number: true }, { title: "p50", number: true }, { title: "p95", number: true },
    { title: "Slowest", number: true }];
  const rows = [...roundTrips()].sort(([a], [b]) => a.localeCompare(b)).map(([name, times]) => [
    element("code", {}, name), count(times.length), milliseconds(quantile(times, 0.5)), milliseconds(quantile(times, 0.95)), milliseconds(Math.max(...times))]);
  byId("status-calls").replaceChildren(table("Calls of this page since it was opened", columns, rows));
}

async function showModels() {
  await attempt(byId("status-model-problem"), async () => {
    const reply = await models();
    byId("status-model").replaceChildren(...reply.models.flatMap((model) => card(model, reply)));
  });
}

function card(model, reply) {
  const several = reply.models.length > 1;
  return [
    element("h3", {}, model.name, several && model.id === reply.model ? " (default)" : ""),
    element("p", {}, model.card),
    terms([
      ["Id", element("code", {}, model.id)],
      ["Embedding", `${count(model.embedding_dim)} numbers`],
      ["Input", `${model.size[1]} × ${model.size[0]} pixels, aligned by ${model.template}${model.flip_sum ? ", with the mirrored crop" : ""}`],
      ["Licence", model.licence || "not stated"],
    ]),
    model.metrics.length ? figures(model) : null,
    model.calibration ? thresholds(model) : element("p", {}, "No calibration: no error rate can be stated."),
  ].filter(Boolean);
}

function figures({ name, metrics }) {
  const columns = [{ title: "Figure" }, { title: "Protocol" }, { title: "Value", number: true }, { title: "95 % interval", number: true }];
  const short = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : "");
  return table(`Measured figures of ${name}`, columns, metrics.map((one) => [
    one.name, one.protocol, short(one.value), typeof one.low === "number" ? `${short(one.low)} to ${short(one.high)}` : "not given"]));
}

function thresholds({ name, calibration }) {
  const columns = [{ title: "False match rate" }, { title: "Threshold", number: true }, { title: "Errors seen", number: true },
    { title: "Pairs", number: true }, { title: "Supported" }];
  const rows = calibration.thresholds.map((row) => [
    rate(row.fmr), row.threshold.toFixed(4), count(row.errors), count(row.impostor_pairs), row.supported ? "yes" : "too few errors"]);
  return element("div", {},
    element("p", {}, `Calibrated on ${calibration.source}: ${count(calibration.people)} people, ${count(calibration.genuine_pairs)} pairs of one person, ` +
      `${count(calibration.impostor_pairs)} of two; smallest supported rate ${rate(calibration.smallest_supported_fmr)}; prior ${percent(calibration.prior)}.`),
    table(`Thresholds of ${name}`, columns, rows));
}

/** The service's own histograms. A service without them, or a key that may not ask, is no error of this page. */
async function showMetrics() {
  const place = byId("status-metrics");
  clearProblem(place);
  place.className = "";
  place.hidden = false;
  try {
    const all = samples(await call("GET", ["metrics"], { text: true }));
    place.replaceChildren(...durations(all));
  } catch (problem) {
    if (problem.status === 404) place.replaceChildren(element("p", { class: "empty" }, "This service publishes no figures at /metrics."));
    else {
      place.className = "problem";
      showProblem(place, problem);
    }
  }
}

function durations(all) {
  const columns = [{ title: "What" }, { title: "Count", number: true }, { title: "p50", number: true }, { title: "p95", number: true }];
  const seconds = (value) => (value === Infinity ? "beyond the last bucket" : milliseconds(value * 1000));
  const found = histograms(all).filter((one) => one.count > 0);
  if (!found.length) return [element("p", { class: "empty" }, "Nothing was measured yet.")];
  return [table("Times measured by the service, from its /metrics", columns, found.map((one) => [
    element("code", {}, [one.name.replace(/_seconds$/, ""), ...Object.values(one.labels)].join(" ")),
    count(one.count), seconds(histogramQuantile(one, 0.5)), seconds(histogramQuantile(one, 0.95))]))];
}
