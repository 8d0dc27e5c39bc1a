/** From squared differences of noise predictions to distances with standard errors. */

import { WEIGHTINGS, termWeights } from "./schedule.js";

/** ‖a - b‖², summed over all dimensions. */
export function squaredDistance(a, b) {
  return a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0);
}

/** ‖a - b‖² at each place of latents (channels × places): where two predictions differ. */
export function differenceMap(a, b, channels) {
  const places = a.length / channels;
  const map = new Float32Array(places);
  a.forEach((value, i) => (map[i % places] += (value - b[i]) ** 2));
  return map;
}

/**
 * What each step adds to the distance of one draw. `terms` holds a pair of ‖Δε‖² for each visited
 * timestep, at the trajectory of the first and of the second prompt; the mixture is their mean.
 */
export function contributions(schedule, times, terms, weighting) {
  const weights = termWeights(schedule, times, weighting);
  return terms.map(([first, second], i) => (weights[i] * (first + second)) / 2);
}

/** The distance of one draw under each weighting. */
export function drawValues(schedule, times, terms) {
  const value = (weighting) =>
    contributions(schedule, times, terms, weighting).reduce((a, b) => a + b, 0);
  return Object.fromEntries(WEIGHTINGS.map((weighting) => [weighting, value(weighting)]));
}

/** Mean of the draws' values, and its standard error (NaN for a single draw). */
export function estimate(values) {
  const n = values.length;
  const value = values.reduce((a, b) => a + b, 0) / n;
  const variance = values.reduce((sum, v) => sum + (v - value) ** 2, 0) / (n - 1);
  return { value, stderr: n > 1 ? Math.sqrt(variance / n) : NaN };
}
