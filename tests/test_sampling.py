"""What is drawn, said once: defaults, checks, and the words of a record."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

import conjure_lib as cj
from conjure_lib.sampling import Settings, Single


def test_a_call_takes_the_fields_singly_and_no_others() -> None:
    """The types that an editor sees are those of the object."""
    assert set(Single.__annotations__) == {field.name for field in fields(cj.Sampling)}
    assert set(Settings.__annotations__) >= set(Single.__annotations__)
    with pytest.raises(TypeError, match="no setting stepz: there are steps, draws, guidance"):
        cj.Sampling.of(stepz=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="sampling must be a Sampling, not 3"):
        cj.Sampling.of(3)  # type: ignore[arg-type]


def test_singly_goes_before_the_whole() -> None:
    whole = cj.Sampling(steps=7, draws=[4, 2], seed=3)
    assert cj.Sampling.of(whole, steps=5) == cj.Sampling(steps=5, draws=(4, 2), seed=3)
    assert cj.Sampling.of() == cj.Sampling()
    assert list(whole.numbers) == [4, 2] and list(cj.Sampling(draws=3).numbers) == [0, 1, 2]


def test_it_is_frozen_and_a_key() -> None:
    sampling = cj.Sampling(draws=[1, 2], log_snr=[-3, 5])  # type: ignore[arg-type]
    assert {sampling: 1}[cj.Sampling(draws=(1, 2), log_snr=(-3.0, 5.0))] == 1
    with pytest.raises(FrozenInstanceError):
        sampling.steps = 4  # type: ignore[misc]


def test_a_record_makes_it_again() -> None:
    sampling = cj.Sampling(steps=5, guidance=2, spacing="log-snr", log_snr=(-3, 5), draws=9)
    told = json.loads(json.dumps(sampling.told()))
    assert cj.Sampling(**told, draws=9) == sampling
    assert "draws" not in told  # which a run adds to


@pytest.mark.parametrize(
    ("single", "kind", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"draws": []}, ValueError, "draws must be at least 1"),
        ({"draws": [1, 1]}, ValueError, "holds a number twice"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"spacing": "karras"}, ValueError, "spacing must be one of"),
        ({"log_snr": (1, 2, 3)}, ValueError, "log_snr must be two numbers"),
        ({"log_snr": (1, float("inf"))}, ValueError, "log_snr must be two numbers"),
        ({"log_snr": {-5, 5}}, TypeError, "log_snr must be two numbers"),
        ({"log_snr": {-5: "low", 5: "high"}}, TypeError, "log_snr must be two numbers"),
        ({"log_snr": b"\1\5"}, TypeError, "log_snr must be two numbers"),
        ({"draws": {0: 1, 1: 2}}, TypeError, "draws must be a list, whose order counts"),
    ],
)
def test_what_it_cannot_be(single: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        cj.Sampling(**single)  # type: ignore[arg-type]


def test_the_same_draws_are_equal_however_they_are_given() -> None:
    alike = [cj.Sampling(draws=d) for d in (3, range(3), (0, 1, 2), np.arange(3), [0, 1, 2])]
    assert len(set(alike)) == 1 and alike[0].draws == 3
    others = {cj.Sampling(draws=d) for d in ([1, 0, 2], range(1, 4), [0, 2], [5])}
    assert len(others) == 4 and not others & {*alike}
