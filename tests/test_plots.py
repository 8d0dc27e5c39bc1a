"""The figures: what they are drawn from is what the estimates are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import conjure_lib as cj
from conjure_tools import plots
from studies import where_and_when

PAIR = ("red heart", "blue heart")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """No figure outlives its test."""
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def traces(process: cj.GenerativeProcess) -> list[cj.Trace]:
    """Two draws of one pair, with guidance."""
    return [cj.trace(process, *PAIR, steps=3, guidance=2.0, draw=draw) for draw in (0, 1)]


def made_up(process: cj.GenerativeProcess, states: torch.Tensor, eps: torch.Tensor) -> cj.Trace:
    """A trace of two steps whose numbers are known."""
    sampling = cj.Sampling(steps=2, draws=[0])
    return cj.Trace(("a", "b"), torch.tensor([501, 1]), states, eps, process.schedule, sampling)


# -- what is drawn -------------------------------------------------------------------------


def test_maps_add_up_to_the_terms(traces: list[cj.Trace]) -> None:
    maps = plots.difference_maps(traces[0])
    assert maps.shape == (2, 3, 8, 8)
    np.testing.assert_allclose(maps.sum((2, 3)).T[None], traces[0].terms().squares[0], rtol=1e-6)


def test_a_prompt_and_itself_differ_nowhere(process: cj.GenerativeProcess) -> None:
    same = cj.trace(process, "tree", "tree", steps=2)
    assert where_and_when.view_maps(process, same).max() < 1e-6
    assert where_and_when.apartness(same).max() < 1e-9


def test_views_differ_where_their_pixels_do(
    process: cj.GenerativeProcess, traces: list[cj.Trace]
) -> None:
    trace = traces[0]
    found = where_and_when.view_maps(process, trace)
    assert found.shape == (2, 3, 64, 64)
    x, t = trace.states[1, 2:], trace.timesteps[2:]
    assert process.decode is not None
    first, second = (
        process.decode(process.clean(x, t, trace.eps[1, j, 2:]))[0].astype(float) for j in (0, 1)
    )
    np.testing.assert_allclose(found[1, 2], ((first - second) ** 2).mean(-1), atol=1e-6)
    assert found.min() >= 0
    assert 0.01 < found.max() <= 1  # red against blue


def test_apartness_of_known_states(process: cj.GenerativeProcess) -> None:
    one, other = torch.eye(4).reshape(4, 1, 2, 2)[:2]
    states = torch.stack([torch.stack([one, one]), torch.stack([one, other])])  # (2, S, 1, 2, 2)
    trace = made_up(process, states, torch.zeros(2, 2, *states.shape[1:]))
    np.testing.assert_allclose(where_and_when.apartness(trace), [0, 1])


@pytest.mark.parametrize("weighting", cj.WEIGHTINGS)
def test_the_share_that_is_added_follows_the_weights(
    process: cj.GenerativeProcess, weighting: cj.sde.Weighting
) -> None:
    eps = torch.zeros(2, 2, 2, 1, 2, 2)
    eps[0, 0, 0, 0, 0, 0] = 1  # ‖Δε‖² = 1 at t = 501 on the first trajectory alone
    eps[1, 0, 1, 0, 1, 1] = 2  # ‖Δε‖² = 4 at t = 1 on the second alone
    trace = made_up(process, torch.zeros(2, 2, 1, 2, 2), eps)
    early, late = process.schedule.weight(trace.timesteps, weighting).tolist()
    found = where_and_when.added(trace, weighting)
    np.testing.assert_allclose(found, [early / (early + 4 * late), 1])


# -- the figures ---------------------------------------------------------------------------


def test_where_figure_shows_the_maps(process: cj.GenerativeProcess, traces: list[cj.Trace]) -> None:
    figure = where_and_when.where_figure(process, traces, "noise")
    images = [axis.get_images()[0].get_array() for axis in figure.axes]
    assert len(images) == 2 * 5
    first = plots.difference_maps(traces[0])
    np.testing.assert_allclose(images[1], first[0].mean(0))  # noise: the mean over steps
    np.testing.assert_allclose(images[3], first[1].mean(0))
    np.testing.assert_allclose(images[4], where_and_when.view_maps(process, traces[0]).mean((0, 1)))
    assert "blue heart" in figure.axes[0].get_ylabel()
    red, blue = (np.asarray(images[i]) for i in (0, 2))  # each prompt at its own end
    assert red.mean((0, 1))[0] > red.mean((0, 1))[2]
    assert blue.mean((0, 1))[0] < blue.mean((0, 1))[2]


def test_when_figure_shows_the_shares(
    process: cj.GenerativeProcess, traces: list[cj.Trace]
) -> None:
    named = {"both draws": traces, "one draw": traces[:1]}
    figure = where_and_when.when_figure(named, dashed=["one draw"])
    assert len(figure.axes) == 1 + len(cj.WEIGHTINGS)
    for axis, weighting in zip(figure.axes[1:], cj.WEIGHTINGS, strict=True):
        both, one = axis.get_lines()[:2]
        shares = [where_and_when.added(trace, weighting) for trace in traces]
        np.testing.assert_allclose(both.get_ydata(), np.mean(shares, axis=0))
        np.testing.assert_allclose(one.get_ydata(), shares[0])
        assert (both.get_linestyle(), one.get_linestyle()) == ("-", "--")
        assert len(axis.collections) == 1  # the band: a single draw has none
        assert axis.xaxis_inverted()
    apart = [where_and_when.apartness(trace) for trace in traces]
    assert apart[0][0] < 1e-12 < apart[0][-1]
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_ydata(), np.mean(apart, axis=0))


@pytest.mark.parametrize("draw", [plots.pair_figure, where_and_when.view_maps])
def test_pictures_need_a_decoder(
    process: cj.GenerativeProcess, traces: list[cj.Trace], draw: object
) -> None:
    blind = replace(process, decode=None)
    with pytest.raises(ValueError, match="no decoder"):
        draw(blind, traces[0])  # type: ignore[operator]


def test_forest_has_a_row_for_each_label_and_leaves_gaps() -> None:
    frame = pd.DataFrame({"value": [1.0, np.nan], "low": [0.5, np.nan], "high": [2.0, np.nan]})
    other = pd.DataFrame({"low": [2.0, 3.0], "value": [3.0, 3.5], "high": [4.0, 5.0], "n": [7, 8]})
    axis = plt.figure().subplots()
    plots.forest(axis, {"a": frame, "b": other}, ["first", "second"], zero=True)
    (a, _, (bars,)), (b, *_) = axis.containers
    np.testing.assert_allclose(bars.get_segments()[0], [[0.5, -0.1875], [2.0, -0.1875]])
    np.testing.assert_allclose(b.get_xydata(), [[3.0, 0.1875], [3.5, 1.1875]])
    assert np.isnan(a.get_xdata()[1])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["first", "second"]
    assert axis.yaxis_inverted()  # the first label is on top
    assert axis.get_legend_handles_labels()[1] == ["a", "b"]
    assert axis.get_lines()[-1].get_xdata() == [0, 0]


def test_forest_marks_zero_only_when_asked() -> None:
    frame = pd.DataFrame({"value": [1.0], "low": [0.5], "high": [2.0]})
    axis = plt.figure().subplots()
    plots.forest(axis, {"a": frame}, ["only"])
    assert all(list(line.get_xdata()) != [0, 0] for line in axis.get_lines())
