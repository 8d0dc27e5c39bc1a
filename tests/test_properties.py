"""Whatever is handed in, the answer is right or the error is clear.

The process here has an answer in closed form: what it says of a text is one vector, the same for
every x and t, so that a distance under the weighting "noise" is w² times the squared distance of
two vectors, whatever the other settings are.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import conjure_lib as cj
from conjure_lib.inputs import as_numbers, as_pairs
from conjure_tools import cli
from conjure_tools.correlation import pearson, spearman
from conjure_tools.neighbors import neighbors, nngs

USUAL = {"deadline": None, "derandomize": True, "database": None}
USUAL["suppress_health_check"] = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
few, many = settings(max_examples=60, **USUAL), settings(max_examples=200, **USUAL)


def vector(text: str) -> np.ndarray:
    """What the process says of a text, (3,): small integers, so that sums of squares are exact."""
    codes = [ord(c) for c in text]
    return np.array([sum(codes) % 97, len(codes) % 89, (codes or [0])[-1] % 83], float)


def exact(a: str, b: str, guidance: float = 1.0) -> float:
    return float(guidance) ** 2 * float(((vector(a) - vector(b)) ** 2).sum())


def encode(texts: Sequence[str]) -> Tensor:
    return torch.tensor(np.array([vector(text) for text in texts]), dtype=torch.float32)


SCHEDULER = DDIMScheduler(clip_sample=False, timestep_spacing="leading", steps_offset=1)
PROCESS = cj.GenerativeProcess(lambda x, t, y: y.clone(), encode, SCHEDULER, (3,))
HOW: dict[str, Any] = {"steps": 2, "draws": 2, "weighting": "noise", "progress": False}
HOW["quadrature"] = "sum"  # whose value is written out below
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
WORDS = st.text("abcdefgh", min_size=1, max_size=6)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6)
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.floats(), TEXTS, st.binary(max_size=3),
    st.lists(st.integers(-1, 3), max_size=3), st.just(np.int64(3)), st.just(np.float64(2)),
    st.just(np.array(2)), st.just(torch.tensor(2)),
)  # fmt: skip


def usable(text: Any) -> bool:
    """Whether a text is surely a prompt: something of it can be read, and nothing is odd."""
    if not isinstance(text, str) or not text.isprintable():
        return False
    return any(c.isascii() and c.isalnum() for c in text)


def unusable(text: Any) -> bool:
    """Whether it surely is none."""
    return (
        not isinstance(text, str) or not text.strip() or bool(re.search(r"[\ud800-\udfff]", text))
    )


# -- prompts ---------------------------------------------------------------------------------


@many
@given(st.text(max_size=12), st.text(max_size=12))
def test_any_two_texts(a: str, b: str) -> None:
    """Lone surrogates are among them. A distance is the exact one, symmetric, and 0 of itself."""
    try:
        found = cj.distance(PROCESS, a, b, **HOW)
    except ValueError as error:
        assert str(error).startswith(("y1 ", "y2 "))
        assert not (usable(a) and usable(b))
    else:
        assert not unusable(a) and not unusable(b)
        assert found.value == pytest.approx(exact(a, b), rel=1e-6)
        assert found.value == cj.distance(PROCESS, b, a, **HOW).value
        assert cj.distance(PROCESS, a, a, **HOW).value == 0


@few
@given(st.lists(st.one_of(TEXTS, ANYTHING), max_size=4))
def test_any_list_of_texts(texts: list[Any]) -> None:
    scorer = cj.Scorer(PROCESS, **HOW)
    try:
        vectors = scorer.encode(texts)
    except (TypeError, ValueError) as error:
        assert "prompt" in str(error)
        assert not texts or not all(map(usable, texts))
        return
    assert texts and not any(map(unusable, texts))
    between = -scorer.similarity(vectors, vectors).numpy()
    expected = [[exact(a, b) for b in texts] for a in texts]
    np.testing.assert_allclose(between, expected, rtol=1e-5, atol=1e-5)


# -- numbers ---------------------------------------------------------------------------------


def is_whole(value: Any, least: int) -> bool:
    kinds = (int, np.integer)
    return isinstance(value, kinds) and not isinstance(value, bool) and value >= least


LEAST = {"steps": 2, "batch_size": 1, "seed": 0, "memory": 1}


@many
@given(st.sampled_from(sorted(LEAST)), ANYTHING)
def test_any_integer_setting(name: str, value: Any) -> None:
    try:
        found = cj.distance(PROCESS, "cat", "dog", **HOW | {name: value})
    except (TypeError, ValueError) as error:
        assert name in str(error) and not is_whole(value, LEAST[name])
    else:
        assert is_whole(value, LEAST[name])
        assert found.value == pytest.approx(exact("cat", "dog"), rel=1e-6)


@many
@given(st.one_of(ANYTHING, st.floats(-10, 10), st.floats(1e-300, 1e300)))
def test_any_guidance(value: Any) -> None:
    kinds = (int, float, np.integer, np.floating)
    number = isinstance(value, kinds) and not isinstance(value, bool)
    try:
        found = cj.distance(PROCESS, "cat", "dog", **HOW | {"guidance": value})
    except (TypeError, ValueError) as error:
        assert "guidance" in str(error)
        assert not number or not 1e-150 < abs(value) < 1e10
    else:
        assert number and found.value > 0
        assert found.value == pytest.approx(exact("cat", "dog", value), rel=1e-6)


@many
@given(st.one_of(ANYTHING, st.lists(st.integers(0, 9), min_size=1, max_size=4)))
def test_any_draws(value: Any) -> None:
    numbers = value if isinstance(value, list) else None
    try:
        found = cj.distance(PROCESS, "cat", "dog", **HOW | {"draws": value})
    except (TypeError, ValueError) as error:
        assert "draws" in str(error) and not is_whole(value, 1)
        assert not numbers or min(numbers) < 0 or len({*numbers}) < len(numbers)
    else:
        assert len(found.by_draw) == (len(numbers) if numbers else value)
        assert found.value == pytest.approx(exact("cat", "dog"), rel=1e-6)


@many
@given(st.lists(st.floats(width=32), min_size=1, max_size=8), st.booleans())
def test_numbers_come_back_or_are_refused(values: list[float], single: bool) -> None:
    given_ = np.array(values, np.float32 if single else np.float64)
    try:
        found = as_numbers("these", given_)
    except ValueError as error:
        assert str(error).startswith("these is not finite at [") and not np.isfinite(given_).all()
    else:
        np.testing.assert_array_equal(found, given_)
        assert np.isfinite(found).all() and found.dtype == given_.dtype


@many
@given(st.integers(0, 2**31), st.integers(3, 30), st.integers(-300, 300), st.booleans())
def test_correlations_of_any_size_of_number(seed: int, n: int, power: int, ties: bool) -> None:
    """Against SciPy's, for values near the ends of float64 too; an interval from ten pairs on."""
    x, y = np.random.default_rng(seed).standard_normal((2, n))
    y = np.round(y) if ties else y
    assume(np.ptp(y) > 0)
    truth = {spearman: stats.spearmanr(x, y).statistic, pearson: stats.pearsonr(x, y).statistic}
    for measure, expected in truth.items():
        found = measure(x * 10.0**power, y, resamples=20)
        assert found.value == pytest.approx(expected, abs=1e-9)
        assert np.isfinite(found.low) == np.isfinite(found.high) == (n >= 10)


# -- pairs -----------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "tuples": lambda t: list(t.itertuples(index=False, name=None)),
    "lists": lambda t: t.to_numpy().tolist(),
    "generator": lambda t: (row for row in t.to_numpy()),
    "array": lambda t: t.to_numpy().astype(str),
    "table": lambda t: t,
    "shuffled columns": lambda t: t.assign(score=1.0, id=range(len(t)))[
        ["score", "text2", "id", "text1"]
    ],
    "named tuples": lambda t: t.itertuples(),
    "records": lambda t: t.assign(score=0.5).to_dict("records"),
    "columns": lambda t: t.to_dict("list"),
    "sentences": lambda t: t.set_axis(["sentence1", "sentence2"], axis=1),
    "without names": lambda t: t.set_axis([0, 1], axis=1),
}


@few
@given(PAIRS, st.sampled_from(sorted(SHAPES)), st.integers(1, 9))
def test_pairs_in_any_shape_and_batch(
    pairs: list[tuple[str, str]], shape: str, batch_size: int
) -> None:
    rows = SHAPES[shape](pd.DataFrame(pairs, columns=["text1", "text2"]))
    found = cj.distances(PROCESS, rows, batch_size=batch_size, **HOW)
    np.testing.assert_allclose([e.value for e in found], [exact(*p) for p in pairs], rtol=1e-6)


ROWS = st.one_of(ANYTHING, st.lists(ANYTHING, max_size=3), st.tuples(WORDS, WORDS), st.sets(WORDS))
TABLES = st.dictionaries(
    st.sampled_from(["text1", "text2", "word1", "word2", "id", "a"]),
    st.one_of(ANYTHING, st.lists(WORDS, min_size=1, max_size=2)),
    max_size=4,
)


@many
@given(st.one_of(ANYTHING, st.lists(ROWS, max_size=3), TABLES, st.sets(st.tuples(WORDS, WORDS))))
def test_pairs_of_anything(rows: Any) -> None:
    """What comes back are pairs that stand in the input; all else is refused with words."""
    try:
        found = as_pairs(rows)
    except (TypeError, ValueError) as error:
        assert len(str(error).split()) > 3
        return
    assert all(len(p) == 2 and not any(map(unusable, p)) for p in found)
    if isinstance(rows, dict):
        named = [(f"{n}1", f"{n}2") for n in ("text", "word") if {f"{n}1", f"{n}2"} <= set(rows)]
        assert len(named) == 1
        rows = list(zip(*(rows[name] for name in named[0]), strict=True))
    assert isinstance(rows, list) and found == [tuple(row) for row in rows]


# -- spaces ----------------------------------------------------------------------------------


@few
@given(st.integers(0, 99), st.integers(-18, 18), st.sampled_from(["matrix", "torch"]))
def test_neighbours_do_not_depend_on_the_unit(seed: int, power: int, search: Any) -> None:
    x = np.random.default_rng(seed).standard_normal((12, 3))
    unit = 2.0 ** (power * 50) if search == "matrix" else np.float32(2.0 ** (power * 6))
    first, second = neighbors(x, 4, search="matrix"), neighbors(x * unit, 4, search=search)
    np.testing.assert_array_equal(np.sort(first), np.sort(second))


@few
@given(st.integers(0, 99), st.sampled_from(["similarity", "negative", "masked", "nan", "complex"]))
def test_what_is_no_space_is_refused(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((8, 3))
    apart = np.linalg.norm(x[:, None] - x, axis=2)
    given_ = {
        "similarity": np.exp(-apart),
        "negative": apart - 2 * apart.max() * (apart == apart.max()),
        "masked": np.ma.masked_less(apart, np.median(apart)),
        "nan": np.where(apart == apart.max(), np.nan, apart),
        "complex": apart + 1j,
    }[kind]
    with pytest.raises(ValueError, match=r"^Y (must|holds|has|is) "):
        nngs(apart, given_, 3, metric="precomputed")
    assert nngs(apart, apart, 3, metric="precomputed", permutations=9).value == 1


# -- the command line ------------------------------------------------------------------------

VALUES = st.one_of(st.integers(-2, 30).map(str), st.floats().map(str), TEXTS)
OPTIONS = st.dictionaries(
    st.sampled_from(["--steps", "--draws", "--seed", "--guidance"]), VALUES, max_size=3
)


@many
@given(st.text(max_size=6), st.text(max_size=6), OPTIONS)
def test_any_arguments(
    capsys: pytest.CaptureFixture[str], first: str, second: str, options: dict[str, str]
) -> None:
    """Code 0 with JSON that holds the exact number, or code 2 with the reason; no traceback."""
    arguments = [f"{name}={value}" for name, value in options.items()]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(cli, "_load", lambda *_, **__: PROCESS)
        try:
            line = [
                "compare",
                "--json",
                "--weighting=noise",
                "--quadrature=sum",
                *arguments,
                "--",
                first,
                second,
            ]
            code = cli.main(line)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
    out, err = capsys.readouterr()
    if code == 0:
        record = json.loads(out, parse_constant=pytest.fail)
        guidance = float(options.get("--guidance", 1))
        assert record["distance"] == pytest.approx(exact(first, second, guidance), rel=1e-6)
        assert not unusable(first) and not unusable(second)
    else:
        assert code == 2 and out == "" and err.strip() and "Traceback" not in err


@many
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_stays_json(record: Any) -> None:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        return b is None if isinstance(a, float) and not math.isfinite(a) else a == b

    assert same(record, json.loads(cli._json(record), parse_constant=pytest.fail))
