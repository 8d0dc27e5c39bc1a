"""The distance as a metric of torchmetrics and of evaluate, which are imported when asked for.

``TorchDistance`` and ``EvaluateDistance`` take a :class:`conjure_tools.scorer.Scorer`, or a process
and the settings of one: the mean distance of predicted texts from those that were meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from conjure_lib.inputs import as_prompts, listed
from conjure_lib.process import GenerativeProcess
from conjure_tools.scorer import Scorer, ScorerSettings

if TYPE_CHECKING:

    class _Distance:
        """What both are to a type checker; the rest is of the library's own metric."""

        def __init__(
            self, scorer: Scorer | GenerativeProcess, **settings: Unpack[ScorerSettings]
        ) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def __call__(self, *given: Any, **named: Any) -> Any: ...

    class TorchDistance(_Distance): ...

    class EvaluateDistance(_Distance): ...


__all__ = ["EvaluateDistance", "TorchDistance"]


def __getattr__(name: str) -> Any:
    """PEP 562: a class of ``__all__``, made when it is first asked for."""
    if name not in _MAKERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kind = _MAKERS[name]()
    kind.__module__, kind.__qualname__ = __name__, name  # where pickle finds it
    return globals().setdefault(name, kind)


def _distances(scorer: Scorer, predictions: Any, references: Any) -> np.ndarray:
    """The distance of each prediction from its reference, (n,)."""
    several = zip(("prediction", "reference"), (predictions, references), strict=True)
    told = [as_prompts([side] if isinstance(side, str) else side, name) for name, side in several]
    if len(told[0]) != len(told[1]):
        raise ValueError(f"{len(told[0])} predictions do not fit {len(told[1])} references")
    return -scorer.predict(list(zip(*told, strict=True)))


def _no_strings(sides: Mapping[str, Any]) -> None:
    """Refuse a single text, which evaluate would read letter by letter."""
    for name, side in sides.items():
        if isinstance(side, str | bytes):
            listed(side, name)


def _scorer(given: Any, settings: Any) -> Scorer:
    if not isinstance(given, Scorer):
        return Scorer(given, **settings)
    if settings:
        raise TypeError(f"a Scorer has its settings already: leave out {', '.join(settings)}")
    return given


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"this metric is one of {name}: pip install {name}") from error


def _torch() -> type:
    class TorchDistance(_library("torchmetrics").Metric):  # type: ignore[misc]
        """``update(preds, target)`` takes texts or lists of them; ``compute()`` is the mean so far.

        Sums are float64, and those of several machines are added. Before any update it is NaN.

        >>> import conjure_lib as cj
        >>> from conjure_tools.metrics import TorchDistance
        >>> metric = TorchDistance(cj.load(), steps=2, draws=1)
        >>> metric.update(["a cat", "a tree"], ["a dog", "a tree"])
        >>> bool(metric.compute() > 0)
        True
        """

        full_state_update = False
        is_differentiable = False
        higher_is_better = False

        def __init__(self, scorer: Any, **settings: Unpack[ScorerSettings]) -> None:
            super().__init__()
            self.scorer = _scorer(scorer, settings)
            for name in ("total", "count"):
                zero = torch.tensor(0.0, dtype=torch.float64)
                self.add_state(name, zero, dist_reduce_fx="sum")

        def update(self, preds: Any, target: Any) -> None:
            found = _distances(self.scorer, preds, target)
            self.total += found.sum()
            self.count += len(found)

        def compute(self) -> Any:
            return self.total / self.count

    return TorchDistance


def _evaluate() -> type:
    evaluate, datasets = _library("evaluate"), _library("datasets")

    class EvaluateDistance(evaluate.Metric):  # type: ignore[misc, name-defined]
        """``compute(predictions=…, references=…)`` is a dict of their mean ``distance`` and of all.

        ``add`` and ``add_batch`` are those of any metric of evaluate.

        >>> import conjure_lib as cj
        >>> from conjure_tools.metrics import EvaluateDistance
        >>> metric = EvaluateDistance(cj.load(), steps=2, draws=1)
        >>> found = metric.compute(predictions=["a cat", "a tree"], references=["a dog", "a tree"])
        >>> found["distance"] == sum(found["distances"]) / 2
        True
        """

        def __init__(self, scorer: Any, **settings: Unpack[ScorerSettings]) -> None:
            super().__init__(keep_in_memory=True)
            self.scorer = _scorer(scorer, settings)

        def _info(self) -> Any:
            text = datasets.Value("string")
            return evaluate.MetricInfo(
                description="Mean conjured distance of texts from those that were meant.",
                citation="",
                features=datasets.Features({"predictions": text, "references": text}),
            )

        def compute(self, **given: Any) -> Any:
            """As of any metric of evaluate, of lists of texts."""
            _no_strings(given)
            return super().compute(**given)

        def add_batch(self, **given: Any) -> None:
            """As of any metric of evaluate, of lists of texts."""
            _no_strings(given)
            super().add_batch(**given)

        def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
            found = _distances(self.scorer, predictions, references)
            return {"distance": float(found.mean()), "distances": found.tolist()}

    return EvaluateDistance


_MAKERS: dict[str, Callable[[], type]] = {"TorchDistance": _torch, "EvaluateDistance": _evaluate}
