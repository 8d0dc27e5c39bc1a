/**
 * The noise schedule of the checkpoint and the deterministic sampler (DDIM, Song et al. 2021), as
 * diffusers computes them. A schedule is {alphaBar: ᾱ_t of every timestep, offset}.
 */

export const WEIGHTINGS = ["sde", "score", "noise"];

/** The timesteps that `steps` steps visit, noisiest first ("leading" spacing). */
export function timesteps({ alphaBar, offset }, steps) {
  const stride = Math.floor(alphaBar.length / steps);
  return Array.from({ length: steps }, (_, i) => (steps - 1 - i) * stride + offset);
}

/** The denoised view x̂_0 = (x - σ ε)/α of x at timestep t under the noise prediction eps. */
export function clean({ alphaBar }, x, eps, t) {
  const alpha = Math.sqrt(alphaBar[t]);
  const sigma = Math.sqrt(1 - alphaBar[t]);
  return x.map((value, i) => (value - sigma * eps[i]) / alpha);
}

/** One step of DDIM: the state that follows x at timestep t, where `steps` steps are taken. */
export function step(schedule, x, eps, t, steps) {
  const { alphaBar } = schedule;
  const next = alphaBar[Math.max(0, t - Math.floor(alphaBar.length / steps))];
  const view = clean(schedule, x, eps, t);
  return view.map((value, i) => Math.sqrt(next) * value + Math.sqrt(1 - next) * eps[i]);
}

/** What multiplies ‖Δε‖² at timestep t: β_t/(1-ᾱ_t), 1/(1-ᾱ_t) or 1. */
export function weight({ alphaBar }, t, weighting) {
  if (weighting === "noise") return 1;
  if (weighting === "score") return 1 / (1 - alphaBar[t]);
  const beta = 1 - alphaBar[t] / (t > 0 ? alphaBar[t - 1] : 1);
  return beta / (1 - alphaBar[t]);
}

/**
 * What ‖Δε‖² at each visited timestep counts in an estimate's sum: for "sde" the sum is J in nats,
 * an integral over time; for the others it is a mean over time.
 */
export function termWeights(schedule, times, weighting) {
  const span = weighting === "sde" ? schedule.alphaBar.length : 1;
  return times.map((t) => (weight(schedule, t, weighting) * span) / times.length);
}
