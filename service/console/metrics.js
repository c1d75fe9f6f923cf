// Reading the text format of Prometheus: samples, and quantiles of the histograms of requests.

const SAMPLE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** Samples as {name, labels, value}; comments and lines that are none are passed over. */
export function samples(text) {
  return text.split("\n").filter((line) => line && !line.startsWith("#")).map((line) => SAMPLE.exec(line)).filter(Boolean)
    .map(([, name, labels, value]) => ({ name, labels: labelsOf(labels ?? ""), value: number(value) }));
}

function labelsOf(text) {
  return Object.fromEntries(Array.from(text.matchAll(LABEL), ([, name, value]) =>
    [name, value.replace(/\\(.)/g, (_, sign) => (sign === "n" ? "\n" : sign))]));
}

const number = (text) => ({ "+Inf": Infinity, "-Inf": -Infinity })[text] ?? Number(text);

/** Histograms in seconds as {name, labels, count, buckets: [[upper bound, cumulative count], …]}. */
export function histograms(all) {
  const found = new Map();
  for (const { name, labels: { le, ...labels }, value } of all) {
    if (!name.endsWith("_seconds_bucket") || le === undefined) continue;
    const id = JSON.stringify([name, Object.entries(labels).sort()]);
    if (!found.has(id)) found.set(id, { name: name.replace(/_bucket$/, ""), labels, buckets: [] });
    found.get(id).buckets.push([number(le), value]);
  }
  return [...found.values()].map((one) => {
    const buckets = one.buckets.sort(([a], [b]) => a - b);
    return { ...one, buckets, count: buckets.at(-1)[1] };
  });
}

/** The quantile of a histogram in seconds, linear within its bucket; infinite beyond the last finite bound. */
export function histogramQuantile({ buckets, count }, share) {
  const rank = share * count;
  let [lower, below] = [0, 0];
  for (const [upper, cumulative] of buckets) {
    if (cumulative >= rank && cumulative > below) {
      return upper === Infinity ? Infinity : lower + ((upper - lower) * (rank - below)) / (cumulative - below);
    }
    [lower, below] = [upper, cumulative];
  }
  return NaN;
}
