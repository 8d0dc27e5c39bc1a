"""Whether a number is one: without what surrounds it, finite, of a size to be squared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from conjure_lib.reading import quoted

HUGE = 1e15  # the squares of larger numbers, summed over a latent, overflow in float32
AUTOCASTS = ("cpu", "cuda")  # devices whose surroundings may be in another precision


def steady(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` without the autocast and the gradients of whoever calls it."""
    if hasattr(call, "steady"):
        return call

    @wraps(call)
    def alone(*given: Any, **named: Any) -> Any:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for kind in AUTOCASTS:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            return call(*given, **named)

    alone.steady = True  # type: ignore[attr-defined]
    return alone


def sound(values: Any) -> Tensor:
    """Which of n rows hold neither NaN nor a number whose squares overflow in float32, (n,).

    Args:
        values: a tensor (n, …), or a conditioning of n rows.
    """
    if not isinstance(values, Tensor):
        fine = [[sound(part).all() for part in row.parts.values()] for row in values.rows]
        return torch.stack([torch.stack(row).all() for row in fine])
    return (values.float().abs() < HUGE).reshape(len(values), -1).all(1)


def raw(values: Tensor) -> Any:
    """The bytes of a tensor on any device, for a hash."""
    if hasattr(values, "__tensor_flatten__"):  # a quantised one consists of several
        return b"".join(raw(getattr(values, name)) for name in values.__tensor_flatten__()[0])
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def check_sound(fine: Any, when: Sequence[Any], texts: Sequence[str] | None = None) -> None:
    """Raise ValueError, with the prompt and the time, at the first False of ``fine`` (n, S).

    ``when`` (S,) are timesteps or what comes before them, ``texts`` (n,) the prompts of the rows.
    """
    bad = ~torch.as_tensor(fine).cpu()
    if not bool(bad.any()):
        return
    at = int(bad.any(0).nonzero()[0])
    row = int(bad[:, at].nonzero()[0])
    whose = f"row {row}" if texts is None else quoted(texts[row])
    what = (
        when[at] if isinstance(when[at], str) else f"the noise prediction at timestep {when[at]:g}"
    )
    raise ValueError(
        f"{what} for {whose} is not finite, or too large to be squared: a guidance nearer to 1, or "
        "a network in float32, may help; otherwise weights of the model are damaged"
    )
