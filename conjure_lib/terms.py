"""From squared differences of noise predictions to estimates, whichever way they are weighted.

With λ = log(α²/σ²) the divergence of two processes is J = ∫ E‖Δε‖² dλ, whatever the family
(Kingma et al. 2021; Guo, Shamai and Verdú 2005). Visited timesteps are the nodes of a quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from conjure_lib import QUADRATURES, WEIGHTINGS, Quadrature, Weighting
from conjure_lib.inputs import one_of
from conjure_lib.integrity import check_sound
from conjure_lib.reading import SAME, Reading, same
from conjure_lib.sampling import Sampling, check_rule
from conjure_lib.sde import Compared, FlowSchedule, Schedule, chain_weights, log_snr, term_weights

CELLS = 240  # of a window of log-SNR: a twentieth of a unit each
UNEVEN = 1.0  # logarithms by which a curve may leave the range of its two neighbouring nodes
ROWS = 4096  # pairs that are integrated at a time
BUDGET = 20_000  # noise predictions that a pair may take where it has a tolerance


@dataclass(frozen=True)
class Spent:
    """What a tolerance took: noise predictions of the pair by itself, and whether it was met."""

    evaluations: int
    met: bool

    def __str__(self) -> str:
        return f"{self.evaluations:,} predictions, tolerance {'' if self.met else 'not '}met"


@dataclass(frozen=True, eq=False)
class Estimate(Compared):
    """A Monte Carlo estimate with its two errors: of the draws, and of the quadrature.

    As a number it is its ``value``: in float(), in an order, and under a format such as ``:.1f``.
    Two are equal where all of their parts are.

    Attributes:
        value: the mean over draws. For weighting "sde" the Jeffreys divergence J in nats of the two
            path measures, the processes stopped at the end of the window of log-SNR (a trained
            network's ‖Δε‖² does not vanish there, so that beyond any window J is infinite); for
            "score" and "noise" the mean over the window's time of the weighted E‖Δε‖², which has no
            unit.
        stderr: standard error over draws; NaN for a single draw.
        by_draw: (draws,), the value of each draw, under the weights that all draws give together.
        by_step: (steps,), what each visited timestep adds to ``value`` (they sum to it).
        timesteps: (steps,), DDPM timesteps, noisiest first.
        quadrature_error: an estimate, on the safe side, of what few steps cost: how far the rule
            on every second timestep is from ``value``, how far straight lines between all of them
            are, and all that lies beyond the last of them; NaN of a single step. That few steps
            also take another path than many is not in it: only more steps show that.
        floor: what rounding alone makes of a distance, measured where ``value`` is not far above
            it: a distance near its floor is not told from 0. None where it is far above.
        readings: what the model reads of either text, where it was asked.
        spent: what it took, where a tolerance was given.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> d = cj.distance(process, "cat", "dog", steps=2, draws=2)
    >>> f"{d:.3f}" == f"{d.value:.3f}"
    True
    >>> bool(abs(d.by_step.sum() - d.value) < 1e-6 * d.value)
    True
    """

    value: float
    stderr: float
    by_draw: np.ndarray = field(repr=False)
    by_step: np.ndarray = field(repr=False)
    timesteps: np.ndarray = field(repr=False)
    quadrature_error: float = math.nan
    floor: float | None = None
    readings: tuple[Reading, ...] = field(default=(), repr=False)
    spent: Spent | None = None

    @property
    def same_tokens(self) -> bool:
        """Whether the two texts differ and the model cannot tell; zero says nothing of them."""
        return len(self.readings) == 2 and same(*self.readings)

    def __str__(self) -> str:
        if self.same_tokens:  # a zero that says nothing of the texts
            return f"not told apart: the texts differ, and {SAME}"
        error = f" ± {self.stderr:.2g} (draws) ± {self.quadrature_error:.2g} (steps)"
        return f"{self.value:.4g}{error}{f'; {self.spent}' if self.spent else ''}"

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __lt__(self, other: Estimate | float) -> bool:
        return self.value < _number(other)

    def __le__(self, other: Estimate | float) -> bool:
        return self.value <= _number(other)

    def __gt__(self, other: Estimate | float) -> bool:
        return self.value > _number(other)

    def __ge__(self, other: Estimate | float) -> bool:
        return self.value >= _number(other)

    def _repr_html_(self) -> str:
        """What a notebook shows: the estimate in one line, and what its texts lose."""
        lost = [f"{one.text}: {what}" for one in self.readings for what in one.lost]
        return "<br>".join(f"<span>{escape(line)}</span>" for line in (str(self), *lost))


def _number(other: Estimate | float) -> float:
    return other.value if isinstance(other, Estimate) else other


@dataclass(frozen=True, eq=False)
class Terms(Compared):
    """‖Δε‖² of P pairs before any weighting: the raw material of every estimate.

    Attributes:
        squares: (P, draws, S, 2), w² ‖Δε‖² at the trajectory of the first and of the second prompt
            of each pair.
        timesteps: (S,), the visited timesteps.
        schedule: what they mean.
        sampling: what was drawn.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> terms = cj.pair_terms(process, [("cat", "dog")], steps=3, draws=2)
    >>> [len(terms.estimates(weighting)) for weighting in cj.WEIGHTINGS]
    [1, 1, 1]
    """

    squares: np.ndarray = field(repr=False)
    timesteps: Tensor
    schedule: Schedule | FlowSchedule = field(repr=False)
    sampling: Sampling = field(default_factory=Sampling)

    def __len__(self) -> int:
        return len(self.squares)

    def __getitem__(self, pairs: slice | Sequence[int] | np.ndarray) -> Terms:
        """The terms of some of the pairs."""
        return replace(self, squares=self.squares[pairs])

    def at(self, steps: slice | Sequence[int]) -> Terms:
        """The terms of some of the steps, which are then all that an estimate knows."""
        return replace(self, squares=self.squares[:, :, steps], timesteps=self.timesteps[steps])

    @property
    def mixed(self) -> np.ndarray:
        """E‖Δε‖² over the mixture of the two laws, the mean of the halves, (P, draws, S)."""
        return self.squares.mean(axis=3, dtype=np.float64)

    def weights(
        self, weighting: Weighting = "sde", quadrature: Quadrature = "log-snr"
    ) -> np.ndarray:
        """What the mean over draws of each term counts in the estimate of its pair, (P, S).

        "log-snr": log ‖Δv‖², with Δv = Δε/α the difference in velocity, runs through the visited
        log-SNRs as a natural cubic spline, and is integrated over the window; beyond the first and
        the last of them it stays what it is there. This rule F is homogeneous of degree one in the
        terms D, so that with w = ∂F/∂D it is Σ w D exactly (Euler), which gives every step and
        every draw its part. "linear": ‖Δv‖² is linear in the angle arctan(σ/α) in between, so that
        the weights are the same for all terms; it also takes the place of a spline that swings out
        between two of them, or that meets a 0. "sum": the plain sum of the paper, in which each
        timestep stands for its share of the time. "chain": the divergence, exact, of the S-step
        chain that the sampler "ancestral" runs, and not of the SDEs.

        Raises:
            ValueError: there is no such weighting or quadrature.
        """
        one_of("weighting", weighting, WEIGHTINGS)
        one_of("quadrature", quadrature, QUADRATURES)
        means = self.mixed.mean(axis=1)
        check_rule(weighting, quadrature, self.sampling)
        if quadrature in ("sum", "chain"):
            each = term_weights(self.schedule, self.timesteps, weighting)
            if quadrature == "chain" and isinstance(self.schedule, Schedule):
                each = chain_weights(self.schedule, self.timesteps)
            return np.broadcast_to(each.numpy(), means.shape)
        rule, order = self.rule(weighting)
        found = np.zeros(means.shape)
        for first in range(0, len(means), ROWS):
            some = slice(first, first + ROWS)
            own = rule.fixed if quadrature == "linear" else rule.weights(means[some, order])
            found[some, order] = own
        return found

    def rule(self, weighting: Weighting) -> tuple[Rule, np.ndarray]:
        """The quadrature in log-SNR, and the positions of its nodes among the timesteps."""
        nodes = log_snr(self.schedule, self.timesteps).numpy()
        order = np.argsort(nodes)
        order = order[np.isfinite(nodes[order])]  # at the noisy end of a flow Δε is 0 for all
        return Rule.of(nodes[order], self.schedule, self.sampling.log_snr, weighting), order

    def parts(self, weighting: Weighting = "sde", quadrature: Quadrature = "log-snr") -> np.ndarray:
        """What each half of each draw adds at each step, (P, draws, S, 2): steps and halves of a
        draw sum to :meth:`by_draw`."""
        weights = self.weights(weighting, quadrature)[:, None, :, None]
        return self.squares.astype(np.float64) * weights / 2

    def by_draw(
        self, weighting: Weighting = "sde", quadrature: Quadrature = "log-snr"
    ) -> np.ndarray:
        """The value of each pair in each draw, (P, draws), under the weights of all draws."""
        return _valued(self.mixed, self.weights(weighting, quadrature))

    def estimates(
        self, weighting: Weighting = "sde", quadrature: Quadrature = "log-snr"
    ) -> list[Estimate]:
        """One estimate a pair.

        Raises:
            ValueError: as :meth:`weights`; a term is not finite, with its timestep.
        """
        mixed = self.mixed
        check_sound(np.isfinite(mixed).all(axis=1), self.timesteps.tolist())
        weights = self.weights(weighting, quadrature)
        by_step, by_draw = weights * mixed.mean(axis=1), _valued(mixed, weights)
        values, times, draws = by_draw.mean(axis=1), self.timesteps.cpu().numpy(), by_draw.shape[1]
        errors = by_draw.std(axis=1, ddof=1) / math.sqrt(draws) if draws > 1 else values * math.nan
        cost = self._steps_cost(values, weighting, quadrature)
        rows = zip(values, errors, by_draw, by_step, cost, strict=True)
        return [Estimate(float(v), float(e), d, s, times, float(q)) for v, e, d, s, q in rows]

    def _steps_cost(
        self, values: np.ndarray, weighting: Weighting, quadrature: Quadrature
    ) -> np.ndarray:
        """The quadrature error of each of the ``values`` (P,): NaN of a single step."""
        count = len(self.timesteps)
        nodes = int(log_snr(self.schedule, self.timesteps).isfinite().sum())  # not a flow's first
        if quadrature == "chain" or nodes == 1:
            return np.full(len(self), 0.0 if quadrature == "chain" else math.nan)
        every_second = self.at(slice(1 - count % 2, None, 2))  # the cleanest is kept
        coarse = every_second.by_draw(weighting, quadrature).mean(axis=1)
        if quadrature == "sum":
            return np.abs(values - coarse)
        rule, order = self.rule(weighting)
        other = self.by_draw(weighting, "log-snr" if quadrature == "linear" else "linear")
        beyond = rule.beyond * self.mixed[:, :, order[-1]].mean(axis=1)
        return np.abs(values - coarse) + np.abs(values - other.mean(axis=1)) + beyond


def _valued(mixed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Terms (P, draws, S) under weights (P, S): (P, draws)."""
    return np.einsum("pks,ps->pk", mixed, weights)


@dataclass(frozen=True)
class Rule:
    """Product integration over S visited log-SNRs, rising, on G cells of the window.

    Attributes:
        alpha: (S,), α² at the nodes.
        cells: (G,), what ‖Δv‖² counts in each cell: α² times its size under the weighting.
        curve: (G, S), the natural cubic spline, from values at the nodes to those in the cells.
        fixed: (S,), the weights of terms D where ‖Δv‖² is linear in the angle arctan(σ/α).
        left: (G,), the node to the left of each cell, the last but one at the most.
        beyond: what a term at the cleanest node counts for all that lies beyond it.
    """

    alpha: np.ndarray
    cells: np.ndarray
    curve: np.ndarray
    fixed: np.ndarray
    left: np.ndarray
    beyond: float

    @classmethod
    def of(
        cls,
        nodes: np.ndarray,
        schedule: Schedule | FlowSchedule,
        window: tuple[float, float] | None,
        weighting: Weighting,
    ) -> Rule:
        edges = np.linspace(*(window or schedule.window), CELLS + 1)
        middle = (edges[1:] + edges[:-1]) / 2
        sizes = np.diff(edges)
        if weighting != "sde":  # a mean over time
            sizes = np.diff(schedule.time(edges))
            sizes = sizes / sizes.sum()
        if weighting == "score":
            _, sigma = schedule.coefficients(torch.from_numpy(schedule.time(middle)))
            sizes = sizes / sigma.numpy() ** 2
        cells, each = _alpha(middle) * sizes, np.eye(len(nodes))
        within = np.clip(middle, nodes[0], nodes[-1])  # on from either end as it is there
        curve = np.ones((CELLS, 1))
        if len(nodes) > 1:
            curve = CubicSpline(nodes, each, bc_type="natural")(within)
        angles = np.arctan(np.exp(-within / 2)), np.arctan(np.exp(-nodes / 2))
        fixed = [cells @ np.interp(-angles[0], -angles[1], one) for one in each]
        left = np.clip(np.searchsorted(nodes, within) - 1, 0, max(0, len(nodes) - 2))
        alpha = _alpha(nodes)
        beyond = float(cells[middle > nodes[-1]].sum() / alpha[-1])
        return cls(alpha, cells, curve, np.array(fixed) / alpha, left, beyond)

    def weights(self, terms: np.ndarray) -> np.ndarray:
        """∂F/∂D at terms D (P, S), where F is homogeneous of degree one: (P, S)."""
        size = terms / self.alpha  # ‖Δv‖²
        log = np.log(np.where(size > 0, size, 1))
        found = log @ self.curve.T  # (P, G)
        ends = np.stack([log[:, self.left], log[:, self.left + (log.shape[1] > 1)]])
        wild = (found > ends.max(0) + UNEVEN) | (found < ends.min(0) - UNEVEN)
        wild = wild.any(axis=1) | (size <= 0).any(axis=1)
        found[wild] = 0
        curved = (np.exp(found) * self.cells) @ self.curve / np.where(terms > 0, terms, 1)
        return np.where(wild[:, None], self.fixed, curved)


def _alpha(log_snr: np.ndarray) -> np.ndarray:
    """α² of a process with α² + σ² = 1 at a log-SNR."""
    return 1 / (1 + np.exp(-log_snr))
