"""What a chapter puts into its page: numbers of its run, code it has used."""

from __future__ import annotations

import inspect
import math
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from IPython.display import Markdown
from matplotlib.axes import Axes

import conjure_lib as cj
from conjure_tools.plots import use_style

try:
    from myst_nb import glue  # keeps a value under a name, for {glue:text}`name` in the text
except ImportError:  # outside the book, as on Colab, the reader sees it where it is made

    def glue(name: str, variable: Any, display: bool = True) -> None:
        """Print a value with its name."""
        print(f"{name} = {variable}")


def say(**values: Any) -> None:
    """Glue several numbers or sentences at once; an underscore in a name becomes a hyphen."""
    for name, value in values.items():
        plain = value.item() if hasattr(value, "item") else value  # NumPy's numbers as Python's
        glue(name.replace("_", "-"), plain, display=False)


def machine(process: cj.GenerativeProcess) -> str:
    """What a process runs on, in words."""
    kind = process.device.type
    gpu = f"a GPU ({torch.cuda.get_device_name(process.device)})" if kind == "cuda" else ""
    return gpu or {"cpu": "a CPU", "mps": "an Apple GPU"}.get(kind, kind)


def bracketed(numbers: Iterable[float], spec: str, ends_spec: str = "") -> str:
    """A value with its interval, such as "0.42 [0.31, 0.50]"; alone where it has none.

    A difference, whose spec has a plus, keeps the sign of what rounds to zero: the side counts.
    """
    value, low, high = numbers
    specs = (spec, ends_spec or spec)
    of, of_ends = (one if one.startswith("+") else f"z{one}" for one in specs)  # z: no "-0.0"
    ends = f" [{low:{of_ends}}, {high:{of_ends}}]"
    return f"{value:{of}}" + ends * (not (math.isnan(low) or math.isnan(high)))


def bracketed_of(
    row: Any, spec: str, *, times: float = 1, names: Sequence[str] = ("value", "low", "high")
) -> str:
    """`bracketed` of three entries of a row: a series, a named tuple or a correlation."""
    return bracketed((times * float(getattr(row, name)) for name in names), spec)


def plain_ticks(axis: Axes, x: Sequence[float], y: Sequence[float] = ()) -> None:
    """Ticks of logarithmic axes as plain numbers; those of y stay as they are without any."""
    axis.set_xticks(x, [f"{v:g}" for v in x])
    if y:
        axis.set_yticks(y, [f"{v:g}" for v in y])
    axis.minorticks_off()


def captioned(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1
) -> str:
    """A table of Markdown with its caption; the first columns are ``words``, the others numbers,
    whose intervals stay whole where a line ends."""
    marks = [":--" if i < words else "--:" for i in range(len(heads))]
    whole = (
        [c if i < words else c.replace(", ", ",\N{NO-BREAK SPACE}") for i, c in enumerate(row)]
        for row in rows
    )
    cells = ([f" {cell} " if cell else " " for cell in row] for row in (heads, marks, *whole))
    body = "\n".join(f"|{'|'.join(row)}|" for row in cells)
    return f":::{{table}} {caption}\n\n{body}\n\n:::\n"


def show_source(*functions: Any) -> Markdown:
    """The code of functions that a page has used."""
    sources = [textwrap.dedent(inspect.getsource(f)) for f in functions]
    return Markdown("\n".join(f"```python\n{source}```\n" for source in sources))


# -- how a chapter begins and ends ------------------------------------------------------------


def begin() -> float:
    """Give all figures that follow the book's style; the time, in seconds, for `cost`."""
    use_style()
    return time.perf_counter()


def cost(
    process: cj.GenerativeProcess, began: float, evaluations: int | None = None
) -> dict[str, str | float]:
    """What a chapter took since it `began`, and on what.

    ``evaluations`` are its noise predictions, where others than ``process`` made some.
    """
    count = process.evaluations if evaluations is None else evaluations
    return {
        "evaluations": f"{count:,}",
        "seconds": time.perf_counter() - began,
        "device": machine(process),
        "model": process.name,
    }
