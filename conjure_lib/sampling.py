"""How trajectories are drawn, said once: the defaults, the checks and the words of a record."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from typing import Any, TypedDict, Unpack

from conjure_lib.inputs import draw_numbers, finite, one_of, whole
from conjure_lib.names import SPACINGS, Spacing


class Single(TypedDict, total=False):
    """The fields of :class:`Sampling`, as a call takes them singly."""

    steps: int
    draws: int | Sequence[int]
    guidance: float
    sampler: str
    seed: int
    spacing: Spacing
    log_snr: tuple[float, float] | None


@dataclass(frozen=True)
class Sampling:
    """What is drawn, and where: trajectories, the times that they visit, the window that counts.

    Attributes:
        steps: S sampler steps, each of which visits one timestep.
        draws: k Monte Carlo draws of x_T (and of the sampler's noise): 0 … k-1, or the numbers
            of the wanted ones.
        guidance: w of classifier-free guidance.
        sampler: a name of ``names.SAMPLERS``, or for a flow of ``names.FLOW_SAMPLERS``.
        seed: keys all that is random, with the number of the draw.
        spacing: where the steps lie. "leading", "trailing" and "linspace" are even in time as
            diffusers names them, and the same for every sampler; "log-snr" is even in
            λ = log(α²/σ²). A flow takes "leading" for the times of its own pipeline.
        log_snr: the window of λ that a divergence is taken over; all that the checkpoint was
            trained on where it is None. Two models are compared in one window.

    Raises:
        TypeError, ValueError: one is not usable; the message says which and what would be.
    """

    steps: int = 10
    draws: int | Sequence[int] = 5
    guidance: float = 1.0
    sampler: str = "ddim"
    seed: int = 0
    spacing: Spacing = "leading"
    log_snr: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        numbers = draw_numbers(self.draws)
        if isinstance(self.draws, Integral):
            object.__setattr__(self, "draws", len(numbers))
        elif not isinstance(numbers, range):  # a range, however long, is not written out
            object.__setattr__(self, "draws", tuple(numbers))
        object.__setattr__(self, "steps", whole("steps", self.steps))
        object.__setattr__(self, "seed", whole("seed", self.seed, 0))
        object.__setattr__(self, "guidance", _guidance(self.guidance))
        one_of("spacing", self.spacing, SPACINGS)
        if self.log_snr is not None:
            object.__setattr__(self, "log_snr", _window(self.log_snr))

    @classmethod
    def of(cls, sampling: Sampling | None = None, **single: Unpack[Single]) -> Sampling:
        """``sampling``, or the default one, with what is given singly in its place.

        Raises:
            TypeError: there is no setting of that name, or ``sampling`` is something else.
        """
        check_known(single)
        if not isinstance(sampling, cls | None):
            raise TypeError(f"sampling must be a Sampling, not {sampling!r:.80}")
        return replace(sampling or DEFAULT, **single)

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the draws."""
        return draw_numbers(self.draws)

    def told(self) -> dict[str, Any]:
        """Every field but the draws, which a run adds to, as JSON has it."""
        told = {k: v for k, v in asdict(self).items() if k != "draws"}
        return told | {"log_snr": None if self.log_snr is None else list(self.log_snr)}


def check_known(single: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Raise TypeError where a name is neither a field of :class:`Sampling` nor one of ``more``."""
    known = [*(field.name for field in fields(Sampling)), *more]
    if unknown := sorted(set(single) - set(known)):
        raise TypeError(f"there is no setting {', '.join(unknown)}: there are {', '.join(known)}")


def _guidance(value: Any) -> float:
    w = finite("guidance", value)
    if w == 0:
        raise ValueError(
            "guidance=0 follows no prompt and makes every distance 0: for no guidance take 1"
        )
    if not sys.float_info.min <= w * w <= sys.float_info.max:
        raise ValueError(f"guidance must have a square that float64 holds, not {w:g}")
    return w


def _window(value: Any) -> tuple[float, float]:
    try:
        low, high = (finite("log_snr", bound) for bound in value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"log_snr must be two numbers, as (-5, 7), not {value!r:.60}") from error
    if not low < high:
        raise ValueError(f"log_snr must be a window (low, high), and {low:g} is not below {high:g}")
    return low, high


DEFAULT = Sampling()
