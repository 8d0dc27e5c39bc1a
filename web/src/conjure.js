/** Algorithm 1, one step at a time. */

import { squaredDistance } from "./distance.js";
import { encode, predict, sameTokens } from "./model.js";
import { noise } from "./random.js";
import { step, timesteps } from "./schedule.js";

/**
 * Conjure two prompts and compare them at every step of every draw.
 *
 * Yields, for each step, {draw, index, t, x, eps, term}: x[i] is the state of the trajectory of
 * prompt i, eps[i][j] the noise prediction of prompt j at x[i], and term[i] what the distance is
 * made of, w² ‖eps[i][0] - eps[i][1]‖². With guidance the trajectories follow
 * ε(∅) + w (ε(y) - ε(∅)); at the same x the unconditional prediction cancels from the difference.
 */
export async function* conjure(model, prompts, { steps, draws, guidance, seed }) {
  const [first, second, empty] = await encode(model, [...prompts, ""]);
  const same = sameTokens(model, prompts); // the distance of a prompt from itself is exactly zero
  const guided = guidance !== 1;
  for (let draw = 0; draw < draws; draw++) {
    const start = noise(model.size, seed, draw); // shared by both prompts
    let x = [start, start];
    for (const [index, t] of timesteps(model.schedule, steps).entries()) {
      const [x1, x2] = x;
      const rows = await predict(
        model,
        guided ? [x1, x1, x2, x2, x1, x2] : [x1, x1, x2, x2],
        t,
        guided ? [first, second, first, second, empty, empty] : [first, second, first, second],
      );
      const eps = [rows.slice(0, 2), rows.slice(2, 4)];
      const term = eps.map(([a, b]) => (same ? 0 : guidance ** 2 * squaredDistance(a, b)));
      yield { draw, index, t, x, eps, term };
      x = x.map((state, i) => {
        const own = eps[i][i];
        const none = rows[4 + i];
        const followed = guided ? own.map((e, d) => none[d] + guidance * (e - none[d])) : own;
        return step(model.schedule, state, followed, t, steps);
      });
    }
  }
}
