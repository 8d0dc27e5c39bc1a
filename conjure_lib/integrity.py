"""Numbers that are what they seem: whatever surrounds them, finite, of a size to be squared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial, wraps
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


# -- what surrounds a network --------------------------------------------------------------------

_using: dict[str | int, tuple[int, Callable[[], None]]] = {}
_counting = threading.Lock()


@contextmanager
def _while_used(key: str | int, change: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """``change`` a state that threads share, for as long as any of them needs it changed.

    The first to come changes it, and the last to leave calls what ``change`` returned.
    """
    with _counting:
        users, undo = _using[key] if key in _using else (0, change())
        _using[key] = users + 1, undo
    try:
        yield
    finally:
        with _counting:
            users, undo = _using.pop(key)
            if users > 1:
                _using[key] = users - 1, undo
            else:
                undo()


def quiet() -> AbstractContextManager[None]:
    """Neither log lines nor progress bars of diffusers and transformers."""
    return _while_used("quiet", _silence)


def _silence() -> Callable[[], None]:
    import diffusers
    import transformers

    loggings = (diffusers.utils.logging, transformers.utils.logging)
    kept = [(logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in loggings]
    for logging in loggings:
        logging.set_verbosity(logging.CRITICAL)  # what fails is raised
        logging.disable_progress_bar()

    def undo() -> None:
        for logging, (verbosity, bars) in zip(loggings, kept, strict=True):
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()

    return undo


@contextmanager
def evaluating(*networks: torch.nn.Module) -> Iterator[None]:
    """Without dropout: networks that are being trained are in eval mode inside, and not after."""

    def change(network: torch.nn.Module) -> Callable[[], None]:
        training = [module for module in network.modules() if module.training]

        def switch(mode: bool) -> None:
            for module in training:
                module.training = mode

        switch(False)
        return partial(switch, True)

    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(_while_used(id(network), partial(change, network)))
        yield


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
