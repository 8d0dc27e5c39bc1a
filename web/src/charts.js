/** How an estimate settles: one small SVG for each weighting, drawn anew after every draw. */

import { estimate } from "./distance.js";

const WIDTH = 220;
const HEIGHT = 110;
const MARGIN = { left: 44, right: 8, top: 8, bottom: 22 };

/** A number in so many significant digits, without an exponent where it is of everyday size. */
export function format(value, digits) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(digits))) : "–";
}

function svg(name, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

/**
 * A chart of the draws so far: a dot for each draw's own value, a line for the running mean, and
 * bars of one standard error around it.
 *
 * @param values of the draws that are done.
 * @param draws how many there will be.
 * @param label what a screen reader says.
 */
export function settlingChart(values, draws, label) {
  const means = values.map((_, i) => estimate(values.slice(0, i + 1)));
  const ends = means.flatMap(({ value, stderr }) =>
    Number.isFinite(stderr) ? [value - stderr, value + stderr] : [value],
  );
  const low = Math.min(...values, ...ends);
  const high = Math.max(...values, ...ends);
  const x = (i) =>
    MARGIN.left + ((i + 0.5) / draws) * (WIDTH - MARGIN.left - MARGIN.right);
  const y = (value) => {
    const share = high > low ? (value - low) / (high - low) : 0.5;
    return HEIGHT - MARGIN.bottom - share * (HEIGHT - MARGIN.top - MARGIN.bottom);
  };
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const value of new Set([low, high])) {
    const place = { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" };
    chart.append(svg("text", place, format(value, 3)));
  }
  const below = { x: WIDTH / 2 + MARGIN.left / 2, y: HEIGHT - 4, "text-anchor": "middle" };
  chart.append(svg("text", below, `${values.length} of ${draws} draws`));
  means.forEach(({ value, stderr }, i) => {
    if (!Number.isFinite(stderr)) return;
    const bar = { x1: x(i), x2: x(i), y1: y(value - stderr), y2: y(value + stderr) };
    chart.append(svg("line", { class: "conjure-error", ...bar }));
  });
  const line = means.map(({ value }, i) => `${x(i)},${y(value)}`).join(" ");
  chart.append(svg("polyline", { class: "conjure-mean", points: line }));
  values.forEach((value, i) =>
    chart.append(svg("circle", { class: "conjure-draw", cx: x(i), cy: y(value), r: 2.5 })),
  );
  return chart;
}
