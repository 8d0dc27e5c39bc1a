/** How an estimate settles: one small SVG for each weighting, drawn anew after every draw. */

import { estimate } from "./distance.js";
import { element } from "./element.js";

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

/**
 * What each step adds, as a row of buttons as high as it is much.
 *
 * @param adds in nats, by step.
 * @param times the timestep of each.
 * @param choose what a click on step i does: choose(i).
 */
export function contributionBars(adds, times, choose) {
  const most = Math.max(...adds, Number.MIN_VALUE);
  return adds.map((value, i) => {
    const label = `Step ${i + 1}, timestep ${times[i]}: adds ${format(value, 3)} nats`;
    const bar = element("button", { type: "button", class: "conjure-bar", title: label, "aria-label": label });
    bar.style.setProperty("--share", Math.max(0, value) / most);
    bar.addEventListener("click", () => choose(i));
    return bar;
  });
}

/** Where a value lies among recorded ones: a line with a mark, and the share that is farther. */
export function ruler(value, quantiles, label) {
  const low = quantiles[0];
  const high = Math.max(quantiles.at(-1), value);
  const x = (v) => 10 + (480 * (Math.min(high, Math.max(low, v)) - low)) / (high - low || 1);
  const chart = svg("svg", { viewBox: "0 0 500 46", role: "img", "aria-label": label });
  const middle = (i) => Math.round((i * (quantiles.length - 1)) / 10);
  for (let i = 0; i < 10; i++) {
    const [from, to] = [x(quantiles[middle(i)]), x(quantiles[middle(i + 1)])];
    const tenth = { x: from, width: Math.max(0, to - from), y: 14, height: 12, class: "conjure-tenth" };
    chart.append(svg("rect", { ...tenth, "fill-opacity": i % 2 ? 0.25 : 0.5 }));
  }
  chart.append(svg("line", { class: "conjure-mark", x1: x(value), x2: x(value), y1: 6, y2: 34 }));
  for (const [end, anchor] of [[low, "start"], [high, "end"]]) {
    chart.append(svg("text", { x: x(end), y: 44, "text-anchor": anchor }, format(end, 3)));
  }
  return chart;
}

/** The share of recorded values above this one, in percent. */
export function farther(value, quantiles) {
  return Math.round((100 * quantiles.filter((one) => one > value).length) / quantiles.length);
}

/**
 * A map of three texts. J adds up as squared lengths do, so the sides of the triangle are the square
 * roots of the distances, as nearly as the three fit together.
 *
 * @param distances of the first and second, first and third, second and third text, in nats.
 */
export function triangle(texts, distances, colours, label) {
  const [ab, ac, bc] = distances.map((one) => Math.sqrt(Math.max(0, one)));
  const along = ab > 0 ? (ab ** 2 + ac ** 2 - bc ** 2) / (2 * ab) : 0;
  const up = Math.sqrt(Math.max(0, ac ** 2 - along ** 2));
  const points = [[0, 0], [ab, 0], [along, -up]];
  const xs = points.map(([x]) => x);
  const scale = 200 / Math.max(Math.max(...xs) - Math.min(...xs), up, Number.MIN_VALUE);
  const place = ([x, y]) => [80 + (x - Math.min(...xs)) * scale, 30 + (y + up) * scale];
  const placed = points.map(place);
  const chart = svg("svg", { viewBox: `0 0 360 ${60 + up * scale}`, role: "img", "aria-label": label });
  for (const [i, j, value] of [[0, 1, 0], [0, 2, 1], [1, 2, 2]]) {
    const [[x1, y1], [x2, y2]] = [placed[i], placed[j]];
    chart.append(svg("line", { class: "conjure-side", x1, y1, x2, y2 }));
    const at = { x: (x1 + x2) / 2, y: (y1 + y2) / 2 - 3, "text-anchor": "middle" };
    chart.append(svg("text", at, format(distances[value], 3)));
  }
  placed.forEach(([cx, cy], i) => {
    chart.append(svg("circle", { cx, cy, r: 5, fill: colours[i] }));
    const at = { x: cx, y: i < 2 ? cy + 20 : cy - 10, "text-anchor": "middle" };
    chart.append(svg("text", at, [...texts[i]].slice(0, 24).join("")));
  });
  return chart;
}
