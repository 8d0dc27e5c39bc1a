"""Algorithm 1: against closed forms, and the properties that any reading of it must have."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from diffusers import DDPMScheduler
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

import conjure_lib as cj
from conjure_lib.inputs import as_pairs
from conjure_lib.similarity import NEAR, RoundingWarning
from conjure_tools.baselines import direct_output, initial_timestep, text_encoder_cosine
from conjure_tools.neighbors import neighbors

SETTINGS = {"steps": 3, "draws": 2}
FOUR = [("a cat", "a dog"), ("pizza", "a cat"), ("a dog", "pizza"), ("graveyard", "a cat")]

# -- the identity: with exact scores, J is the Jeffreys divergence of the two data laws ----------
#
# A process whose noise predictions are those of known laws, in two dimensions, runs through the
# same code as any network. Three things keep what is not Monte Carlo error near 0.3 % and below:
# a schedule that is Stable Diffusion's in shape with ten times the steps, so that 1 - exp(-β) in
# the weight is β; 100 visited timesteps in the middle of their strides (the midpoint rule); and
# the sampler's larger variance, exact for data of unit variance, which these laws are near to.

LENGTH, STEPS, DRAWS = 10_000, 100, 4096
Law = tuple[list[list[float]], list[float], list[float]]  # means, stds, weights
LAWS: dict[str, dict[str, Law]] = {
    "gaussians": {
        "y1": ([[1.0, 0.0]], [1.0], [1.0]),
        "y2": ([[-0.8, 0.5]], [0.8], [1.0]),
    },
    "mixtures": {
        "y1": ([[-1.2, -0.9], [-0.6, 0.7]], [0.6, 0.8], [0.5, 0.5]),
        "y2": ([[0.8, 0.8], [0.7, -0.8]], [0.8, 0.6], [0.3, 0.7]),
    },
}


def law_process(laws: dict[str, Law]) -> cj.GenerativeProcess:
    """The exact noise predictions of mixtures of isotropic Gaussians, written out."""
    scheduler = DDPMScheduler(
        num_train_timesteps=LENGTH,
        beta_start=0.00085 * 1000 / LENGTH,
        beta_end=0.012 * 1000 / LENGTH,
        beta_schedule="scaled_linear",
        clip_sample=False,
        variance_type="fixed_large",
        timestep_spacing="leading",
        steps_offset=LENGTH // STEPS // 2,
    )
    means, stds, weights = (
        torch.tensor(part).double() for part in zip(*laws.values(), strict=True)
    )

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([list(laws).index(text) for text in texts])

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        alpha_bar = scheduler.alphas_cumprod.double()[t, None]  # (n, 1)
        variance = alpha_bar * stds[y] ** 2 + 1 - alpha_bar  # (n, K)
        away = x[:, None] - alpha_bar[..., None].sqrt() * means[y]  # (n, K, 2)
        joint = weights[y].log() - variance.log() - away.square().sum(-1) / variance / 2
        pull = (joint.softmax(1) / variance)[..., None] * away
        return (1 - alpha_bar).sqrt() * pull.sum(1)

    return cj.GenerativeProcess(predict, encode, scheduler, (2,))


def log_density(law: Law, alpha_bar: float, x: NDArray) -> NDArray:
    """log p_t(x) for x (n, 2), in numpy."""
    means, stds, weights = (np.array(part) for part in law)
    variance = alpha_bar * stds**2 + 1 - alpha_bar
    square = ((x[:, None] - math.sqrt(alpha_bar) * means) ** 2).sum(-1)
    return logsumexp(np.log(weights / (2 * np.pi * variance)) - square / (2 * variance), axis=1)


def kl(p: Law, q: Law, alpha_bar: float = 1.0) -> float:
    """KL(p_t‖q_t) in nats, by quadrature on a grid."""
    axis = np.linspace(-8, 8, 161)
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    log_p, log_q = log_density(p, alpha_bar, x), log_density(q, alpha_bar, x)
    return float((np.exp(log_p) * (log_p - log_q)).sum() * 0.1**2)


def gaussian_kl(p: Law, q: Law, alpha_bar: float = 1.0) -> float:
    """The same for single Gaussians, closed form."""
    ((m1,), (c1,), _), ((m2,), (c2,), _) = p, q
    v1, v2 = (alpha_bar * c**2 + 1 - alpha_bar for c in (c1, c2))
    shift = alpha_bar * ((m1[0] - m2[0]) ** 2 + (m1[1] - m2[1]) ** 2)
    return v1 / v2 - 1 - math.log(v1 / v2) + shift / (2 * v2)


@pytest.mark.parametrize("name", LAWS)
def test_distance_is_the_jeffreys_divergence_of_the_laws(name: str) -> None:
    process = law_process(LAWS[name])
    terms = cj.pair_terms(
        process,
        [("y1", "y2")],
        steps=STEPS,
        draws=DRAWS,
        sampler="ddpm",
        batch_size=2 * DRAWS,
        progress=False,
    )
    assert terms.timesteps.tolist() == list(range(9950, 0, -100))
    exact = gaussian_kl if name == "gaussians" else kl
    y1, y2 = LAWS[name].values()
    end = float(process.scheduler.alphas_cumprod[-1])
    forward, backward = (exact(p, q) - exact(p, q, end) for p, q in ((y1, y2), (y2, y1)))
    halves = {
        "both": ([1, 1], forward + backward),
        "y1": ([1, 0], forward),
        "y2": ([0, 1], backward),
    }
    for half, (keep, truth) in halves.items():  # ½∫g² E_p ‖Δs‖² is KL(p‖q), each on its own path
        (estimate,) = replace(terms, squares=terms.squares * keep).estimates("sde", "sum")
        assert 0 < estimate.stderr < 0.01 * truth, half
        assert abs(estimate.value - truth) < 3 * estimate.stderr, half
        assert half != "both" or abs(estimate.value - truth) < 0.02 * truth


def test_distance_of_equally_wide_gaussians_has_no_noise_at_all() -> None:
    """Δs does not depend on x then: J = ∫β α²‖Δm‖²/(α²c²+σ²)² dt, and every draw is the same."""
    c = 0.8
    process = law_process({"y1": ([[1.0, 0.0]], [c], [1.0]), "y2": ([[-1.0, 0.5]], [c], [1.0])})
    estimate = cj.distance(process, "y1", "y2", steps=STEPS, draws=3, quadrature="sum")
    alpha_bar = process.scheduler.alphas_cumprod.double()
    kl_twice = [4.25 * a / (a * c**2 + 1 - a) for a in (1.0, float(alpha_bar[-1]))]
    assert estimate.value == pytest.approx(kl_twice[0] - kl_twice[1], rel=2e-3)  # discretisation
    at, betas = alpha_bar[50::100], process.scheduler.betas.double()[50::100]
    riemann = LENGTH * (betas * 4.25 * at / (at * c**2 + 1 - at) ** 2).mean()
    assert estimate.value == pytest.approx(float(riemann), rel=2e-4)  # β from ᾱ in float32
    assert estimate.stderr < 1e-5 * estimate.value


def test_of_the_weightings_only_sde_knows_the_divergence() -> None:
    """The three weightings of one set of terms, written out from diffusers' tables."""
    process = law_process(LAWS["gaussians"])
    settings = {"steps": 5, "draws": 2}
    terms = cj.pair_terms(process, [("y1", "y2")], **settings)
    t = terms.timesteps
    betas, alpha_bar = (
        table.double()[t].numpy()
        for table in (process.scheduler.betas, process.scheduler.alphas_cumprod)
    )
    weights = {"sde": LENGTH * betas / (1 - alpha_bar), "score": 1 / (1 - alpha_bar), "noise": 1.0}
    for weighting, weight in weights.items():
        estimate = cj.distance(
            process, "y1", "y2", weighting=weighting, quadrature="sum", **settings
        )
        expected = (terms.squares[0].mean(axis=2) * weight).mean()
        assert estimate.value == pytest.approx(expected, rel=1e-3)


# -- properties ------------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", ["same", "crossed"])
def test_a_prompt_is_at_distance_zero_from_itself(
    process: cj.GenerativeProcess, pairing: str
) -> None:
    estimate = cj.distance(process, "a cat", "a cat", pairing=pairing, **SETTINGS)
    assert estimate.value == 0 and estimate.stderr == 0 and not estimate.by_step.any()


@pytest.mark.parametrize("settings", [{}, {"guidance": 3.0}, {"sampler": "ddpm"}])
def test_distance_is_symmetric_and_positive(
    process: cj.GenerativeProcess, settings: dict[str, object]
) -> None:
    there, back = (
        cj.distance(process, *pair, **SETTINGS, **settings)
        for pair in (("a cat", "pizza"), ("pizza", "a cat"))
    )
    assert there.value > 0
    assert there.value == pytest.approx(back.value, rel=1e-6)
    np.testing.assert_allclose(there.by_draw, back.by_draw, rtol=1e-6)


def test_swapping_a_pair_swaps_its_halves(process: cj.GenerativeProcess) -> None:
    terms = cj.pair_terms(process, [("a cat", "pizza"), ("pizza", "a cat")], **SETTINGS).squares
    np.testing.assert_array_equal(terms[0], terms[1][..., ::-1])
    assert np.abs(terms[0][..., 0] / terms[0][..., 1] - 1).max() > 1e-3  # they are two numbers


@pytest.mark.parametrize("settings", [{}, {"guidance": 2.0, "sampler": "ddpm"}])
def test_batch_size_changes_nothing(
    process: cj.GenerativeProcess, settings: dict[str, object]
) -> None:
    one, seven, many = (
        [e.value for e in cj.distances(process, FOUR, batch_size=b, **SETTINGS, **settings)]
        for b in (1, 7, 64)
    )
    np.testing.assert_allclose(seven, one, rtol=1e-4)
    np.testing.assert_allclose(many, one, rtol=1e-4)


def test_neither_order_nor_company_changes_a_pair(process: cj.GenerativeProcess) -> None:
    together = cj.distances(process, FOUR, **SETTINGS)
    turned = cj.distances(process, FOUR[::-1], **SETTINGS)[::-1]
    alone = [cj.distance(process, *pair, **SETTINGS) for pair in FOUR]
    for others in (turned, alone):
        np.testing.assert_allclose(
            [e.by_draw for e in others], [e.by_draw for e in together], rtol=1e-4
        )
    assert len({round(e.value) for e in together}) == len(FOUR)  # not all the same number


def test_seed_is_all_that_chance_depends_on(process: cj.GenerativeProcess) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = cj.distance(process, "a cat", "pizza", seed=7, sampler="ddpm", **SETTINGS)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    again = cj.distance(process, "a cat", "pizza", seed=7, sampler="ddpm", **SETTINGS)
    other = cj.distance(process, "a cat", "pizza", seed=8, sampler="ddpm", **SETTINGS)
    assert first.value == again.value
    assert abs(first.value / other.value - 1) > 1e-3


def test_more_draws_begin_with_the_same_draws(process: cj.GenerativeProcess) -> None:
    two, three = (
        cj.distance(process, "a cat", "pizza", steps=2, draws=k, quadrature="sum").by_draw
        for k in (2, 3)
    )
    np.testing.assert_allclose(three[:2], two, rtol=1e-5)
    assert abs(two[0] / two[1] - 1) > 1e-3 and abs(three[1] / three[2] - 1) > 1e-3


def test_explicit_noise_takes_the_place_of_the_seeds(process: cj.GenerativeProcess) -> None:
    noise = process.noise([0, 1], seed=7)
    drawn = cj.distance(process, "a cat", "pizza", seed=7, **SETTINGS)
    given = cj.distance(process, "a cat", "pizza", seed=0, noise=noise, **SETTINGS)
    turned = cj.distance(process, "a cat", "pizza", noise=noise.flip(0), **SETTINGS)
    assert drawn.value == given.value
    np.testing.assert_allclose(turned.by_draw, given.by_draw[::-1], rtol=1e-5)


@pytest.mark.parametrize("guidance", [-1.0, 0.5, 3.0])
def test_guidance_scales_the_term_by_its_square(
    process: cj.GenerativeProcess, guidance: float
) -> None:
    """At the same x, that is: with one step both see x_T. With more, x itself moves."""
    pair = [("a cat", "pizza")]
    plain, guided = (
        cj.pair_terms(process, pair, steps=1, guidance=w).squares for w in (1.0, guidance)
    )
    np.testing.assert_allclose(guided, guidance**2 * plain, rtol=1e-12)
    plain, guided = (
        cj.pair_terms(process, pair, steps=2, guidance=w).squares for w in (1.0, guidance)
    )
    np.testing.assert_allclose(guided[:, :, 0], guidance**2 * plain[:, :, 0], rtol=1e-12)
    assert np.abs(guided[:, :, 1] / (guidance**2 * plain[:, :, 1]) - 1).max() > 1e-3


def test_one_step_leaves_both_halves_equal(process: cj.GenerativeProcess) -> None:
    """x_T is shared by the prompts of a draw, so there ‖Δε‖² is the same from either side."""
    terms = cj.pair_terms(process, [("a cat", "pizza")], steps=1, draws=3).squares
    np.testing.assert_allclose(terms[..., 0], terms[..., 1], rtol=1e-4)


# -- the cost model --------------------------------------------------------------------------

COSTS = {
    "one pair": ([("a", "b")], 2, 1),
    "a pair twice, and turned round": ([("a", "b"), ("a", "b"), ("b", "a")], 2, 1),
    "a prompt with itself": ([("a", "a")], 1, 0),
    "a triangle": ([("a", "b"), ("b", "c"), ("c", "a"), ("a", "a")], 3, 3),
}


@pytest.mark.parametrize("case", COSTS)
@pytest.mark.parametrize("pairing", ["same", "crossed"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_evaluations_are_those_of_the_cost_model(case: str, pairing: str, guidance: float) -> None:
    """(1 or 2) · T · k · U on the way, 2 · T · k · P for the pairs, counted in the network."""
    pairs, prompts, unique_pairs = COSTS[case]
    rows = 0

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x)
        return y[:, None] * x

    process = law_process(LAWS["gaussians"])
    process.predict = predict
    process.encode = lambda texts: torch.tensor(
        [len(text) + ord(text[:1] or "_") for text in texts]
    )
    cj.pair_terms(process, pairs, steps=5, draws=3, guidance=guidance, pairing=pairing)
    along = 5 * 3 * prompts * (1 if guidance == 1 else 2)
    across = 2 * 5 * 3 * unique_pairs if pairing == "same" else 0
    assert rows == along + across
    assert process.evaluations == rows


def test_the_progress_bar_reaches_its_end(
    process: cj.GenerativeProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is asked for, whatever TQDM_DISABLE says."""
    for pairing, total in (("same", "72/72"), ("crossed", "36/36")):
        cj.pair_terms(process, FOUR[:3], guidance=2.0, pairing=pairing, progress=True, **SETTINGS)
        assert total in capsys.readouterr().err
    cj.pair_terms(process, FOUR[:1], progress=False, **SETTINGS)
    assert capsys.readouterr().err == ""


# -- the estimate ----------------------------------------------------------------------------


def test_estimate_is_a_mean_with_its_standard_error(process: cj.GenerativeProcess) -> None:
    estimate = cj.distance(process, "a cat", "pizza", steps=4, draws=3)
    assert estimate.by_draw.shape == (3,) and estimate.by_step.shape == (4,)
    assert estimate.value == pytest.approx(sum(estimate.by_draw) / 3, rel=1e-12)
    spread = math.sqrt(sum((v - estimate.value) ** 2 for v in estimate.by_draw) / 2)
    assert estimate.stderr == pytest.approx(spread / math.sqrt(3), rel=1e-12)
    assert estimate.by_step.sum() == pytest.approx(estimate.value, rel=1e-12)
    assert list(estimate.timesteps) == [751, 501, 251, 1]
    errors = f"± {estimate.stderr:.2g} (draws) ± {estimate.quadrature_error:.2g} (steps)"
    assert str(estimate) == f"{estimate.value:.4g} {errors}"


def test_one_draw_has_no_standard_error(process: cj.GenerativeProcess) -> None:
    estimate = cj.distance(process, "a cat", "pizza", steps=2, draws=1)
    assert math.isnan(estimate.stderr) and estimate.value > 0


@pytest.mark.parametrize("settings", [{}, {"guidance": 2.0}, {"sampler": "ddpm"}])
def test_trace_lays_open_the_same_draw(
    process: cj.GenerativeProcess, settings: dict[str, object]
) -> None:
    found = cj.pair_terms(process, [("a cat", "pizza")], **SETTINGS, seed=3, **settings)
    terms, timesteps = found.squares, found.timesteps
    for draw in (0, 1):
        laid_open = cj.trace(process, "a cat", "pizza", steps=3, seed=3, draw=draw, **settings)
        np.testing.assert_allclose(laid_open.terms().squares[0], terms[:, draw], rtol=1e-4)
        assert torch.equal(laid_open.timesteps, timesteps)
        assert laid_open.states.shape == (2, 3, *process.latent_shape)
    condition = process.encode(["a cat", "pizza"])
    for i, j in np.ndindex(2, 2):  # whose path, whose prediction
        again = process.eps(laid_open.states[i], timesteps, condition[[j]].expand(3, -1, -1))
        torch.testing.assert_close(laid_open.eps[i, j], again, rtol=1e-4, atol=1e-4)


# -- many prompts ----------------------------------------------------------------------------


def test_distance_matrix_holds_the_distances(process: cj.GenerativeProcess) -> None:
    prompts = ["a cat", "a dog", "pizza"]
    matrix = cj.distance_matrix(process, prompts, weighting="score", **SETTINGS)
    assert matrix.prompts == prompts
    for i, j in np.ndindex(3, 3):
        estimate = cj.distance(process, prompts[i], prompts[j], weighting="score", **SETTINGS)
        assert matrix.value[i, j] == pytest.approx(estimate.value, rel=1e-4)
        assert matrix.stderr[i, j] == pytest.approx(estimate.stderr, rel=1e-2)
    np.testing.assert_array_equal(matrix.value, matrix.value.T)
    np.testing.assert_array_equal(matrix.stderr, matrix.stderr.T)


def test_scorer_predicts_minus_the_distance(process: cj.GenerativeProcess) -> None:
    settings = {**SETTINGS, "weighting": "noise", "guidance": 2.0, "seed": 1}
    scores = cj.Scorer(process, **settings).predict(FOUR[:2])
    assert scores.shape == (2,)
    np.testing.assert_array_equal(
        scores, [-e.value for e in cj.distances(process, FOUR[:2], **settings)]
    )


@pytest.mark.parametrize("weighting", ["sde", "score", "noise"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_embeddings_are_distances_at_common_anchors(
    process: cj.GenerativeProcess, weighting: str, guidance: float
) -> None:
    """‖φ(y1) - φ(y2)‖² = mean over anchors of weight · w² ‖Δε‖², one anchor at a time."""
    prompts = ["a cat", "pizza", "a dog"]
    how = {"weighting": weighting, "guidance": guidance, "quadrature": "sum"}
    scorer = cj.Scorer(process, seed=1, **how, **SETTINGS)
    vectors = scorer.encode(prompts)
    assert vectors.shape == (3, 2 * 3 * math.prod(process.latent_shape))
    np.testing.assert_allclose(scorer.encode(prompts, batch_size=5), vectors, rtol=0, atol=1e-3)
    condition, empty = process.encode(prompts), process.encode([""])
    expected, scheduler = np.zeros((3, 3)), process.scheduler
    for draw in range(2):
        path = process.trajectories(empty, process.noise([draw], 1), [draw], steps=3, seed=1)
        for step, t in enumerate(path.timesteps):
            eps = torch.cat(
                [process.eps(path.states[:, step], t[None], c[None]) for c in condition]
            )
            square = (eps[:, None] - eps[None]).double().square().sum((2, 3, 4)).numpy()
            beta, alpha_bar = (float(s[t]) for s in (scheduler.betas, scheduler.alphas_cumprod))
            weight = {"sde": 1000 * beta / (1 - alpha_bar), "score": 1 / (1 - alpha_bar)}
            expected += weight.get(weighting, 1.0) * guidance**2 * square / 6
    found = ((vectors[:, None] - vectors[None]).astype(float) ** 2).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


# -- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "error", "message"),
    [
        (("", "a cat"), ValueError, "(y1|prompt 0|first text of pair 0) is empty"),
        (("a cat", " \n"), ValueError, "(y2|prompt 1|second text of pair 0) is blank"),
        ((None, "a cat"), TypeError, "(y1|prompt 0|first .* pair 0) must be a string, not NoneTy"),
        (
            ("a cat", 3),
            TypeError,
            "(y2|prompt 1|second text of pair 0) must be a string, not int: 3",
        ),
        (("a cat", "\udce9"), ValueError, "(y2|prompt 1|pair 0) holds half a .* UTF-8"),
    ],
)
def test_bad_prompts_are_named(
    process: cj.GenerativeProcess, pair: tuple, error: type[Exception], message: str
) -> None:
    for call in (
        lambda: cj.distance(process, *pair, **SETTINGS),
        lambda: cj.distance_matrix(process, pair, **SETTINGS),
        lambda: cj.trace(process, *pair),
        lambda: cj.Scorer(process).predict([pair]),
        lambda: cj.Scorer(process).encode(pair),
    ):
        with pytest.raises(error, match=message):
            call()


def test_pairs_may_come_from_an_iterator(process: cj.GenerativeProcess) -> None:
    columns = (["a cat", "pizza"], ["a dog", "a cat"])
    given = zip(*columns, strict=True), list(zip(*columns, strict=True))
    terms, listed = (cj.pair_terms(process, p, steps=1, draws=1).squares for p in given)
    assert len(terms) == 2
    np.testing.assert_array_equal(terms, listed)


def test_a_string_is_no_list(process: cj.GenerativeProcess) -> None:
    with pytest.raises(TypeError, match="single string 'a cat'"):
        cj.distance_matrix(process, "a cat")
    with pytest.raises(ValueError, match="no pairs"):
        cj.pair_terms(process, [])
    with pytest.raises(ValueError, match="a matrix of distances needs 2 prompts.* only 'cat'"):
        cj.distance_matrix(process, ["cat"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps.* at least 1, not 0"),
        ({"steps": -3}, "steps.* at least 1, not -3"),
        ({"steps": 1001}, "steps must lie between 1 and 1000, not 1001"),
        ({"draws": 0}, "draws must be at least 1, not 0"),
        ({"draws": []}, "draws must be at least 1, and none"),
        ({"draws": [0, -1]}, "draws must be at least 0, not -1"),
        ({"draws": [0, 0]}, r"draws=\[0, 0\] holds a number twice"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"memory": 0}, "memory must be at least 1, not 0"),
        ({"guidance": 0}, "guidance=0 follows no prompt .*: for no guidance take 1"),
        ({"guidance": 1e200}, "guidance must have a square"),
        ({"guidance": 1e-200}, "guidance must have a square"),
        ({"steps": 1}, "steps=1 visits timestep 1 of 1000 alone, .* take 2 steps or more"),
        ({"steps": 1, "sampler": "dpm++2m"}, "steps=1 visits timestep 1 of 1000"),
        ({"noise": torch.full((2, 16, 8, 8), torch.nan)}, "noise is not finite"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"weighting": "girsanov"}, "weighting must be one of sde, score, noise, not 'girsanov'"),
        ({"pairing": "both"}, "pairing must be one of same, crossed, not 'both'"),
        ({"sampler": "heun"}, "sampler must be one of ddim, ddpm, .*, not 'heun'"),
        ({"sampler": ""}, "sampler must be one of ddim, ddpm, .*, not ''"),
        ({"guidance": 10**400}, "guidance must be a finite number, not 10000"),
        ({"log_snr": (-(10**400), 0)}, "log_snr must be two numbers, as .*, not"),
        ({"guidance": math.nan}, "guidance must be a finite number, not nan"),
        ({"noise": torch.zeros(2, 16, 8, 7)}, r"noise must have shape \(2, 16, 8, 8\), not \(2, 1"),
        ({"noise": torch.zeros(1, 16, 8, 8)}, r"noise must have shape \(2, 16, 8, 8\), not \(1, 1"),
    ],
)
def test_bad_settings_are_named(
    process: cj.GenerativeProcess, settings: dict[str, object], message: str
) -> None:
    before = process.evaluations
    with pytest.raises(ValueError, match=message):
        cj.distance(process, "a cat", "pizza", **SETTINGS | settings)
    assert process.evaluations == before  # found before any work


@pytest.mark.parametrize("guidance", [0, 1e200, 1e-200])
def test_a_guidance_that_makes_no_distance_is_for_trajectories_alone(
    process: cj.GenerativeProcess, guidance: float
) -> None:
    """Such a picture may be wanted; of its differences nothing can be told."""
    before = process.evaluations
    for ask in (
        lambda: cj.pair_terms(process, [("a cat", "pizza")], guidance=guidance),
        lambda: cj.floor(process, "a cat", guidance=guidance),
        lambda: cj.trace(process, "a cat", "pizza", guidance=guidance),
        lambda: cj.Scorer(process, guidance=guidance),
    ):
        with pytest.raises(ValueError, match=r"guidance(=0 follows no prompt| must have a square)"):
            ask()
    assert process.evaluations == before
    if guidance == 0:
        cat, pizza = process.generate(["a cat", "pizza"], steps=2, guidance=guidance)
        np.testing.assert_allclose(cat, pizza, atol=1e-3)  # they follow the empty text alike


@pytest.mark.parametrize("name", ["steps", "draws", "seed", "batch_size", "memory", "guidance"])
@pytest.mark.parametrize(
    "value", [2.7, 2.0, True, np.True_, "2", None, [2.5], np.array([1.5]), iter([1])]
)
def test_a_number_of_another_type_is_named(
    process: cj.GenerativeProcess, name: str, value: object
) -> None:
    """Integers are integers; numpy's are, and of the settings guidance alone may be a fraction."""
    before = process.evaluations
    if name == "guidance" and isinstance(value, float) and not isinstance(value, bool):
        return
    for call in (
        lambda: cj.distance(process, "a cat", "pizza", **{name: value}),
        lambda: cj.Scorer(process, **{name: value}),
    ):
        with pytest.raises(TypeError, match=name):
            call()
    assert process.evaluations == before


def test_integers_of_numpy_are_integers(process: cj.GenerativeProcess) -> None:
    plain = cj.distance(process, "a cat", "pizza", steps=2, draws=[1, 3], seed=5, batch_size=2)
    numpys = cj.distance(
        process, "a cat", "pizza", steps=np.int64(2), draws=np.array([1, 3], np.uint8),
        seed=np.int32(5), batch_size=np.int16(2), guidance=np.float32(1),
    )  # fmt: skip
    np.testing.assert_array_equal(plain.by_draw, numpys.by_draw)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: cj.distance(p, "a", "b", steps=2, draws=10**8), "100000000 draws in 2 steps"),
        (lambda p: cj.distance(p, "a", "b", steps=2, draws=range(10**8)), "100000000 draws"),
        (lambda p: cj.distance(p, "a", "b", steps=2, draws=10**400), r"\d+ draws in 2 steps"),
        (lambda p: cj.distance(p, "a", "b", steps=2, draws=range(10**30)), r"\d+ draws"),
        (
            lambda p: cj.distance(p, "a", "b", steps=1000, draws=10**5, batch_size=10**6),
            "batch_size=1000000",
        ),
        (lambda p: cj.distance_matrix(p, ["a", "b"], steps=2, draws=10**8), "draws"),
        (lambda p: cj.Scorer(p, steps=2, draws=10**8).predict([("a", "b")]), "draws"),
        (lambda p: cj.Scorer(p, steps=2, draws=10**8).encode(["a"]), "draws"),
        (lambda p: cj.Scorer(p, steps=2, width=2**20).encode(["a"] * 10**6), "1000000 embeddings"),
        (lambda p: cj.floor(p, "a", batch_size=10**8), "batch_size=100000000"),
    ],
)
def test_what_no_memory_holds_is_refused_before_the_work(
    process: cj.GenerativeProcess, call: Any, message: str
) -> None:
    before, used = process.evaluations, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MemoryError, match=rf"{message}.* [\d,.]+ GiB .* [\d,.]+ GiB are free"):
        call(process)
    assert process.evaluations == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 200 << 10  # KiB


@pytest.mark.parametrize("steps", [1001, 10**9])
def test_more_steps_than_the_schedule_has_are_refused_before_the_work(
    process: cj.GenerativeProcess, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "encode", None)
    for call in (
        lambda: cj.distance(process, "a", "b", steps=steps),
        lambda: cj.pair_terms(process, [("a", "b")], steps=steps),
        lambda: cj.trace(process, "a", "b", steps=steps),
        lambda: cj.floor(process, "a", steps=steps),
        lambda: cj.Scorer(process, steps=steps),
    ):
        with pytest.raises(ValueError, match=f"steps must lie between 1 and 1000, not {steps}"):
            call()


def test_noise_of_any_kind(process: cj.GenerativeProcess) -> None:
    noise = torch.randn(2, *process.latent_shape).bfloat16()
    plain = cj.distance(process, "a cat", "pizza", steps=2, draws=2, noise=noise.float())
    for other in (noise, noise.float().requires_grad_(), noise.double().numpy(), list(noise)):
        found = cj.distance(process, "a cat", "pizza", steps=2, draws=2, noise=other)
        np.testing.assert_array_equal(found.by_draw, plain.by_draw)


@pytest.mark.parametrize("settings", [{"weighting": "girsanov"}, {"draws": 0}, {"stepz": 3}])
def test_scorer_refuses_bad_settings(
    process: cj.GenerativeProcess, settings: dict[str, object]
) -> None:
    for method, texts in (("encode", ["a cat"]), ("predict", [("a cat", "pizza")])):
        with pytest.raises((ValueError, TypeError), match=r"weighting|draws|stepz"):
            getattr(cj.Scorer(process, **settings), method)(texts)


def test_settings_that_do_not_exist_are_refused(process: cj.GenerativeProcess) -> None:
    with pytest.raises(TypeError, match="stepz"):
        cj.distance(process, "a cat", "pizza", stepz=3)


def test_the_floor_of_each_precision() -> None:
    """Rounding alone is far below a distance, and in float32 it is nothing beside it."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        process = cj.load(device="cpu", dtype=dtype)
        terms = cj.floor(process, "snow leopard", steps=2)
        assert terms.squares.shape == (1, 1, 2, 2)
        found[dtype] = terms.estimates("noise")[0].value
        distance = cj.distance(process, *FOUR[0], weighting="noise", steps=2, draws=1).value
        assert found[dtype] < 0.2 * distance
        guided = cj.floor(process, "snow leopard", steps=2, guidance=3.0)
        np.testing.assert_allclose(guided.squares, 9 * terms.squares)
    assert found[torch.float32] < 1e-6 * distance


# -- shapes ----------------------------------------------------------------------------------


class Two(NamedTuple):
    text1: str
    text2: str


TABLE = pd.DataFrame(FOUR, columns=["text1", "text2"])
SHAPES: dict[str, Callable[[], Any]] = {
    "lists": lambda: [list(pair) for pair in FOUR],
    "a generator": lambda: (pair for pair in FOUR),
    "a dict's items": lambda: dict(FOUR).items(),
    "a zip": lambda: zip(*zip(*FOUR, strict=True), strict=True),
    "an array": lambda: np.array(FOUR),
    "an array of objects": lambda: np.array(FOUR, object),
    "a structured array": lambda: TABLE.assign(id=1).to_records(),
    "named tuples": lambda: [Two(*pair) for pair in FOUR],
    "rows of a table": lambda: TABLE.assign(id=1).itertuples(),
    "records": lambda: TABLE.assign(score=1.0).to_dict("records"),
    "a series": lambda: pd.Series(FOUR),
    "a table": lambda: TABLE.assign(id=["p", "q", "r", "s"])[["id", "text2", "text1"]],
    "a table of sentences": lambda: TABLE.set_axis(["sentence1", "sentence2"], axis=1),
    "a table of words": lambda: TABLE.set_axis(["word1", "word2"], axis=1).iloc[::-1].sort_index(),
    "a table without names": lambda: pd.DataFrame(FOUR),
    "a table of categories": lambda: TABLE.astype("category"),
    "a table of polars": lambda: pytest.importorskip("polars").from_pandas(TABLE),
    "a table of Arrow": lambda: pa.Table.from_pandas(TABLE),
    "a dict of columns": lambda: TABLE.to_dict("list") | {"score": [1.0] * 4},
    "a data set": lambda: datasets.Dataset.from_pandas(TABLE),
    "a data set that streams": lambda: datasets.Dataset.from_pandas(TABLE).to_iterable_dataset(),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_in_every_shape(shape: str) -> None:
    assert as_pairs(SHAPES[shape]()) == FOUR


def test_tables_are_scored_as_their_pairs(process: cj.GenerativeProcess) -> None:
    plain = [e.value for e in cj.distances(process, FOUR, **SETTINGS)]
    scorer = cj.Scorer(process, **SETTINGS)
    for shape in ("a table", "a data set", "records"):
        found = cj.distances(process, SHAPES[shape](), **SETTINGS)
        np.testing.assert_array_equal([e.value for e in found], plain)
        np.testing.assert_array_equal(scorer.predict(SHAPES[shape]()), np.negative(plain))


WRONG: dict[str, tuple[Any, str]] = {
    "two words": (["hi", "no"], "row 0 must be a pair of texts, not 'hi'"),
    "one pair": (("a cat", "a dog"), "row 0 must be a pair of texts, not 'a cat'"),
    "a string": ("a cat", "not the single string 'a cat'"),
    "bytes": (b"ab", "not the single string b'ab'"),
    "a set of pairs": ({("a", "b"), ("c", "d")}, "a set"),
    "pairs that are sets": ([{"a", "b"}], "row 0 must be a pair"),
    "triples": ([("a", "b", "c")], "row 0 must be a pair"),
    "single ones": ([("a",)], "row 0 must be a pair"),
    "a number": (3, "pairs must be like"),
    "nothing": (None, "pairs must be like"),
    "numbers": (np.zeros((3, 2)), "first text of pair 0 must be a string, not float64"),
    "a table of other names": (pd.DataFrame({"a": ["x"], "b": ["y"]}), "here are 'a', 'b'"),
    "a table of names in capitals": (TABLE.rename(columns=str.upper), "here are 'TEXT1', 'TEXT2'"),
    "a table of two kinds": (TABLE.assign(word1="a", word2="b"), "columns .*, once"),
    "a table of twice one column": (
        pd.DataFrame([("a", "b", "c")], columns=["text1", "text1", "text2"]),
        "columns .*, once",
    ),
    "an index with one text": (
        list(pd.DataFrame({"text1": ["cat"]}, index=["row7"]).itertuples()),
        "here are 'Index', 'text1'",
    ),
    "named tuples of other names": (
        [NamedTuple("Two", [("first", str), ("second", str)])("cat", "dog")],
        "here are 'first', 'second'",
    ),
    "one record": ({"text1": "a cat", "text2": "a dog"}, "single string 'a cat'"),
    "columns of two lengths": ({"text1": ["a"], "text2": ["b", "c"]}, "1 and 2 rows"),
    "a text that is missing": (TABLE.assign(text2=[*"abc", None]), "second text of pair 3"),
    "a table without rows": (TABLE.iloc[:0], "no pairs were given"),
    "the splits of a data set": ({"train": TABLE}, "here are 'train'"),
}


def test_one_named_pair_is_read_by_its_names(process: cj.GenerativeProcess) -> None:
    scorer = cj.Scorer(process, **SETTINGS)
    named = NamedTuple("Two", [("text2", str), ("text1", str)])("pizza", "cat")
    assert as_pairs([named]) == [("cat", "pizza")]
    assert scorer.predict(named) == scorer.predict(("cat", "pizza"))
    with pytest.raises(ValueError, match="here are 'Index', 'text1'"):
        scorer.predict(next(pd.DataFrame({"text1": ["cat"]}, index=["row7"]).itertuples()))


def test_a_table_that_waits_is_refused(process: cj.GenerativeProcess) -> None:
    lazy = pytest.importorskip("polars").from_pandas(TABLE).lazy()
    for ask in (cj.distances, cj.distance_matrix):
        with pytest.raises(TypeError, match=r"LazyFrame has .* hand over table\.collect\(\)"):
            ask(process, lazy, **SETTINGS)


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_list_of_pairs_is_refused(process: cj.GenerativeProcess, case: str) -> None:
    rows, message = WRONG[case]
    before = process.evaluations
    calls = [cj.distances, cj.pair_terms, initial_timestep]
    calls += [lambda p, rows, **how: cj.Scorer(p, **how).predict(rows)] * (case[:3] not in "twoone")
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=message):
            call(process, rows, **SETTINGS)
    assert process.evaluations == before


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (TABLE, r"not a table with the columns text1, text2: .* table\['text1'\]"),
        (datasets.Dataset.from_pandas(TABLE), "not a table"),
        ({"cat": "dog"}, "not a table"),
        ({"cat", "dog"}, "a set"),
        ([("cat", "dog")], "(prompt|document) 0 must be a string, not tuple"),
        (np.array([["cat", "dog"]]), "(prompt|document) 0 must be a string, not ndarray"),
        ([], "no (prompt|document)s were given"),
        (3, "must be like"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(
    process: cj.GenerativeProcess, texts: Any, message: str
) -> None:
    scorer, before = cj.Scorer(process, **SETTINGS), process.evaluations
    for call in (
        lambda: cj.distance_matrix(process, texts, **SETTINGS),
        lambda: scorer.encode(texts),
        lambda: scorer.rank("a cat", texts),
        lambda: process.generate(texts),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    with pytest.raises(TypeError, match="documents, not the single string 'dog'"):
        scorer.rank("cat", "dog")
    assert process.evaluations == before


def test_texts_may_be_a_column(process: cj.GenerativeProcess) -> None:
    plain = cj.distance_matrix(process, ["a cat", "pizza", "a dog", "graveyard"], **SETTINGS)
    column = cj.distance_matrix(process, TABLE["text1"], **SETTINGS)
    generated = cj.distance_matrix(process, iter(plain.prompts), **SETTINGS)
    assert column.prompts == plain.prompts == generated.prompts
    np.testing.assert_array_equal(column.value, plain.value)


# -- numbers that are none -------------------------------------------------------------------


def broken(process: cj.GenerativeProcess, at: float, prompt: str, value: float) -> None:
    """One number of what the network says of ``prompt`` at timestep ``at`` becomes ``value``."""
    predict, word = process.predict, process.encode([prompt])[0]

    def wrong(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out = predict(x, t, y).clone()
        mine = ((y - word).flatten(1).abs().amax(1) < 1e-4) & (t == at)
        out.view(len(out), -1)[mine, 0] = value
        return out

    process.predict = wrong


@pytest.mark.parametrize(("value", "guidance"), [(math.nan, 1.0), (-math.inf, 3.0), (1e30, 3.0)])
def test_a_prediction_that_is_no_number_stops_where_it_began(
    random_folder: Path, value: float, guidance: float
) -> None:
    """The prompt and the timestep are the ones that were broken, whoever asks."""
    process = cj.load(random_folder, device="cpu")
    broken(process, 334, "pizza", value)
    way = {**SETTINGS, "guidance": guidance}
    message = "the noise prediction at timestep 334 for 'pizza' is not finite"
    for call in (
        lambda: cj.distance(process, "cat", "pizza", **way),
        lambda: cj.distance(process, "cat", "pizza", pairing="crossed", **way),
        lambda: cj.distance_matrix(process, ["cat", "dog", "pizza"], **way),
        lambda: cj.Scorer(process, **way).predict([("cat", "dog"), ("cat", "pizza")]),
        lambda: cj.Scorer(process, **way).rank("cat", ["dog", "pizza"]),
        lambda: cj.trace(process, "cat", "pizza", steps=3, guidance=guidance),
        lambda: cj.floor(process, "pizza", steps=3),
        lambda: process.generate(["cat", "pizza"], steps=3, guidance=guidance),
        lambda: direct_output(process, [("cat", "pizza")], draws=1, steps=3, guidance=guidance),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    if not abs(value) < math.inf:
        with pytest.raises(ValueError, match=message):
            cj.Scorer(process, **way).encode(["cat", "pizza"])
    assert cj.distance(process, "cat", "dog", **way).value > 0  # theirs are sound


def test_what_only_the_other_trajectory_breaks_is_found(process: cj.GenerativeProcess) -> None:
    """The first prompt's prediction fails on the path of the second alone."""
    laws = law_process(LAWS["mixtures"])
    predict = laws.predict
    seen: list[Tensor] = []

    def wrong(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        return predict(x, t, y) / (len(seen) <= 4)  # two steps' trajectories come first

    laws.predict = wrong
    with pytest.raises(ValueError, match="at timestep 5050 for 'y2' is not finite"):
        cj.distance(laws, "y1", "y2", steps=2, draws=1, batch_size=1)


def test_a_text_encoder_that_gives_no_number_is_named(random_folder: Path) -> None:
    process = cj.load(random_folder, device="cpu")
    encode = process.encode
    process.encode = lambda texts: torch.stack(
        [
            c * math.nan if text == "pizza" else c
            for c, text in zip(encode(texts), texts, strict=True)
        ]
    )
    with pytest.raises(ValueError, match="what the text encoder says for 'pizza' is not finite"):
        cj.distance(process, "cat", "pizza", **SETTINGS)
    with pytest.raises(ValueError, match="vector of 'pizza' has length nan"):
        text_encoder_cosine(process, [("cat", "pizza")])


@pytest.mark.parametrize("guidance", [1e18, 1e30, 1e150])
def test_a_guidance_that_overflows_stops(process: cj.GenerativeProcess, guidance: float) -> None:
    with pytest.raises(ValueError, match="at timestep .* a guidance nearer to 1"):
        cj.distance(process, "a cat", "pizza", guidance=guidance, **SETTINGS)


def test_the_estimate_of_terms_that_are_no_numbers(process: cj.GenerativeProcess) -> None:
    terms = cj.pair_terms(process, [("a cat", "pizza"), ("a cat", "a dog")], **SETTINGS)
    terms.squares[1, 1, 2, 0] = math.inf
    with pytest.raises(ValueError, match=f"at timestep {int(terms.timesteps[2])} for row 1"):
        terms.estimates("noise")


def test_torchs_default_number_changes_nothing(process: cj.GenerativeProcess) -> None:
    scorer = cj.Scorer(process, width=64, **SETTINGS)
    plain, vectors = cj.distance(process, "a cat", "pizza", **SETTINGS), scorer.encode(["a cat"])
    torch.set_default_dtype(torch.float64)
    try:
        again, moved = cj.distance(process, "a cat", "pizza", **SETTINGS), scorer.encode(["a cat"])
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(plain.by_draw, again.by_draw)
    np.testing.assert_array_equal(vectors, moved)


def _surroundings() -> dict[str, Callable[[], Any]]:
    return {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "inference": torch.inference_mode,
        "gradients": torch.enable_grad,
        "no gradients": torch.no_grad,
    }


@pytest.mark.parametrize("name", _surroundings())
def test_what_surrounds_a_call_changes_no_number(process: cj.GenerativeProcess, name: str) -> None:
    scorer, x = (
        cj.Scorer(process, width=64, **SETTINGS),
        np.random.default_rng(0).normal(size=(9, 4)),
    )
    plain = cj.GenerativeProcess(
        lambda x, t, y: x @ torch.eye(2).expand(2, 2) * 1.01 + y @ torch.eye(2),
        lambda texts: (
            torch.tensor([[len(t), 1.01] for t in texts], requires_grad=True) @ torch.eye(2)
        ),
        process.scheduler,
        (2,),
    )  # somebody's own
    calls: list[Callable[[], Any]] = [
        lambda: cj.distance(process, "a cat", "pizza", guidance=2.0, **SETTINGS).by_draw,
        lambda: cj.distance(plain, "a cat", "pizzas", guidance=2.0, **SETTINGS).by_draw,
        lambda: cj.trace(process, "a cat", "pizza", steps=2).eps,
        lambda: scorer.encode(["a cat", "pizza"]),
        lambda: scorer.similarity(x[:4], x[4:]),
        lambda: process.generate(["a cat"], steps=2),
        lambda: text_encoder_cosine(process, [("a cat", "pizza")]),
        lambda: neighbors(x, 3, search="torch"),
    ]
    for call in calls:
        before = np.asarray(call())
        with _surroundings()[name]():
            again = np.asarray(call())
        np.testing.assert_array_equal(before, again)


# -- the floor of rounding -------------------------------------------------------------------


@pytest.mark.parametrize("weighting", cj.WEIGHTINGS)
def test_a_distance_near_the_floor_of_rounding_says_so(weighting: Any) -> None:
    """Predictions that differ by two units of float32's last place, and by a thousand of them."""
    process = law_process(LAWS["gaussians"])
    process.encode = lambda texts: torch.tensor([[float(text)] for text in texts])
    process.predict = lambda x, t, y: torch.ones_like(x) * (1 + y * 2.0**-23)
    how = {"weighting": weighting, **SETTINGS}
    with pytest.warns(RoundingWarning, match="distance of '0' and '2' is .* not told from 0"):
        near = cj.distance(process, "0", "2", **how)
    assert near.floor is not None and 0 < near.floor <= near.value < NEAR * near.floor
    far = cj.distance(process, "0", "1000", **how)  # no warning, which would be an error here
    assert far.floor is None
    assert far.value == pytest.approx(500**2 * near.value)
    same = cj.distance(process, "2", "2", **how)  # zero by what it is, and not by rounding
    assert same.value == 0 and same.floor is None
    with pytest.warns(RoundingWarning, match="of '0' and '2' and of 1 more"):
        cj.distances(process, [("0", "1000"), ("0", "2"), ("2", "3")], **how)


def test_the_floor_is_the_measured_one(process: cj.GenerativeProcess) -> None:
    """The tokenizer drops the case, of which a process without readers knows nothing."""
    blind = replace(process, readers=())
    with pytest.warns(UserWarning) as caught:
        found = cj.distance(blind, "cat", "Cat", **SETTINGS, guidance=3.0)
    assert any(w.category is RoundingWarning for w in caught)
    (rounding,) = cj.floor(process, "cat", steps=3, guidance=3.0).estimates("sde")
    measured = rounding.value
    assert found.floor is not None and found.floor >= measured
    assert found.floor < 1e-6 * cj.distance(process, "cat", "dog", **SETTINGS, guidance=3.0).value
