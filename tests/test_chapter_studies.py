"""The studies behind single chapters, against the library, by hand, and against known laws."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import conjure_lib as cj
from conjure_lib.process import generator
from conjure_tools.distributions import energy, mmd
from conjure_tools.fingerprints import weights_hash
from studies import (
    algorithm,
    clusters,
    emoji_model,
    explanations,
    first_distances,
    pages,
    path_laws,
    people,
    probes_page,
    records,
    sentences,
    things_and_ideas,
    where_and_when,
    words,
)
from studies import known_laws as laws
from studies.gaussians import Mixture

# -- words and sentences ----------------------------------------------------------------------


COLUMNS = ["conjured", "people", "own", "other"]


def as_pairs(x: np.ndarray, words_each: int = 1) -> pd.DataFrame:
    """Rows of COLUMNS with texts: a first word stands in so many pairs."""
    texts = [(f"w{i // words_each}", f"v{i}") for i in range(len(x))]
    return pd.DataFrame(x, columns=COLUMNS).join(pd.DataFrame(texts, columns=["text1", "text2"]))


@pytest.fixture
def rows() -> np.ndarray:
    """Conjured, people and two cosines of eighty pairs, that have something in common."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(80, 1))
    return common + rng.normal(size=(80, 4))


def test_statistics_of_words_are_those_of_the_library(rows: np.ndarray) -> None:
    words.check_statistics({"some": as_pairs(rows), "fewer": as_pairs(rows[:30])}, COLUMNS)
    many = words.statistics(np.stack([rows[:40], rows[40:]]))
    for found, part in zip(many, (rows[:40], rows[40:]), strict=True):
        assert found[0] == pytest.approx(spearmanr(part[:, 0], part[:, 1]).statistic)
        assert found[1] == pytest.approx(spearmanr(part[:, 2], part[:, 1]).statistic)


def test_a_gap_is_found_where_there_is_one_and_not_elsewhere(rows: np.ndarray) -> None:
    rng, how = np.random.default_rng(1), {"resamples": 400, "seed": 0}
    strangers = rng.normal(size=rows.shape)
    own, other = as_pairs(rows), as_pairs(strangers)
    there = words.gap(own, other, COLUMNS, 0, **how).loc["conjured"]
    assert words.judged(there) == "holds"
    assert there["p"] < 0.05
    none = words.gap(own, own[::-1], COLUMNS, 0, **how).loc["conjured"]
    assert words.judged(none) == "stays open"
    assert none["p"] == 1
    back = words.gap(other, own, COLUMNS, 0, **how).loc["conjured"]
    assert words.judged(back) == "is reversed"


def test_words_that_recur_widen_the_interval_of_a_gap() -> None:
    """Of four copies of each pair, the interval is that of the pairs that there are."""
    rng, how = np.random.default_rng(3), {"resamples": 400, "seed": 0}
    common = rng.normal(size=(50, 1))
    few, others = common + rng.normal(size=(50, 4)), rng.normal(size=(50, 4))
    tiny = 1e-9 * rng.normal(size=(200, 4))
    many = np.repeat(few, 4, axis=0) + tiny  # of a text that recurs, other words beside it
    more = np.repeat(others, 4, axis=0) + tiny

    def width(words_each: int) -> float:
        both = as_pairs(many, words_each), as_pairs(more, words_each)
        found = words.gap(*both, COLUMNS, 0, **how).loc["conjured"]
        return float(found["high"] - found["low"])

    small = words.gap(as_pairs(few), as_pairs(others), COLUMNS, 0, **how).loc["conjured"]
    assert width(4) == pytest.approx(small["high"] - small["low"], rel=0.15)
    assert width(1) < 0.6 * width(4)


def test_couples_are_matched_once_and_within_the_caliper() -> None:
    first = pd.DataFrame({"concreteness": [1.0, 1.2, 3.0, 4.9]})
    second = pd.DataFrame({"concreteness": [1.21, 3.3, 1.05]})
    one, other = words.matched_rows(first, second, 0.25)
    assert sorted(zip(one.index, other.index, strict=True)) == [(0, 2), (1, 0)]


def test_the_claims_say_what_the_numbers_say() -> None:
    row = {"first": 40.0, "second": 20.0, "difference": 20.0, "low": 5.0, "high": 35.0, "p": 0.004}
    index = [*words.STATISTICS, words.EXCESS]
    frame = pd.DataFrame([row] * len(index), index=index)
    none = frame.assign(low=-5.0)
    said = words.claims({"verbs": frame, "adjectives": none})
    assert "the claim holds for verbs and stays open for adjectives" in said["answer"]
    reached = "against verbs (20.0) the claim holds, +20.0 [5.0, 35.0], p = 0.004"
    assert said["claim"].startswith(f"Nouns reach 40.0: {reached}")


def test_means_over_subsets_weigh_by_pairs() -> None:
    part = pd.DataFrame(
        {"spearman": [10.0, 40.0], "spearman_low": [8.0, 38.0], "spearman_high": [12.0, 42.0],
         "pairs": [300, 100]}
    )  # fmt: skip
    found = sentences.over_subsets(part)
    assert found["value"] == pytest.approx(17.5)
    error = 1.96 * math.hypot(0.75 * 4 / 3.92, 0.25 * 4 / 3.92)
    assert found["high"] - found["value"] == pytest.approx(error)


def test_the_printed_figure_is_that_of_another_column() -> None:
    found = sentences.correction_facts(sentences.quoted_figures())
    assert found["printed_stsb"] == pytest.approx(found["official_sts12"], abs=0.05)
    assert abs(found["mean_official"] - found["printed_mean"]) < 0.06
    assert abs(found["mean_swapped"] - found["printed_mean"]) > 0.5


def test_a_stale_record_shows_in_a_fresh_sample(
    process: cj.GenerativeProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    record = records.opened("words")
    assert record
    pairs = pd.DataFrame(
        {"benchmark": "rg65", "id": ["a", "b"], "text1": ["cat", "car"], "text2": ["dog", "bus"]}
    )
    made = record.notes["rg65"]["settings"]
    made = made | {"weights": weights_hash(process), "quadrature": "log-snr"}
    how = {k: made[k] for k in ("steps", "guidance", "sampler", "seed")}
    terms = cj.pair_terms(process, records.texts_of(pairs), draws=1, **how)
    notes = {"rg65": record.notes["rg65"] | {"draws": 1, "settings": made}}
    for w in cj.WEIGHTINGS:
        now = [one.value for one in terms.estimates(w, made["quadrature"])]
        pairs[w] = [-value for value in now]
    holds = people.scored_again(process, "words", {"rg65": pairs}, notes, 2, 0, 64)
    assert holds.worst < 1e-5
    assert not holds.stale
    other = people.scored_again(
        process, "words", {"rg65": pairs.assign(noise=1.02 * pairs["noise"])}, notes, 2, 0, 64
    )
    assert other.stale
    assert "make records NAME=words" in capsys.readouterr().out


def test_minus_zero_is_said_of_differences_alone() -> None:
    assert pages.bracketed((-0.004, -0.3, 26.4), ".1f") == "0.0 [-0.3, 26.4]"
    assert pages.bracketed((13.2, -0.04, 26.4), ".1f", "+.1f") == "13.2 [-0.0, +26.4]"
    assert pages.bracketed((13.2, math.nan, math.nan), ".1f") == "13.2"


def test_a_page_says_what_it_took(process: cj.GenerativeProcess) -> None:
    own, all_in_all = pages.cost(process, 0.0), pages.cost(process, 0.0, 1234567)
    assert own["evaluations"] == f"{process.evaluations:,}"
    assert all_in_all["evaluations"] == "1,234,567"
    assert own["seconds"] <= all_in_all["seconds"] <= time.perf_counter()
    assert (own["device"], own["model"]) == ("a CPU", process.name)


def test_answers_count_and_compare() -> None:
    table = pd.DataFrame(
        {"id": ["a", "b", "c"], "phenomenon": ["scene", "scene", "order"], "anchor": "x",
         "closer": "y", "farther": "z"}
    )  # fmt: skip
    scored = pd.concat(
        pd.DataFrame({"id": ["a", "b", "c"], "margin": margin, "closer": 1.0, "farther": 2.0,
                      "stderr": np.nan, "model": model, "method": "noise"})
        for model, margin in (("shipped", [1.0, 1.0, -1.0]), ("untrained", [1.0, -1.0, -1.0]))
    )  # fmt: skip
    found = probes_page.Answers(table, scored, "noise")
    assert found.results.loc[("shipped", "noise", ""), "accuracy"] == pytest.approx(2 / 3)
    pair = ("shipped", "noise"), ("untrained", "noise")
    value, low, high = probes_page.paired(found, *pair, ["scene"], 200)
    assert value == 50
    assert (low, high) == (0, 100)
    assert probes_page.paired(found, *pair, ["order"], 50).tolist() == [0, 0, 0]


# -- first distances, and the log of a training -----------------------------------------------


def test_the_nearest_is_told_from_the_next_by_differences_within_draws() -> None:
    noise = np.array([-10.0, 0, 10])
    draws = {"far": noise + 50, "near": noise + 20, "next": noise + np.array([21.9, 22, 22.1])}
    found = first_distances.nearest_facts(
        list(draws), [SimpleNamespace(value=d.mean(), by_draw=d) for d in draws.values()]
    )
    assert [found[k] for k in ("nearest", "second_nearest", "far")] == ["near", "next", "far"]
    assert found["gap"] == pytest.approx(2) and found["settled"] == "settles"
    half = 4.3027 * 0.1 / 3**0.5  # Student's t of two degrees of freedom, from a table
    assert found["gap_low"] == pytest.approx(2 - half, abs=1e-4)
    assert found["gap_high"] == pytest.approx(2 + half, abs=1e-4)


def test_words_have_their_nearest_in_their_kind_or_not() -> None:
    apart = np.array([[0, 1, 5, 5], [1, 0, 5, 3], [5, 5, 0, 4], [5, 3, 4, 0]], float)
    nothing = np.zeros((4, 4))
    matrix = cj.DistanceMatrix(list("abcd"), apart, apart / 10, nothing, nothing, [])
    found = first_distances.kind_facts(matrix, {"first": ["a", "b"], "second": ["c", "d"]})
    assert (found["own_kind"], found["words"], found["pairs"]) == (3, 4, 6)  # d's nearest is b
    assert found["by_chance"] == pytest.approx(4 / 3) and found["matrix_error"] == 0.1


def test_a_resumed_training_counts_its_seconds_anew(tmp_path: Path) -> None:
    lines = [{"singles": 0.9}, {"loss": 1.0}, {"singles": 0.5}, {"loss": 0.8}]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    stages = {"a": [10, 20, 5, 15], "b": [7]}  # seconds; the first was resumed once
    log = {"stages": {k: [{"seconds": s} for s in run] for k, run in stages.items()}}
    found = emoji_model.training_facts(log, tmp_path)
    assert found == {"hours": (20 + 15 + 7) / 3600, "mine": 0.5}


# -- where and when, and what a text tells ----------------------------------------------------


def test_half_of_a_map_is_held_by_few_places_or_many() -> None:
    assert where_and_when.half_area(np.ones((4, 5))) == 0.5
    assert where_and_when.half_area(np.diag([8.0, 1, 1, 1])) == 1 / 16


def test_half_of_a_distance_is_added_between_the_steps_around_it(
    process: cj.GenerativeProcess,
) -> None:
    trace = cj.trace(process, "cat", "dog", steps=4)
    by_step = trace.terms().estimates("noise", "sum")[0].by_step
    share, t = by_step.cumsum() / by_step.sum(), [process.schedule.T, *trace.timesteps.tolist()]
    after = int((share >= 0.5).argmax())
    assert t[after + 1] <= where_and_when.half_time(trace, "noise") < t[after]


def test_verdicts_are_told_from_the_line_by_both_errors() -> None:
    rng, scale = np.random.default_rng(0), np.array([2.0])
    line = things_and_ideas.drawn_line(np.arange(10.0, 20), np.arange(10.0), 50, rng)
    assert line.there and line.wrong == 0 and line.value == 9.5
    draws = np.sqrt(np.array([[1.0, 1.1], [9, 10], [30, 31]]))[:, :, None, None]  # q is the square
    table = things_and_ideas.verdicts(["little", "some", "much"], draws, scale, line)
    assert table["verdict"].tolist() == ["below", "too near to tell", "above"]
    found = things_and_ideas.verdict_facts(table, line)
    assert found["too_little"] == "“little” tells it too little"
    assert things_and_ideas.verdict_facts(table.iloc[1:], line)["below_list"] == "none"


def test_the_line_leaves_equal_shares_on_its_wrong_sides() -> None:
    things, ideas = np.array([3.0, 4, 5, 6]), np.array([0.0, 1, 2, 3.5])
    cut = things_and_ideas.line(things, ideas)
    assert (things < cut).mean() == (ideas > cut).mean() == 0.25
    assert things_and_ideas.above(things, ideas) == 15 / 16


def test_partners_that_are_nearest_always_win() -> None:
    assert (
        things_and_ideas.partner_nearer(np.array([[1.0, 1, 1], [2, 2, 2], [3, 3, 3]])).tolist()
        == [1] * 3
    )
    assert things_and_ideas.partner_nearer(np.array([[4.0, 1, 1], [2, 2, 2], [3, 3, 3]]))[0] == 0


# -- laws that are known ----------------------------------------------------------------------


def test_closed_forms_are_what_samples_give() -> None:
    p, q = laws.law([0.0], 0.5), laws.law([-1.0, 1.0], 0.3, [0.4, 0.6])
    known = laws.exact(p, q, 1.0)
    x, y = laws.sampled(p, q, 200, 40, 0, 1)
    for name, estimate in (("energy", energy), ("mmd", lambda a, b: mmd(a, b, 1.0))):
        found = np.array([estimate(a, b) for a, b in zip(x, y, strict=True)])
        error = found.std(ddof=1) / math.sqrt(len(found))
        assert abs(found.mean() - known[name]) < 4.5 * error, name


def test_distances_of_a_shift_are_its_length() -> None:
    p, q = laws.law([0.0], 0.5), laws.law([1.0], 0.5)
    known = laws.exact(p, q, 1.0)
    assert known["wasserstein"] == pytest.approx(1, rel=1e-3)
    assert known["frechet"] == pytest.approx(1, rel=1e-6)
    assert known["sliced"] == pytest.approx(0.5, rel=1e-2)
    assert known["jeffreys"] == pytest.approx(4, rel=1e-3)  # ‖m‖² / std²


def test_paths_on_a_line_have_the_divergence_of_their_ends(process: cj.GenerativeProcess) -> None:
    line = laws.Line(process.schedule, 500)
    first, second = (Mixture.gaussian(torch.tensor([m], dtype=torch.float64), 0.5) for m in (0, 1))
    paths, ends = line.both_divergences(line.score(first), line.score(second))
    assert line.true_divergence(first, second, 0.0) == pytest.approx(4, rel=1e-3)
    assert ends == pytest.approx(4, rel=0.05)
    assert paths == pytest.approx(4, rel=0.05)


def test_what_turns_keeps_its_law() -> None:
    found = laws.turned(1.0, 5.0, 100, generator(0, 1))
    assert found.shape == (500, 2)
    np.testing.assert_allclose(np.cov(found.T), np.eye(2), atol=0.25)


def test_pictures_of_ddim_can_lie_farther_apart_than_the_paths(
    process: cj.GenerativeProcess,
) -> None:
    """Scores -x - b/2 and -x + b/2, those of no diffused laws: every number is known."""
    schedule = process.schedule
    elapsed = float(-2 * schedule.alpha(torch.tensor(float(schedule.T))).log())  # B(T)
    found = laws.parted(process, 1.0, (1, 32, 32), 200)
    assert found["paths"] == pytest.approx(elapsed, rel=0.01)
    assert found["ddim"] == pytest.approx((elapsed / 2) ** 2, rel=0.05)
    assert found["ddpm"] < found["paths"] < found["ddim"]


def test_the_divergence_of_a_chain_is_that_of_its_joint_law() -> None:
    """Two ancestral chains on the line, by their joint Gaussians and by the sum over steps."""
    schedule = cj.Schedule(torch.linspace(0.9, 0.1, 6, dtype=torch.float64))
    t = torch.arange(6)
    beta, left = schedule.beta_step(t), 1 - schedule.alpha_bar(t)
    chains, moments = [], []
    for m in (0.7, -0.4):  # exact scores of N(m, 0.5²)
        variance = schedule.alpha_bar(t) * 0.25 + left
        slope = left.sqrt() / variance  # ε = slope (x - α m)
        shift = -slope * schedule.alpha_bar(t).sqrt() * m
        a = (1 - beta * slope / left.sqrt()) / (1 - beta).sqrt()
        b = -beta * shift / left.sqrt() / (1 - beta).sqrt()
        mean, joint = torch.zeros(7).double(), torch.zeros(7, 7).double()
        joint[0, 0] = 1  # from N(0, 1), then t = 5 … 0
        for k, step in enumerate(reversed(range(6)), 1):
            mean[k] = a[step] * mean[k - 1] + b[step]
            joint[k, :k] = joint[:k, k] = a[step] * joint[k - 1, :k]
            joint[k, k] = a[step] ** 2 * joint[k - 1, k - 1] + beta[step]
        chains.append((mean, joint))
        moments.append((slope, shift))
    law_1, law_2 = (torch.distributions.MultivariateNormal(*chain) for chain in chains)
    kl = torch.distributions.kl_divergence
    exact = float(kl(law_1, law_2) + kl(law_2, law_1))
    slope, shift = (x - y for x, y in zip(*moments, strict=True))
    square = torch.zeros(6).double()
    for mean, joint in chains:
        x, spread = mean[:6].flip(0), joint.diag()[:6].flip(0)  # the state from which t is made
        square += ((slope * x + shift) ** 2 + slope**2 * spread) / 2
    assert path_laws.chain_divergence(schedule, square) == pytest.approx(exact, rel=1e-9)


def test_the_plain_loop_is_the_library(process: cj.GenerativeProcess) -> None:
    sampling = cj.Sampling(steps=2, draws=1, seed=1)
    found = algorithm.beside_library(process, ("cat", "dog"), [1.0, 3.0], sampling)
    assert (found["rel. difference"] < 1e-4).all()
    assert (found["calls, loop"] == [12, 24]).all()


def known_terms(schedule: cj.Schedule, S: int, c: float = 0.3, apart: float = 1.0) -> cj.Terms:
    """Terms (1, 2, S, 2) of N(m_i, c²) with means so far apart: ‖Δε‖² does not depend on x."""
    t = torch.arange(S).flip(0) * (schedule.T // S)
    bar = schedule.alpha_bar(t)
    square = (1 - bar) * bar * apart**2 / (bar * c**2 + 1 - bar) ** 2
    return cj.Terms(square.numpy()[None, None, :, None].repeat(2, 1).repeat(2, 3), t, schedule)


def test_the_excess_of_a_sum_is_split_and_the_reference_is_the_closed_form(
    process: cj.GenerativeProcess,
) -> None:
    schedule = process.schedule
    assert isinstance(schedule, cj.Schedule)
    found = algorithm.Steps({S: known_terms(schedule, S) for S in (5, 10, 100)})
    first, last = schedule.alpha_bar(torch.tensor([0, schedule.T - 1])).tolist()
    exact = first / (first * 0.09 + 1 - first) - last / (last * 0.09 + 1 - last)
    assert found.reference().value == pytest.approx(exact, rel=0.01)
    weights = schedule.weight(found.runs[10].timesteps, "sde").numpy()
    plain = schedule.T / 10 * float(weights @ found.runs[10].squares[0, 0, :, 0])
    facts, row = found.facts(10), found.table().set_index("steps").loc[10]
    assert row["sum"] == pytest.approx(plain) and facts["sum"] == pytest.approx(plain)
    assert facts["by_trajectories"] == pytest.approx(0, abs=1e-9)  # the same terms on any path
    assert facts["excess"] == pytest.approx(plain - exact, rel=0.01)
    assert facts["by_quadrature"] == pytest.approx(facts["excess"])
    assert facts["excess_error"] == 0 and facts["ratio_sde"] == pytest.approx(
        plain / exact, rel=0.01
    )
    assert abs(facts["off"]) < abs(facts["excess"]) / 5
    fewer = algorithm.Steps({S: known_terms(schedule, S) for S in (4, 10)})
    assert math.isnan(fewer.on_finest(4))  # 250 is none of the ten


def test_each_weighting_shares_out_one_whole(process: cj.GenerativeProcess) -> None:
    assert isinstance(process.schedule, cj.Schedule)
    terms = known_terms(process.schedule, 10)
    for rule in ("sum", "log-snr"):
        shares = algorithm.shares_of(terms, rule)
        assert shares.sum().tolist() == pytest.approx([1, 1, 1])
    plain = algorithm.shares_of(terms, "sum")["noise"].to_numpy()
    square = terms.squares[0, 0, :, 0]
    assert plain == pytest.approx(square / square.sum())


def test_a_prediction_that_is_crossed_is_the_same_x_and_the_drift() -> None:
    eps = torch.randn(2, 2, 3, 1, 2, 2, generator=generator(0, 0), dtype=torch.float64)
    eps[1, 1, 0] = eps[0, 1, 0]  # at the first step, both at one x
    schedule = cj.Schedule(torch.linspace(0.9, 0.1, 6, dtype=torch.float64))
    trace = cj.Trace(("a", "b"), torch.tensor([4, 2, 0]), eps[:, 0], eps, schedule, cj.Sampling())
    found = algorithm.parts(trace)
    np.testing.assert_allclose(found["same x"], trace.terms().squares[0])
    assert found["drift"][0, 0, 0] == 0 and found["crossed"][0, 0, 0] == found["same x"][0, 0, 0]
    inner = ((eps[0, 0] - eps[0, 1]) * (eps[0, 1] - eps[1, 1])).flatten(1).sum(1).numpy()
    whole = found["same x"][0, :, 0] + found["drift"][0, :, 0] + 2 * inner
    np.testing.assert_allclose(found["crossed"][0, :, 0], whole)


def test_what_shared_noise_saves() -> None:
    shared, *own = np.random.default_rng(0).normal(size=(3, 4000))
    assert algorithm.saving(*own) == pytest.approx(1, abs=0.05)
    facts = algorithm.common_facts(3 * shared + own[0], 3 * shared + own[1], 0)
    assert float(facts["crn_saving"].split()[0]) == pytest.approx(10, rel=0.1)  # 1 + 3²
    assert facts["crn_independent"] / facts["crn_shared"] == pytest.approx(10**0.5, rel=0.05)
    assert facts["crn_correlation"].startswith("0.9")


def test_a_training_looks_away_from_what_is_hardly_noisy() -> None:
    bars = torch.tensor([0.99, 0.9, 0.1], dtype=torch.float64)
    schedule = cj.Schedule(bars)
    for t, expected in ((0, 5 / 99), (1, 5 / 9), (2, 1.0)):
        assert algorithm.trained_weight(schedule, torch.tensor([2, t])) == pytest.approx(expected)


def test_clusters_that_are_the_groups_are_found() -> None:
    labels = np.repeat([0, 1, 2], 4)
    rng = np.random.default_rng(0)
    apart = (labels[:, None] != labels) + 0.1 * rng.random((12, 12))
    matrix = (apart + apart.T) * (1 - np.eye(12))
    assert clusters.rand_index(matrix, labels) == 1
    assert clusters.neighbour(matrix, labels) == 1
    levels = rng.random(12)
    only_levels = np.exp(levels[:, None] + levels) * (1 - np.eye(12))
    assert clusters.share_of_levels(only_levels) == pytest.approx(1)
    assert np.allclose(np.diag(clusters.cosine_distance(matrix)), 0)


def test_an_explanation_adds_up_and_an_intervention_everywhere_is_the_other_text(
    process: cj.GenerativeProcess,
) -> None:
    explainer = explanations.Explainer(process, 2, 3.0, 0, 2, 2)
    pair = ("cat", "dog")
    parts = explainer.contributions(explainer.trace(pair), "noise")
    how: dict[str, Any] = {"steps": 2, "draws": 1, "guidance": 3.0, "quadrature": "sum"}
    whole = cj.distance(process, *pair, weighting="noise", **how).value
    assert parts.sum() == pytest.approx(whole, rel=1e-4)
    masks = torch.zeros(2, 2, *explainer.shape)
    masks[1] = 1
    squares, final = explainer.hybrids(*pair, masks)
    assert squares[0].sum() + squares[1].sum() == pytest.approx(2 * 2 * whole, rel=1e-3)
    trace = explainer.trace(pair)
    assert final.shape == (2, *process.latent_shape)
    assert not torch.allclose(final[0], final[1])
    assert trace.states.shape[:2] == (2, 2)
    assert explanations.percentile(np.array([0.0, 1, 0]), np.array([1.0, 3, 2])) > 80


def test_a_random_cycle_is_almost_a_permutation_of_all() -> None:
    """The mean rank correlation of a matrix with itself, its rows exchanged along a cycle."""
    rng, n = np.random.default_rng(0), 56
    groups = np.arange(n) // 7
    apart = (groups[:, None] != groups) + 0.5 * rng.random((n, n))
    matrix, upper = apart + apart.T, np.triu_indices(n, 1)
    ranked = matrix[upper].argsort().argsort().astype(float)
    found = []
    for _ in range(1000):
        order = rng.permutation(n)
        cycle = np.empty(n, int)
        cycle[order] = np.roll(order, 1)
        moved = matrix[np.ix_(cycle, cycle)][upper].argsort().argsort()
        found.append(np.corrcoef(ranked, moved)[0, 1])
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found)) + 2e-3
