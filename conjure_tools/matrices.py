"""Distances of all pairs of some prompts, as a matrix that can be asked and shown."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np

from conjure_lib import Quadrature, Weighting
from conjure_lib.inputs import as_prompts
from conjure_lib.process import GenerativeProcess
from conjure_lib.reading import Reading, firsts, quoted, read
from conjure_lib.sampling import OPTIONS, Settings, check_known
from conjure_lib.sde import Compared
from conjure_lib.similarity import distances

SHOWN = 60  # prompts of a matrix that a notebook draws


@dataclass(frozen=True, eq=False)
class DistanceMatrix(Compared):
    """Distances of n prompts: ``value`` and its two errors, of the draws (``stderr``) and of the
    steps (``quadrature_error``), each (n, n), symmetric with zero diagonals.

    ``same_tokens`` (n, n) holds where two prompts differ and the model cannot tell them apart, and
    ``readings`` what it reads of each prompt. As an array it is its ``value``; its parts can be
    asked for by number and by prompt, as ``matrix["cat", "dog"]`` or ``matrix["cat"]``.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> matrix = cj.distance_matrix(process, ["cat", "dog", "car"], steps=2, draws=1)
    >>> bool(matrix["cat", "dog"] == matrix[1, 0])
    True
    >>> list(matrix.to_frame().columns)
    ['cat', 'dog', 'car']
    """

    prompts: list[str]
    value: np.ndarray
    stderr: np.ndarray
    quadrature_error: np.ndarray
    same_tokens: np.ndarray
    readings: list[Reading] = field(repr=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, at: Any) -> Any:
        """A distance, a row or a part of ``value``, by numpy's own indexes or by prompts.

        Raises:
            KeyError: there is no such prompt.
        """
        return self.value[tuple(map(self._place, at)) if isinstance(at, tuple) else self._place(at)]

    def _place(self, at: Any) -> Any:
        """Prompts, one or a list of them, by their numbers; anything else as it is."""
        if isinstance(at, list):
            return [self._place(one) for one in at]
        if not isinstance(at, str):
            return at
        if at not in self.prompts:
            raise KeyError(f"{quoted(at)} is none of the prompts: {firsts(self.prompts)}")
        return self.prompts.index(at)

    def to_frame(self) -> Any:
        """``value`` as a DataFrame of pandas, whose rows and columns are the prompts."""
        from pandas import DataFrame

        return DataFrame(self.value, self.prompts, self.prompts)

    def plot(self, label: str = "distance (nats)") -> Any:
        """The matrix in clusters with its dendrogram, a figure of matplotlib."""
        from conjure_tools.plots import clustered

        return clustered(self.value, self.prompts, label)

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture of clusters and the numbers; of many, these alone."""
        most: Any = {"max_rows": SHOWN, "max_cols": SHOWN}
        table = self.to_frame().to_html(float_format="{:.4g}".format, **most)
        if not 1 < len(self) <= SHOWN:
            return str(table)
        import matplotlib.pyplot as plt

        figure, file = self.plot(), io.BytesIO()
        figure.savefig(file, dpi=96, bbox_inches="tight")
        plt.close(figure)  # or the notebook shows it once more
        told = html.escape(f"Distances of {', '.join(self.prompts)}, in clusters")
        picture = base64.b64encode(file.getvalue()).decode()
        return (
            f'<img src="data:image/png;base64,{picture}" alt="{told}">'
            f"<details><summary>numbers</summary>{table}</details>"
        )


def distance_matrix(
    process: GenerativeProcess,
    prompts: Any,
    *,
    weighting: Weighting = "sde",
    quadrature: Quadrature = "log-snr",
    **settings: Unpack[Settings],
) -> DistanceMatrix:
    """All pairwise distances of ``prompts``; the rest is as of :func:`distances`.

    Raises:
        TypeError, ValueError: as :func:`distances`; fewer than two prompts.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> matrix = cj.distance_matrix(process, ["cat", "dog", "car"], steps=2, draws=1)
    >>> matrix.value.shape
    (3, 3)
    """
    check_known(settings, OPTIONS)
    prompts = as_prompts(prompts)
    if len(prompts) < 2:
        raise ValueError(
            f"a matrix of distances needs 2 prompts or more, not only {quoted(prompts[0])}"
        )
    rows, columns = np.triu_indices(len(prompts), 1)
    pairs = [(prompts[i], prompts[j]) for i, j in zip(rows, columns, strict=True)]
    estimates = distances(process, pairs, weighting=weighting, quadrature=quadrature, **settings)
    three = np.zeros((3, len(prompts), len(prompts)))
    each = [(e.value, e.stderr, e.quadrature_error) for e in estimates]
    three[:, rows, columns] = np.transpose(each)
    three += three.transpose(0, 2, 1)
    alike = np.zeros((len(prompts), len(prompts)), bool)
    alike[rows, columns] = alike[columns, rows] = [e.same_tokens for e in estimates]
    value, stderr, off = three
    return DistanceMatrix(prompts, value, stderr, off, alike, read(process.readers, prompts))
