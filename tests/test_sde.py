"""The SDE and its closed forms, against diffusers, autograd, scipy and quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from conjure_lib.sde import (
    FlowSchedule,
    Schedule,
    clean_from_eps,
    eps_from_score,
    term_weights,
)
from studies.gaussians import Mixture, gaussian_kl, mixture

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SCHEDULE = Schedule.of(SCHEDULER)
STEPS = torch.arange(1000)
DRAWS = 4096
BLOCKS = 32  # independent stratified estimates that the standard error comes from


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# -- the schedule ----------------------------------------------------------------------------


def test_discrete_schedule_is_that_of_diffusers() -> None:
    assert SCHEDULE.T == 1000
    torch.testing.assert_close(
        SCHEDULE.alpha_bar(STEPS), SCHEDULER.alphas_cumprod.double(), rtol=0, atol=0
    )
    # ᾱ is kept in float32 there: near one, that leaves β about four digits
    torch.testing.assert_close(
        SCHEDULE.beta_step(STEPS), SCHEDULER.betas.double(), rtol=2e-4, atol=0
    )


def test_weights_are_those_of_the_contract() -> None:
    t = torch.tensor([0, 1, 500, 999])
    betas, alpha_bar = SCHEDULER.betas.double()[t], SCHEDULER.alphas_cumprod.double()[t]
    expected = {
        "sde": betas / (1 - alpha_bar),
        "score": 1 / (1 - alpha_bar),
        "noise": torch.ones(4, dtype=torch.float64),
    }
    for weighting, weights in expected.items():
        torch.testing.assert_close(SCHEDULE.weight(t, weighting), weights, rtol=2e-4, atol=0)
    with pytest.raises(ValueError, match="'likelihood'"):
        SCHEDULE.weight(t, "likelihood")


def test_continuous_schedule_passes_through_the_discrete_one() -> None:
    alpha, sigma = SCHEDULE.alpha(STEPS + 1), SCHEDULE.sigma(STEPS + 1)
    alpha_bar = SCHEDULER.alphas_cumprod.double()
    torch.testing.assert_close(alpha**2, alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma**2, 1 - alpha_bar, rtol=1e-9, atol=0)
    assert SCHEDULE.alpha(torch.tensor(0.0)) == 1 and SCHEDULE.sigma(torch.tensor(0.0)) == 0


def test_alpha_solves_its_differential_equation() -> None:
    tau = torch.rand(200, generator=torch.Generator().manual_seed(0)).double() * 999
    tau = tau.floor() + 0.1 + 0.8 * (tau - tau.floor())  # β jumps at whole steps: keep off them
    h = 1e-3
    slope = (SCHEDULE.alpha(tau + h) - SCHEDULE.alpha(tau - h)) / (2 * h)
    expected = -0.5 * SCHEDULE.beta(tau) * SCHEDULE.alpha(tau)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(SCHEDULE.diffusion(tau) ** 2, SCHEDULE.beta(tau))


@pytest.mark.parametrize(
    "table", [[0.9, 0.95], [0.9, 0.9], [1.0, 0.5], [0.5, 0.0], [[0.9], [0.8]], [0.9, math.nan]]
)
def test_a_table_that_is_no_schedule_is_refused(table: list[float]) -> None:
    with pytest.raises(ValueError, match="alphas_cumprod"):
        Schedule(torch.tensor(table))


def test_drift_and_reverse_drift() -> None:
    x, score = random(3, 4, 8, 8), random(3, 4, 8, 8, seed=1)
    tau = torch.tensor([0.5, 250.25, 999.5])
    for row, beta in enumerate(-torch.log1p(-SCHEDULER.betas.double()[[0, 250, 999]])):
        forward = -0.5 * beta * x[row]
        reverse = forward - beta * score[row]
        torch.testing.assert_close(SCHEDULE.drift(x, tau)[row], forward, rtol=2e-4, atol=1e-9)
        torch.testing.assert_close(
            SCHEDULE.reverse_drift(x, tau, score)[row], reverse, rtol=2e-4, atol=1e-9
        )


def test_the_reverse_sde_with_the_exact_score_makes_the_data() -> None:
    """Euler and Maruyama from the law at T back to 0: data N(2, 0.5²), 4 standard errors."""
    n, mean, std = 20_000, 2.0, 0.5
    generator = torch.Generator().manual_seed(0)
    alpha, sigma = (f(torch.tensor(1000.0)) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
    x = alpha * mean + (alpha**2 * std**2 + sigma**2).sqrt() * random(n, 1)
    for step in range(1000):
        tau = torch.tensor(999.5 - step)
        alpha, sigma = SCHEDULE.alpha(tau), SCHEDULE.sigma(tau)
        score = -(x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        z = torch.randn(n, 1, dtype=torch.float64, generator=generator)
        x = x - SCHEDULE.reverse_drift(x, tau, score) + SCHEDULE.diffusion(tau) * z
    assert abs(x.mean() - mean) < 4 * std / n**0.5
    assert abs(x.std() - std) < 4 * std / (2 * n) ** 0.5


# -- noise, score, denoised view -------------------------------------------------------------


@pytest.mark.parametrize("sigma", [torch.tensor(0.7), torch.tensor([0.1, 0.5, 0.9])])
def test_noise_of_a_score(sigma: Tensor) -> None:
    score = random(3, 4, 2, 2)
    expected = torch.stack([-s * float(v) for s, v in zip(score, sigma.expand(3), strict=True)])
    torch.testing.assert_close(eps_from_score(score, sigma), expected, rtol=1e-6, atol=0)


def test_denoised_view_inverts_diffusers_add_noise() -> None:
    clean, eps = random(3, 4, 8, 8).float(), random(3, 4, 8, 8, seed=1).float()
    t = torch.tensor([0, 500, 999])
    noisy = SCHEDULER.add_noise(clean, eps, t)
    view = clean_from_eps(noisy, eps, *SCHEDULE.coefficients(t))
    torch.testing.assert_close(view, clean, rtol=0, atol=2e-5)  # 1/α is 15 at the last step


# -- closed forms ----------------------------------------------------------------------------

MIXTURES = [
    mixture([[1.0, -1.0]], [0.7], [1.0]),
    mixture([[1.0, -1.0], [-2.0, 0.5], [0.0, 0.0]], [0.7, 0.4, 1.5], [0.2, 0.5, 0.3]),
]


@pytest.mark.parametrize("law", MIXTURES)
def test_score_is_the_gradient_of_log_prob(law: Mixture) -> None:
    x = (2 * random(50, 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(law.score(x.detach()), gradient)


@pytest.mark.parametrize("law", MIXTURES)
def test_log_prob_is_that_of_scipy(law: Mixture) -> None:
    x = 2 * random(50, 2)
    torch.testing.assert_close(law.log_prob(x), torch.from_numpy(np.log(density(law, x.numpy()))))


@pytest.mark.parametrize("law", MIXTURES)
def test_samples_have_the_moments_of_the_law(law: Mixture) -> None:
    n = 100_000
    x = law.sample(n, torch.Generator().manual_seed(0)).numpy()
    weights, means, stds = law.weights.numpy(), law.means.numpy(), law.stds.numpy()
    mean = weights @ means
    second = weights @ (means**2 + stds[:, None] ** 2)
    assert np.all(np.abs(x.mean(0) - mean) < 4 * x.std(0) / n**0.5)
    assert np.all(np.abs((x**2).mean(0) - second) < 4 * (x**2).std(0) / n**0.5)


@pytest.mark.parametrize("law", MIXTURES)
def test_diffused_law_is_the_law_of_noised_samples(law: Mixture) -> None:
    """Kolmogorov and Smirnov: αx + σε against the distribution function of the closed form."""
    alpha, sigma = 0.8, 0.6
    x = law.sample(20_000, torch.Generator().manual_seed(0))
    noised = (alpha * x + sigma * random(*x.shape, seed=1))[:, 0].numpy()
    diffused = law.diffuse(alpha, sigma)

    def distribution(at: NDArray) -> NDArray:
        parts = zip(diffused.weights, diffused.means[:, 0], diffused.stds, strict=True)
        return sum(float(w) * stats.norm(float(m), float(s)).cdf(at) for w, m, s in parts)

    assert stats.kstest(noised, distribution).pvalue > 0.01


def test_gaussian_kl_is_that_of_torch() -> None:
    p, q = Mixture.gaussian([1.0, -0.5, 2.0], 0.7), Mixture.gaussian([0.0, 0.3, 1.0], 1.2)
    for one, two in ((p, q), (q, p)):
        normals = (torch.distributions.Normal(law.means[0], law.stds) for law in (one, two))
        torch.testing.assert_close(
            gaussian_kl(one, two), torch.distributions.kl_divergence(*normals).sum()
        )
    with pytest.raises(ValueError, match="single Gaussians"):
        gaussian_kl(p, MIXTURES[1])


# -- the identity: path divergence = divergence at 0 less divergence at T -----------------------

PAIRS = {
    "gaussians, equal stds": (
        mixture([[1.0, 0.0]], [0.8], [1.0]),
        mixture([[-0.5, 1.0]], [0.8], [1.0]),
    ),
    "gaussians": (mixture([[0.8, 0.0]], [1.0], [1.0]), mixture([[-0.8, 0.5]], [0.8], [1.0])),
    "mixtures": (
        mixture([[-1.2, -0.6], [-0.8, 0.6]], [0.7, 0.8], [0.4, 0.6]),
        mixture([[0.8, 0.6], [0.6, -0.8]], [0.8, 0.7], [0.7, 0.3]),
    ),
}
AXIS = np.linspace(-8, 8, 81)  # a grid on which a plain sum over these smooth laws is exact
GRID = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 2)
CELL = float(AXIS[1] - AXIS[0]) ** 2


def density(law: Mixture, x: NDArray) -> NDArray:
    """p(x) for x (n, 2), by scipy."""
    parts = zip(law.weights, law.means, law.stds, strict=True)
    return sum(
        float(w) * stats.multivariate_normal(m.numpy(), float(s) ** 2).pdf(x) for w, m, s in parts
    )


def quadrature_kl(p: Mixture, q: Mixture) -> float:
    """KL(p‖q) in two dimensions by quadrature of densities that are scipy's."""
    p_x, q_x = density(p, GRID), density(q, GRID)
    return float((p_x * (np.log(p_x + 1e-300) - np.log(q_x + 1e-300))).sum() * CELL)


def at_time(law: Mixture, tau: float) -> Mixture:
    at = torch.tensor(tau, dtype=torch.float64)
    return law.diffuse(SCHEDULE.alpha(at), SCHEDULE.sigma(at))


def lost(p: Mixture, q: Mixture) -> float:
    """KL(p‖q) at 0 less KL(p‖q) at T."""
    return quadrature_kl(p, q) - quadrature_kl(at_time(p, 1000.0), at_time(q, 1000.0))


Time = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  # τ to α, σ and g²


def diffusing(tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return SCHEDULE.alpha(tau), SCHEDULE.sigma(tau), SCHEDULE.beta(tau)


def path_divergence(
    p: Mixture, q: Mixture, draw_from: list[Mixture], at: Time = diffusing
) -> tuple[float, float]:
    """T · E[g² ‖Δs‖²], x from an equal mixture of ``draw_from``: the mean and its standard error.

    τ is stratified, one draw in each of 128 slices of [0, T], which is what 2 % at 4,096 draws
    need; the standard error is that of 32 independent repetitions.
    """
    generator = torch.Generator().manual_seed(0)
    strata = DRAWS // BLOCKS
    values = np.empty((BLOCKS, strata))
    for block, stratum in np.ndindex(values.shape):
        uniform, choice = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        tau = torch.tensor(SCHEDULE.T * (stratum + uniform) / strata, dtype=torch.float64)
        law = draw_from[int(choice * len(draw_from))]
        alpha, sigma, square_g = at(tau)
        x = law.diffuse(alpha, sigma).sample(1, generator)
        difference = p.diffuse(alpha, sigma).score(x) - q.diffuse(alpha, sigma).score(x)
        values[block, stratum] = SCHEDULE.T * square_g * difference.square().sum()
    blocks = values.mean(axis=1)
    return float(blocks.mean()), float(blocks.std(ddof=1) / math.sqrt(BLOCKS))


@pytest.mark.parametrize("name", PAIRS)
def test_jeffreys_divergence_of_the_paths_by_monte_carlo(name: str) -> None:
    """Continuous time, exact scores: nothing is approximated but the expectation."""
    p, q = PAIRS[name]
    value, stderr = path_divergence(p, q, [p, q])
    truth = lost(p, q) + lost(q, p)
    assert abs(value - truth) < 3 * stderr
    assert abs(value - truth) < 0.02 * truth


@pytest.mark.parametrize(("one", "two"), [(0, 1), (1, 0)])
def test_each_direction_of_the_path_divergence_by_monte_carlo(one: int, two: int) -> None:
    p, q = PAIRS["mixtures"][one], PAIRS["mixtures"][two]
    value, stderr = path_divergence(p, q, [p])
    assert abs(value / 2 - lost(p, q)) < 3 * stderr / 2
    assert abs(value / 2 - lost(p, q)) < 0.02 * lost(p, q)


@pytest.mark.parametrize("name", PAIRS)
def test_path_divergence_by_quadrature(name: str) -> None:
    """The same identity with the expectation by quadrature too: five digits, no chance."""
    p, q = PAIRS[name]
    x, found, slices = torch.from_numpy(GRID), 0.0, 200  # their middles are middles of steps
    for tau in (torch.arange(slices, dtype=torch.float64) + 0.5) * SCHEDULE.T / slices:
        p_tau, q_tau = at_time(p, float(tau)), at_time(q, float(tau))
        square = (p_tau.score(x) - q_tau.score(x)).square().sum(1)
        expectation = float((p_tau.log_prob(x).exp() * square).sum() * CELL)
        found += 0.5 * float(SCHEDULE.beta(tau)) * expectation * SCHEDULE.T / slices
    assert found == pytest.approx(lost(p, q), rel=1e-4)


def test_the_truth_of_these_tests_is_exact_for_gaussians() -> None:
    """Quadrature against ½(d(r - 1 - log r) + ‖Δm‖²/c₂²), written out."""
    (p, q), ratio = PAIRS["gaussians"], (1.0 / 0.8) ** 2
    expected = 0.5 * (2 * (ratio - 1 - math.log(ratio)) + (1.6**2 + 0.5**2) / 0.8**2)
    assert quadrature_kl(p, q) == pytest.approx(expected, rel=1e-9)


# -- flow matching: the same identity under its own SDE ------------------------------------------

FLOW = FlowSchedule(1000)


def flowing(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """α, σ and g² at times t: the weight "sde" is that of ‖Δε‖² = σ²‖Δs‖²."""
    alpha, sigma = FLOW.coefficients(t)
    return alpha, sigma, FLOW.weight(t, "sde") * sigma**2


def test_the_sde_of_a_flow_has_its_marginals() -> None:
    """d/dσ of the variance α²c² + σ² is -2/(1 - σ) of it, the drift's share, and g²."""
    t, c, h = torch.linspace(10, 990, 50).double(), 0.7, 1e-4

    def variance(t: Tensor) -> Tensor:
        alpha, sigma = FLOW.coefficients(t)
        return alpha**2 * c**2 + sigma**2

    slope = (variance(t + h) - variance(t - h)) / (2 * h)
    alpha, _, square_g = flowing(t)
    torch.testing.assert_close(
        slope, square_g - 2 / (1000 * alpha) * variance(t), rtol=1e-6, atol=0
    )


def gaussian_terms(p: Mixture, q: Mixture, t: Tensor) -> Tensor:
    """E ‖Δε‖² for x of p at times t, closed form: the score of N(αm, vI) is -(x - αm)/v."""
    alpha, sigma = FLOW.coefficients(t)
    v, w = (alpha**2 * law.stds[0] ** 2 + sigma**2 for law in (p, q))
    shift = alpha**2 * (p.means[0] - q.means[0]).square().sum() / w**2
    return sigma**2 * (p.means.shape[1] * v * (1 / v - 1 / w) ** 2 + shift)


@pytest.mark.parametrize("name", ["gaussians, equal stds", "gaussians"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [50, 1000])
def test_path_divergence_of_a_flow_in_closed_form(name: str, shift: float, steps: int) -> None:
    """The sum over visited times that an estimate makes, evenly spaced and crowded by a shift.

    At T a flow is at N(0, I) exactly, so that nothing is left there: it is KL(p‖q).
    """
    sigma = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    t = FLOW.T * shift * sigma / (1 + (shift - 1) * sigma)
    weights = term_weights(FLOW, t, "sde")
    p, q = PAIRS[name]
    for one, two in ((p, q), (q, p)):
        found = float(0.5 * (weights * gaussian_terms(one, two, t)).sum())
        # a sum in place of an integral, of first order where the times are uneven
        assert found == pytest.approx(float(gaussian_kl(one, two)), rel=3 / steps)


def test_the_integrand_of_a_flow_is_how_fast_the_divergence_falls() -> None:
    """At every time: -d/dt KL(p_t‖q_t) = ½ g² E ‖Δs‖²."""
    p, q = PAIRS["gaussians"]
    for time in torch.linspace(5, 995, 12).double():
        t = time.clone().requires_grad_()
        sigma = t / FLOW.T
        divergence = gaussian_kl(p.diffuse(1 - sigma, sigma), q.diffuse(1 - sigma, sigma))
        (slope,) = torch.autograd.grad(divergence, t)
        expected = 0.5 * FLOW.weight(time, "sde") * gaussian_terms(p, q, time)
        torch.testing.assert_close(-slope, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", PAIRS)
def test_jeffreys_divergence_of_the_paths_of_a_flow_by_monte_carlo(name: str) -> None:
    p, q = PAIRS[name]
    value, stderr = path_divergence(p, q, [p, q], flowing)
    truth = quadrature_kl(p, q) + quadrature_kl(q, p)
    assert abs(value - truth) < 3 * stderr
    assert abs(value - truth) < 0.03 * truth
