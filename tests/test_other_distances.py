"""The studies of chapter 10, against closed forms, and how they say what they found."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import conjure_lib as cj
from studies import image_distances_page as evidence
from studies import known_laws as laws
from studies import sample_sizes as sizes
from studies.gaussians import mixture

SAID = re.compile(r"-?\d+ \[-?\d+, -?\d+\]")
NARROW = mixture([[-0.4]], [0.5], [1.0]), mixture([[0.6]], [0.5], [1.0])


@pytest.fixture(scope="module")
def line(process: cj.GenerativeProcess) -> laws.Line:
    return laws.Line(process.schedule, 400)


# -- known laws ---------------------------------------------------------------------------------


def test_estimates_are_held_against_the_exact_distances() -> None:
    cases = {"apart": (laws.law([0], 0.5), laws.law([1], 0.5))}
    known = pd.DataFrame({"apart": laws.exact(*cases["apart"], 1.0)}).T
    off = laws.misses(cases, known, 1.0, 30, 0)["apart"]
    assert off[["energy", "mmd"]].abs().max() < 4.5 and off["wasserstein"] > 0
    wrong = laws.misses(cases, known + 0.5, 1.0, 30, 0)["apart"]
    assert wrong["energy"] < -4.5  # a wrong exact value is seen


def test_guidance_parts_paths_from_pictures_and_none_does_not(line: laws.Line) -> None:
    found = laws.under_guidance(line, *NARROW, [1.0, 4.0])
    assert found.loc[1.0].to_numpy() == pytest.approx([4, 4], rel=0.05)  # ‖Δm‖² / std²
    assert found.loc[4.0, "paths"] > found.loc[4.0, "pictures"] > found.loc[1.0, "pictures"]


def test_an_error_is_worth_one_nat_and_forgotten_the_more_the_earlier(line: laws.Line) -> None:
    found = laws.after_a_push(line, line.score(NARROW[0]))
    assert len(found) == laws.PUSHES and found.index.is_monotonic_increasing
    assert found["paths"].to_numpy() == pytest.approx(1, abs=0.01)
    assert (found["pictures"] < 1).all() and found["pictures"].is_monotonic_decreasing


def test_processes_that_turn_differ_in_their_paths_alone(
    process: cj.GenerativeProcess, line: laws.Line
) -> None:
    found = laws.swirled(line, 0.5, 0)
    left = float(process.schedule.alpha_bar(torch.tensor(process.schedule.T - 1)))
    assert found["paths"] == pytest.approx(-8 * 0.25 * math.log(left), rel=1e-6)
    assert abs(found["pictures"]) < 0.02 and abs(found["null"]) < 0.02


def test_samplers_with_exact_scores_come_to_the_exact_values(
    process: cj.GenerativeProcess, line: laws.Line
) -> None:
    two = dict(zip(("first", "second"), NARROW, strict=True))
    found = laws.by_sampler(process, line, two, [4, 40], (1, 32, 32)).set_index("sampler")
    assert set(found.index) == set(laws.SAMPLERS)
    fine = found[found["steps"] == 40]
    assert fine[["J", "transport"]].to_numpy() == pytest.approx(1, abs=0.1)
    coarse = found[found["steps"] == 4]
    assert ((coarse["sum"] - 1).abs() > (fine["sum"] - 1).abs()).all()


# -- samples ------------------------------------------------------------------------------------


def test_estimates_by_size_are_those_of_known_distances() -> None:
    found = sizes.by_size([8, 16], 40, 0)["mean"]
    spread = sizes.by_size([8, 16], 40, 0)["sd"] / math.sqrt(40)
    for dimension in sizes.DIMENSIONS:
        exact = laws.contrast(*sizes.gaussians(dimension), laws.mean_norm)
        for kind, truth in (("independent", exact), ("common", exact), ("null", 0.0)):
            at = (dimension, kind, "energy", 16)
            assert abs(found[at] - truth) < 4.5 * spread[at], at
        at = (dimension, "common", "wasserstein", 16)  # the coupling is the optimal one
        assert found[at] == pytest.approx(found[dimension, "common", "coupled", 16])
        assert abs(found[at] - sizes.transport(dimension)) < 4.5 * spread[at]
        assert found[dimension, "independent", "wasserstein", 16] > sizes.transport(dimension)


def test_what_is_quoted_of_the_sizes_is_in_their_table() -> None:
    found = sizes.by_size([4, 8], 6, 0)
    facts = sizes.facts(found)
    assert facts["n_most"] == 8 and facts["n_dimensions"] == 256
    assert facts["w_gap"] == pytest.approx(facts["w_independent"] - facts["w_null"])
    assert facts["w_exact"] == pytest.approx(9 + 256 * 0.04)
    p, q = (torch.distributions.Normal(torch.zeros(1), s) for s in (1.0, sizes.WIDE))
    width = sum(float(torch.distributions.kl_divergence(*two)) for two in ((p, q), (q, p)))
    shift = (1 + 1 / sizes.WIDE**2) * sizes.APART**2 / 2
    assert facts["j_exact"] == pytest.approx(256 * width + shift, rel=1e-5)


# -- how it is said -----------------------------------------------------------------------------


def test_numbers_are_said_with_their_intervals_where_there_are_any() -> None:
    row = SimpleNamespace(spearman=0.456, low=-0.2, high=0.61)
    assert evidence.hundredths(row) == "46 [-20, 61]"
    few = SimpleNamespace(difference=0.456, difference_low=math.nan, difference_high=math.nan)
    assert evidence.hundredths(few, evidence.DIFFERENCE, "+") == "+46"
    assert [evidence.share_said(x) for x in (0.0, np.float64(1), 0.974)] == ["none", "all", "97 %"]
    x = pd.Series(np.arange(30.0))
    assert evidence.ranks_alike(x, -x) == "-100 [-100, -100]"
    assert evidence.ranks_alike(x[:2], x[:2]) == "not defined"


def test_the_record_is_told_with_intervals(process: cj.GenerativeProcess) -> None:
    found = evidence.recorded()
    same = evidence.same_noise(found)
    facts = evidence.people_facts(found) | evidence.facts(found, evidence.floors(found), same)
    for name in ("path_rho", "best_rho", "closest_rho", "furthest_rho", "again_energy_common"):
        assert SAID.fullmatch(facts[name]), (name, facts[name])
    assert 0 <= facts["n_below"] + facts["n_above"] <= facts["n_compared"] == 7 * 3 * 2
    assert not re.search("nan|_", " ".join(str(value) for value in facts.values()))
    table = evidence.floor_table(found, evidence.floors(found), evidence.repeatability(found)).data
    wide = found.wide.xs((found.first, "energy", found.many))
    again = 100 * wide["common"].corr(wide["common again"], "spearman")
    assert facts["again_energy_common"].startswith(f"{again:.0f} [")
    assert list(table.index) == list(evidence.METHODS) and not table.isna().any(axis=None)
