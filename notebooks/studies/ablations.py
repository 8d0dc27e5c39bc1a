"""What each choice in Algorithm 1 changes and costs: the record 'ablations'.

Chapter 07 runs the same functions on a small set and explains them. Runs are kept, resumable, in
a folder of the present code. They take half an hour on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import nnls
from scipy.stats import rankdata

import conjure_lib as cj
from conjure_lib import Weighting
from conjure_tools import benchmarks, correlation, runs
from studies.records import Made, work

SETS = ("rg65", "simlex999-150", "stsb-100")
DRAWS = 10  # of the run that everything is compared with
FEW = 2  # of every other run
COUNTS = (1, 2, 3, 5, 10)  # of draws
CHOICES = 500  # of the draws that are counted, by lot
STEPS = (2, 5, 20)
GUIDANCES = (3.0, 7.5)
SAMPLERS = ("ddpm", "dpm++2m")
BASE = ("base", "10 steps")
MIRRORED = ("variance", "antithetic")
RHO = ["spearman", "low", "high"]
DIFFERENCE = ["difference", "difference_low", "difference_high"]
MEASURED = RHO + DIFFERENCE
"""Columns of `agreement_and_gap`."""
Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Curves (n, S) and human scores (n,) to weights over t, (S,)."""


def record() -> Made:
    """The tables 'ablations' and 'variance'."""
    ablations, variance, notes = make(cj.load(), work("ablations"))
    return {"ablations": ablations, "variance": variance}, notes


def make(
    process: cj.GenerativeProcess, folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, object]]:
    """The tables 'ablations' and 'variance' with a column benchmark, and where they are from."""
    scored = {name: score_all(process, pair_set(name), folder / name) for name in SETS}
    tables = [studies(found).assign(benchmark=name) for name, found in scored.items()]
    tables += [learned_elsewhere(scored, name).assign(benchmark=name) for name in SETS]
    spreads = [variances(found).assign(benchmark=name) for name, found in scored.items()]
    records = {
        n: {" ".join(k): run.record for k, run in found.items()} for n, found in scored.items()
    }
    return pd.concat(tables, ignore_index=True), pd.concat(spreads, ignore_index=True), {**records}


def pair_set(name: str) -> pd.DataFrame:
    """A benchmark by name; "stsb-100" is a stratified sample of 100 pairs of the test set."""
    benchmark, _, count = name.partition("-")
    pairs = benchmarks.load_pairs(benchmark)
    return runs.stratified(pairs, int(count)).reset_index(drop=True) if count else pairs


# -- the runs ---------------------------------------------------------------------------------


class Mirrored(cj.GenerativeProcess):
    """A process whose every x_T is the negative of what it would be."""

    def noise(self, draws: Sequence[int], seed: int) -> Any:
        return -super().noise(draws, seed)


def mirrored(process: cj.GenerativeProcess) -> Mirrored:
    """The same model from -x_T; its name keeps its runs apart from those from x_T."""
    return Mirrored(**vars(process) | {"name": f"{process.name} from -x_T", "evaluations": 0})


def score_all(
    process: cj.GenerativeProcess,
    pairs: pd.DataFrame,
    folder: Path,
    *,
    draws: int = DRAWS,
    few: int = FEW,
    steps: Sequence[int] = STEPS,
    guidances: Sequence[float] = GUIDANCES,
    samplers: Sequence[str] = SAMPLERS,
    batch_size: int = 64,
    report: Callable[[str], None] = print,
) -> dict[tuple[str, str], runs.Run]:
    """Every run of the studies by (study, value): one setting changed, the others as in BASE."""
    changed: dict[tuple[str, str], dict[str, Any]] = {
        **{("steps", str(s)): {"steps": s} for s in steps},
        **{("guidance", f"{w:g}"): {"guidance": w} for w in guidances},
        **{("sampler", name): {"sampler": name} for name in samplers},
        ("pairing", "crossed"): {"pairing": "crossed"},
    }
    score = partial(runs.score, pairs=pairs, batch_size=batch_size, report=report)
    found = {BASE: score(process, folder=folder / "base", draws=draws)}
    for key, setting in changed.items():
        found[key] = score(process, folder=folder / "-".join(key), draws=few, **setting)
    half = max(2, draws // 2)
    found[MIRRORED] = score(mirrored(process), folder=folder / "mirrored", draws=half)
    return found


def price(pairs: pd.DataFrame, steps: int, draws: int, guidance: float, pairing: str) -> float:
    """Noise predictions a pair: the trajectories of its share of prompts, and two views a step."""
    prompts = len(set(pairs["text1"]) | set(pairs["text2"])) / len(pairs)
    return steps * draws * (prompts * (1 + (guidance != 1)) + 2 * (pairing == "same"))


# -- agreement with people --------------------------------------------------------------------


def studies(
    scored: dict[tuple[str, str], runs.Run], *, resamples: int = 10_000, halvings: int = 50
) -> pd.DataFrame:
    """One row per configuration: study, value, weighting, draws, steps, evaluations_per_pair,
    spearman with low and high, and the difference from the base run with low and high.

    Intervals are bootstraps over pairs. The study "draws" also has draw_sd, the standard deviation
    of spearman over the choice of the draws, and falls: how often it is lower than for the count
    of draws before it.
    """
    base = scored[BASE]
    rows = []
    for (study, value), run in scored.items():
        if study in ("base", "variance"):
            continue
        counts = (
            sorted({1, run.terms.squares.shape[1]})
            if study == "steps"
            else [run.terms.squares.shape[1]]
        )
        rows += [configuration(study, value, run, base, w, k, resamples)
                 for w in cj.WEIGHTINGS for k in counts]  # fmt: skip
    most = base.terms.squares.shape[1]
    for w in cj.WEIGHTINGS:
        rows.append(configuration("weighting", w, base, base, w, most, resamples, against="sde"))
        rows += by_count(base, w, resamples)
        rows += one_sided(base, w, resamples)
    return pd.DataFrame(rows + priors(base, resamples, halvings))


def agreement_and_gap(
    pairs: pd.DataFrame, distance: np.ndarray, reference: np.ndarray, resamples: int
) -> dict[str, float]:
    """Spearman of -distance with people, and how much more that is than of -reference.

    Both are (P,), or (P, draws) of the same draws, whose noise is then in the intervals.
    """
    human = pairs["score"].to_numpy(float)
    how: Any = {"texts": correlation.both_texts(pairs), "resamples": resamples}
    found = correlation.spearman(-distance.T, human, **how)
    more = correlation.paired_bootstrap(-distance.T, -reference.T, human, **how)
    return {
        "spearman": found.value, "low": found.low, "high": found.high,
        "difference": more.value, "difference_low": more.low, "difference_high": more.high,
    }  # fmt: skip


def configuration(
    study: str,
    value: str,
    run: runs.Run,
    base: runs.Run,
    weighting: Weighting,
    draws: int,
    resamples: int,
    against: Weighting | None = None,
) -> dict[str, Any]:
    """The row of a run, compared with as many draws of the base run."""
    settings = run.record["settings"]
    reference = base.by_draw(against or weighting)[:, :draws]
    distance = run.by_draw(weighting)[:, :draws]
    spent = price(run.pairs, settings["steps"], draws, settings["guidance"], settings["pairing"])
    return {
        "study": study, "value": value, "weighting": weighting, "draws": draws,
        "steps": settings["steps"], "evaluations_per_pair": spent,
        **agreement_and_gap(run.pairs, distance, reference, resamples),
    }  # fmt: skip


def by_count(base: runs.Run, weighting: Weighting, resamples: int) -> list[dict[str, Any]]:
    """Rows of the study "draws": the first k draws, and what another choice of draws would give."""
    values, human = base.by_draw(weighting), base.pairs["score"].to_numpy(float)
    most = values.shape[1]
    counts = [k for k in COUNTS if k <= most]
    chosen = over_choices(values, human, counts)  # (CHOICES, counts)
    rows = []
    for i, k in enumerate(counts):
        row = configuration("draws", str(k), base, base, weighting, k, resamples)
        row |= agreement_and_gap(base.pairs, values[:, :k], values.mean(1), resamples)
        row["draw_sd"] = chosen[:, i].std(ddof=1)
        row["falls"] = (chosen[:, i] < chosen[:, i - 1]).mean() if i else np.nan
        rows.append(row)
    return rows


def over_choices(values: np.ndarray, human: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Spearman of the first k draws in random orders of the draws, (CHOICES, len(counts)).

    ``values`` are (P, draws). Within one order the fewer draws are part of the more.
    """
    rng = np.random.default_rng(0)
    orders = np.argsort(rng.random((CHOICES, values.shape[1])), axis=1)
    means = [values[:, orders[:, :k]].mean(axis=2) for k in counts]  # (P, CHOICES) each
    return np.stack([rank_correlations(-mean.T, human) for mean in means], axis=1)


def rank_correlations(predicted: np.ndarray, human: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each row of (m, P) with (P,).

    By hand: of a table scipy's spearmanr correlates every two of the m + 1 rows.
    """
    x, y = rankdata(predicted, axis=1), rankdata(human)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
    return x @ y / np.linalg.norm(x, axis=1) / np.linalg.norm(y)


def one_sided(base: runs.Run, weighting: Weighting, resamples: int) -> list[dict[str, Any]]:
    """Rows of the study "one_sided": either half alone, against their mean."""
    draws, steps = base.terms.squares.shape[1:3]
    rows = []
    for value, half, text in (("first", 0, "text1"), ("second", 1, "text2")):
        distance = 2 * base.terms.parts(weighting, base.quadrature)[..., half].sum(2).mean(1)
        prompts = base.pairs[text].nunique() / len(base.pairs)
        row = configuration("one_sided", value, base, base, weighting, draws, 1)
        row |= agreement_and_gap(base.pairs, distance, base.by_draw(weighting).mean(1), resamples)
        rows.append(row | {"evaluations_per_pair": steps * draws * (prompts + 1)})
    return [configuration("one_sided", "both", base, base, weighting, draws, resamples), *rows]


# -- the prior over t -------------------------------------------------------------------------


def curves(run: runs.Run) -> np.ndarray:
    """‖Δε‖² of each pair at each timestep, (P, S), in units of its mean over the pairs."""
    mean = run.terms.mixed.mean(axis=1)
    return mean / mean.mean(axis=0)


def learned_weights(curve: np.ndarray, human: np.ndarray) -> np.ndarray:
    """Weights over t ≥ 0, summing to one, whose distance comes nearest to the human ranks.

    Non-negative least squares; uniform where no timestep helps.
    """
    target = rankdata(-human)
    weights, _ = nnls(curve - curve.mean(axis=0), target - target.mean())
    return weights / weights.sum() if weights.any() else np.full(len(weights), 1 / len(weights))


def best_single(curve: np.ndarray, human: np.ndarray) -> np.ndarray:
    """All weight on the timestep that agrees best."""
    return np.eye(curve.shape[1])[np.argmax(rank_correlations(-curve.T, human))]


def held_out(
    curve: np.ndarray, human: np.ndarray, fit: Fit, halvings: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (P,) under weights that never saw the pair's own score, and the weights.

    The pairs are halved at random, weights fitted on either half, and used on the other; a pair's
    distance is the mean over the halvings. The weights are (2 · halvings, S).
    """
    rng = np.random.default_rng(0)
    total, fitted = np.zeros(len(curve)), []
    for _ in range(halvings):
        order = rng.permutation(len(curve))
        first, second = np.array_split(order, 2)
        for train, test in ((first, second), (second, first)):
            fitted.append(fit(curve[train], human[train]))
            total[test] += curve[test] @ fitted[-1]
    return total / halvings, np.array(fitted)


def priors(base: runs.Run, resamples: int, halvings: int) -> list[dict[str, Any]]:
    """Rows of the study "prior": uniform over the visited timesteps, single ones, learned."""
    curve, human = curves(base), base.pairs["score"].to_numpy(float)
    steps = curve.shape[1]
    found = {"uniform": base.by_draw("noise").mean(1)}
    found |= {f"t = {t}": curve[:, i] for i, t in enumerate(base.terms.timesteps.tolist())}
    found |= {
        "learned on the other half": held_out(curve, human, learned_weights, halvings)[0],
        "single t chosen on the other half": held_out(curve, human, best_single, halvings)[0],
        "learned on all pairs (not a test)": curve @ learned_weights(curve, human),
    }
    rows = []
    for value, distance in found.items():
        row = configuration("prior", value, base, base, "noise", base.terms.squares.shape[1], 1)
        row |= agreement_and_gap(base.pairs, distance, found["uniform"], resamples)
        rows.append(row)
    for i in range(steps):
        rows[1 + i]["evaluations_per_pair"] = until(base, i)
    return rows


def until(base: runs.Run, index: int) -> float:
    """Noise predictions a pair if only the timestep of this index counts, and none later is made.

    The first is at x_T: no trajectory leads there, and both prompts' own predictions suffice.
    """
    prompts = len(set(base.pairs["text1"]) | set(base.pairs["text2"])) / len(base.pairs)
    return base.terms.squares.shape[1] * ((index + 1) * prompts + 2 * (index > 0))


def learned_elsewhere(scored: dict[str, dict[tuple[str, str], runs.Run]], name: str) -> Any:
    """Rows of the study "prior" on the set ``name``: weights learned on each other set."""
    base = scored[name][BASE]
    rows = []
    for other in (n for n in scored if n != name):
        there = scored[other][BASE]
        weights = learned_weights(curves(there), there.pairs["score"].to_numpy(float))
        draws = base.terms.squares.shape[1]
        row = configuration("prior", f"learned on {other}", base, base, "noise", draws, 1)
        uniform = base.by_draw("noise").mean(1)
        rows.append(row | agreement_and_gap(base.pairs, curves(base) @ weights, uniform, 10_000))
    return pd.DataFrame(rows)


# -- the variance of a draw -------------------------------------------------------------------


def variances(scored: dict[tuple[str, str], runs.Run]) -> pd.DataFrame:
    """One row per method and weighting: what a draw adds to the noise of comparisons.

    variance_per_draw is half the mean variance of the difference of two pairs in one draw, which
    is what can change a rank; relative_to_independent has a jackknife standard error over draws.
    """
    base, opposite = scored[BASE], scored[MIRRORED]
    steps = base.terms.squares.shape[2]
    whole = price(base.pairs, steps, 1, 1.0, "same")
    less = whole - 2 * (steps - max(1, steps // 2))
    spent = {"independent": 4 * steps, "common": whole, "antithetic": whole,
             "random half": less, "stratified": less}  # fmt: skip
    rows = []
    for w in cj.WEIGHTINGS:
        cells, there = contributions(base, w), contributions(opposite, w)
        between = between_pairs(cells.mean(2))
        for method, evaluations in spent.items():
            value, relative, error = noise_of(method, cells, there)
            rows.append(
                {
                    "method": method, "weighting": w, "variance_per_draw": value,
                    "relative_to_independent": relative, "relative_stderr": error,
                    "between_pairs_variance": between, "evaluations_per_pair": evaluations,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def contributions(run: runs.Run, weighting: Weighting) -> np.ndarray:
    """(P, draws, S): the value of a draw is the mean over its timesteps."""
    return len(run.terms.timesteps) * run.terms.parts(weighting, run.quadrature).sum(3)


def interaction(values: np.ndarray) -> float:
    """Variance (P, draws) of what is neither the pair's mean nor the draw's: two-way residuals."""
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((rest**2).sum() / (values.shape[0] - 1) / (values.shape[1] - 1))


def between_pairs(values: np.ndarray) -> float:
    """Variance between pairs of (P, draws), less what the noise of the draws adds to it."""
    return float(values.mean(1).var(ddof=1) - interaction(values) / values.shape[1])


def within_strata(cells: np.ndarray, strata: Sequence[np.ndarray]) -> float:
    """Variance that picking one timestep of each stratum adds to the mean, (P, draws, S)."""
    if not strata:
        return 0.0
    rest = cells - cells.mean(axis=0)  # what is common to all pairs changes no rank
    spread = np.mean([rest[:, :, s].var(axis=2).mean() for s in strata]) / len(strata)
    return float(spread * len(cells) / (len(cells) - 1))


def noise_of(method: str, cells: np.ndarray, there: np.ndarray) -> tuple[float, float, float]:
    """Variance per draw of a method, that relative to independent noise, its standard error.

    ``cells`` (P, draws, S) are from x_T, ``there`` from -x_T, as many draws or fewer.
    """
    draws = np.arange((there if method == "antithetic" else cells).shape[1])

    def measured(at: np.ndarray) -> tuple[float, float]:
        value = per_draw(method, cells[:, at], there[:, at] if method == "antithetic" else there)
        return value, value / per_draw("independent", cells[:, at], there)

    left_out = np.array([measured(np.delete(draws, i))[1] for i in draws] if len(draws) > 2 else [])
    error = np.sqrt((len(draws) - 1) * left_out.var()) if len(left_out) else np.nan
    return (*measured(draws), float(error))


def per_draw(method: str, cells: np.ndarray, there: np.ndarray) -> float:
    """Variance per draw of a method; "random half" and "stratified" look at half of the timesteps
    in a draw, the same ones for all pairs: any of them, none twice, or one of each two neighbours.
    """
    values, steps = cells.mean(2), np.arange(cells.shape[2])
    half = max(1, len(steps) // 2)
    if method == "independent":
        return float(values.var(axis=1, ddof=1).mean())
    if method == "antithetic":  # a couple of draws, x_T and -x_T, counts twice
        return 2 * interaction((values + there.mean(2)) / 2)
    if method == "random half":
        return interaction(values) + unseen(len(steps)) * within_strata(cells, [steps] * half)
    strata = {"common": [], "stratified": np.array_split(steps, half)}
    return interaction(values) + within_strata(cells, strata[method])


def unseen(steps: int) -> float:
    """What drawing half of the timesteps, none twice, leaves of the variance of as many draws."""
    return (steps - max(1, steps // 2)) / max(1, steps - 1)
