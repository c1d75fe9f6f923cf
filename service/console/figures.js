// Numbers as people read them.

const LARGEST_N = 1e9;
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A rate in words: "1 in 1,000" below 10 %, else in percent. */
export function rate(value) {
  if (value >= 0.0995) return `${(value * 100).toPrecision(2)} %`.replace("1.0e+2", "100");
  if (value < 1 / LARGEST_N) return `less than 1 in ${grouped.format(LARGEST_N)}`;
  const n = 1 / value;
  const step = 10 ** Math.max(0, Math.floor(Math.log10(n)) - 1);
  return `1 in ${grouped.format(Math.round(n / step) * step)}`;
}

/** A probability in percent, never rounded to certainty. */
export function percent(value) {
  if (value > 0.9999) return "more than 99.99 %";
  if (value < 0.0001) return "less than 0.01 %";
  const text = (value * 100).toFixed(value > 0.99 || value < 0.01 ? 2 : 1);
  return `${text} %`;
}

export const count = (value) => grouped.format(value);
export const cosine = (value) => value.toFixed(3).replace("-", "−");
export const degrees = (radians) => `${Math.round((radians * 180) / Math.PI)}°`.replace("-", "−");
export const milliseconds = (value) => (value >= 100 ? `${value.toFixed(0)} ms` : `${value.toFixed(1)} ms`);
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** The smallest value that at least this share of the values does not exceed (nearest rank). */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

/** Quality in words for a table cell: what cannot be measured on an aligned crop is "not measured". */
export function quality(measured) {
  const or = (value, format) => (value === null || value === undefined ? "not measured" : format(value));
  return {
    score: or(measured?.score, (value) => value.toFixed(2)),
    eyes: or(measured?.eye_distance_px, (value) => `${value.toFixed(0)} px`),
    sharpness: or(measured?.sharpness, (value) => value.toFixed(0)),
    pose: or(measured?.pose, (pose) =>
      `yaw ${degrees(pose.yaw_rad)}, pitch ${degrees(pose.pitch_rad)}, roll ${degrees(pose.roll_rad)}`),
  };
}
