/** Student's interval of the mean of a few values. */

import { estimate } from "./distance.js";

// the 97.5 % point for 1, 2, … degrees of freedom: as many as there can be draws on the page
const POINTS = [
  12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930,
];

/** The ends of the 95 % interval of the mean; null for a single value. */
export function interval(values) {
  if (values.length < 2) return null;
  const { value, stderr } = estimate(values);
  const half = POINTS[Math.min(values.length - 1, POINTS.length) - 1] * stderr;
  return [value - half, value + half];
}
