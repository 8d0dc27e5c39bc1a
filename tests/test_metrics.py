"""The distance inside torchmetrics and evaluate."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import conjure_lib as cj
from conjure_tools import metrics

SAID, MEANT = ["cat", "pizza", "sun"], ["dog", "tree", "sun"]
FEW: dict[str, Any] = {"steps": 2, "draws": 1}


@pytest.fixture(scope="module")
def expected(process: cj.GenerativeProcess) -> list[float]:
    pairs = list(zip(SAID, MEANT, strict=True))
    return [e.value for e in cj.distances(process, pairs, **FEW)]


def test_torchmetrics(process: cj.GenerativeProcess, expected: list[float]) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = metrics.TorchDistance(process, **FEW)
    assert isinstance(metric, torchmetrics.Metric)
    metric.update(SAID[:2], MEANT[:2])
    metric.update(SAID[2], MEANT[2])  # single texts
    assert metric.compute().item() == pytest.approx(np.mean(expected), rel=1e-5)
    metric.reset()
    assert metric(SAID[:1], MEANT[:1]).item() == pytest.approx(expected[0], rel=1e-5)  # of a batch
    assert metric(SAID[1:], MEANT[1:]).item() == pytest.approx(np.mean(expected[1:]), rel=1e-5)
    assert metric.compute().item() == pytest.approx(np.mean(expected), rel=1e-5)  # of all
    both = torchmetrics.MetricCollection({"conjured": metrics.TorchDistance(process, **FEW)})
    found = both(preds=SAID, target=MEANT)
    assert found["conjured"].item() == pytest.approx(np.mean(expected), rel=1e-5)
    with pytest.raises(ValueError, match="2 predictions do not fit 1 references"):
        metric.update(SAID[:2], MEANT[:1])


def test_a_copy_of_a_metric_counts_by_itself() -> None:
    pytest.importorskip("torchmetrics")
    metric = metrics.TorchDistance(cj.Scorer(cj.load(device="cpu"), **FEW))
    other = copy.deepcopy(metric)
    other.update("cat", "dog")
    assert float(other.count) == 1 and float(metric.count) == 0
    assert other.compute() > 0


def test_evaluate(process: cj.GenerativeProcess, expected: list[float]) -> None:
    evaluate = pytest.importorskip("evaluate")
    metric = metrics.EvaluateDistance(process, **FEW)
    assert isinstance(metric, evaluate.EvaluationModule)
    found = metric.compute(predictions=SAID, references=MEANT)
    np.testing.assert_allclose(found["distances"], expected, rtol=1e-5)
    assert found["distance"] == pytest.approx(np.mean(expected), rel=1e-5)
    metric.add(prediction=SAID[0], reference=MEANT[0])
    metric.add_batch(predictions=SAID[1:], references=MEANT[1:])
    np.testing.assert_allclose(metric.compute()["distances"], expected, rtol=1e-5)
    combined = evaluate.combine([metric]).compute(predictions=SAID, references=MEANT)
    assert combined["distance"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_evaluate_reads_no_text_letter_by_letter(process: cj.GenerativeProcess) -> None:
    pytest.importorskip("evaluate")
    metric = metrics.EvaluateDistance(process, **FEW)
    for call in (metric.compute, metric.add_batch):
        with pytest.raises(TypeError, match="list of predictions, not the single string 'cat'"):
            call(predictions="cat", references="dog")
    metric.add(predictions="cat", references="dog")
    assert len(metric.compute()["distances"]) == 1


def test_settings_are_a_scorers_once(process: cj.GenerativeProcess) -> None:
    pytest.importorskip("torchmetrics")
    with pytest.raises(TypeError, match="a Scorer has its settings already: leave out steps"):
        metrics.TorchDistance(cj.Scorer(process), steps=3)
    with pytest.raises(TypeError, match="process must be a loaded model"):
        metrics.TorchDistance("emoji-diffusion")


@pytest.mark.parametrize(
    ("name", "library"), [("TorchDistance", "torchmetrics"), ("EvaluateDistance", "evaluate")]
)
def test_a_library_that_is_missing_is_named(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(vars(metrics), name, raising=False)
    monkeypatch.delitem(sys.modules, library, raising=False)
    monkeypatch.setitem(sys.modules, library, None)  # what an import then fails at
    with pytest.raises(ImportError, match=f"one of {library}: pip install {library}"):
        getattr(metrics, name)
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        metrics.Other  # noqa: B018


def test_neither_library_comes_with_the_module() -> None:
    ask = "import sys, conjure_tools.metrics; print({'torchmetrics', 'evaluate'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
