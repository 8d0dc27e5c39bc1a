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

const CELLS = 240; // of the window of log-SNR

/** The timestep, between steps a fraction, at which λ = log(ᾱ/(1-ᾱ)) is `lambda`. */
function timeOf({ alphaBar }, lambda) {
  const due = -Math.log1p(Math.exp(-lambda)); // log ᾱ, which between steps is linear in time
  const after = alphaBar.findIndex((value) => Math.log(value) <= due);
  if (after <= 0) return after < 0 ? alphaBar.length - 1 : 0;
  const [here, next] = [Math.log(alphaBar[after - 1]), Math.log(alphaBar[after])];
  return after - 1 + (here - due) / (here - next);
}

/**
 * What ‖Δε‖² at each visited timestep counts in an estimate: Python's quadrature "linear". ‖Δε‖²/α²
 * is linear in the angle arctan(σ/α) between the timesteps and constant beyond them, and is
 * integrated over log-SNR: for "sde" the sum is J in nats, for the others it is a mean over time.
 */
export function termWeights(schedule, times, weighting) {
  const { alphaBar } = schedule;
  const lambda = (t) => Math.log(alphaBar[t] / (1 - alphaBar[t]));
  const angle = (l) => Math.atan(Math.exp(-l / 2));
  const low = lambda(alphaBar.length - 1);
  const size = (lambda(0) - low) / CELLS;
  const nodes = times.map((t) => angle(lambda(t))); // falling, as the noise does
  const weights = times.map(() => 0);
  for (let cell = 0; cell < CELLS; cell++) {
    const middle = low + (cell + 0.5) * size;
    const edges = [low + cell * size, low + (cell + 1) * size];
    const [late, early] = weighting === "sde" ? [] : edges.map((l) => timeOf(schedule, l));
    let mass = weighting === "sde" ? size : (late - early) / (alphaBar.length - 1);
    if (weighting === "score") mass *= 1 + Math.exp(middle); // 1/σ²
    mass /= 1 + Math.exp(-middle); // α²
    const at = angle(middle);
    const next = nodes.findIndex((node) => node <= at);
    const [before, after] = next < 0 ? [times.length - 1, times.length - 1] : [Math.max(0, next - 1), next];
    const share = before === after ? 1 : (nodes[before] - at) / (nodes[before] - nodes[after]);
    weights[before] += (1 - share) * mass;
    weights[after] += share * mass;
  }
  return weights.map((weight, i) => weight / alphaBar[times[i]]);
}
