"""What Python, numpy and notebooks expect of an object: equality, order, formats, pictures."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import conjure_lib as cj

WORDS = ["cat", "dog", "pizza"]
FEW: dict[str, Any] = {"steps": 2, "draws": 2}


@pytest.fixture(scope="module")
def estimates(process: cj.GenerativeProcess) -> list[cj.Estimate]:
    return cj.distances(process, [("cat", "dog"), ("cat", "pizza"), ("cat", "cat")], **FEW)


@pytest.fixture(scope="module")
def matrix(process: cj.GenerativeProcess) -> cj.DistanceMatrix:
    return cj.distance_matrix(process, WORDS, **FEW)


def test_estimates_are_equal_where_all_of_them_is(estimates: list[cj.Estimate]) -> None:
    first, second, zero = estimates
    assert first == copy.deepcopy(first) == pickle.loads(pickle.dumps(first))
    assert first != second and first in estimates
    assert first != replace(first, stderr=0.5) and first != replace(first, by_draw=second.by_draw)
    assert first != replace(first, by_draw=first.by_draw[:1]) and first != replace(first, floor=1.0)
    assert replace(first, floor=1.0) != first
    alone = replace(first, stderr=np.nan)
    assert alone == replace(alone) and first != first.value and first is not None
    assert (zero == first.value) is False


def test_an_estimate_is_a_number_by_its_value(estimates: list[cj.Estimate]) -> None:
    first, second, zero = estimates
    assert [float(e) for e in estimates] == [e.value for e in estimates]
    assert sorted(estimates) == sorted(estimates, key=lambda e: e.value)
    assert min(estimates) is zero and zero < first and first > zero
    assert first <= first and first >= first and not first < first and not first > first
    assert zero < 1 and first > 1.0 and zero <= 0 and first >= np.float32(0) and 1 < first
    assert (first < second) != (first > second)
    with pytest.raises(TypeError, match="not supported"):
        assert first < "1"  # type: ignore[operator]
    np.testing.assert_array_equal(np.array(estimates, float), [e.value for e in estimates])


def test_formats_of_an_estimate(estimates: list[cj.Estimate]) -> None:
    first = estimates[0]
    assert f"{first}" == str(first) and "(draws)" in f"{first}"
    for spec in (".1f", "8.2e", ">12.3g", "g"):
        assert format(first, spec) == format(first.value, spec)
    with pytest.raises(ValueError, match="format"):
        format(first, "d")


def test_a_notebook_shows_an_estimate_and_what_is_lost(process: cj.GenerativeProcess) -> None:
    with pytest.warns(match="are cut"):
        lossy = cj.distance(process, "a <b>cat</b>" + 99 * " and a cat", "dog", **FEW)
    shown = lossy._repr_html_()
    assert f"{lossy.value:.4g}" in shown and "are cut" in shown
    assert "&lt;b&gt;" in shown and "<b>" not in shown  # a text is no markup


def test_equality_of_the_others_that_hold_arrays(
    process: cj.GenerativeProcess, matrix: cj.DistanceMatrix
) -> None:
    terms = cj.pair_terms(process, [("cat", "dog"), ("cat", "pizza")], **FEW)
    trace = cj.trace(process, "cat", "dog", steps=2)
    for one in (terms, trace, matrix, process.schedule):
        assert one == copy.deepcopy(one) and one != 1 and one is not None
    assert terms != terms[:1] and terms != terms[[1, 0]] and terms != terms.at([0])
    assert trace != replace(trace, prompts=("a", "b"))
    assert matrix != replace(matrix, value=matrix.value + 1)
    assert matrix != replace(matrix, prompts=WORDS[::-1])


def test_a_matrix_is_an_array(matrix: cj.DistanceMatrix) -> None:
    np.testing.assert_array_equal(np.asarray(matrix), matrix.value)
    assert np.asarray(matrix, np.float32).dtype == np.float32
    assert np.array(matrix, copy=True) is not matrix.value and len(matrix) == 3
    np.testing.assert_array_equal(np.sqrt(matrix), np.sqrt(matrix.value))


def test_a_matrix_is_asked_by_number_and_by_text(matrix: cj.DistanceMatrix) -> None:
    value = matrix.value
    assert matrix["cat", "pizza"] == matrix[0, 2] == matrix["cat", 2] == value[0, 2]
    assert matrix["pizza", "cat"] == value[2, 0] and matrix["dog", "dog"] == 0
    np.testing.assert_array_equal(matrix["dog"], value[1])
    np.testing.assert_array_equal(matrix[-1], value[2])
    np.testing.assert_array_equal(matrix[:2, 1:], value[:2, 1:])
    np.testing.assert_array_equal(matrix[["pizza", "cat"]], value[[2, 0]])
    np.testing.assert_array_equal(matrix[:, "dog"], value[:, 1])
    np.testing.assert_array_equal(matrix[value > 0], value[value > 0])
    with pytest.raises(KeyError, match="'bird' is none of the prompts: cat, dog, pizza"):
        matrix["cat", "bird"]
    with pytest.raises(IndexError, match="out of bounds"):
        matrix[3]


def test_a_matrix_as_a_frame(matrix: cj.DistanceMatrix) -> None:
    frame = matrix.to_frame()
    assert isinstance(frame, pd.DataFrame) and list(frame.index) == list(frame.columns) == WORDS
    assert frame.loc["cat", "pizza"] == matrix["cat", "pizza"]


def test_a_matrix_draws_itself_and_a_notebook_shows_it(
    matrix: cj.DistanceMatrix, process: cj.GenerativeProcess
) -> None:
    figure = matrix.plot("nats")
    assert isinstance(figure, Figure)
    names = {t.get_text() for axis in figure.axes for t in axis.get_xticklabels()}
    assert set(WORDS) <= names
    assert "nats" in {axis.get_ylabel() for axis in figure.axes}
    shown = matrix._repr_html_()
    assert 'src="data:image/png;base64,iVBOR' in shown and "in clusters" in shown
    assert f"{matrix['cat', 'pizza']:.4g}" in shown
    two = cj.distance_matrix(process, ["cat", 'a "quoted" <cat>'], **FEW)
    assert "<cat>" not in two._repr_html_() and "<img" in two._repr_html_()


def test_many_prompts_are_shown_as_numbers(matrix: cj.DistanceMatrix) -> None:
    many = [str(i) for i in range(80)]
    value = np.ones((80, 80)) - np.eye(80)
    large = cj.DistanceMatrix(many, value, value, value, value > 2, [])
    assert "<img" not in large._repr_html_() and "<table" in large._repr_html_()


def test_the_repr_of_a_process_is_one_short_line(process: cj.GenerativeProcess) -> None:
    shown = repr(process)
    assert len(shown) < 100 and "\n" not in shown
    for told in (process.name, process.dtype, "cpu", "×".join(map(str, process.latent_shape))):
        assert told in shown
