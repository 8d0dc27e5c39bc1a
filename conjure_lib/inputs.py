"""What the library is handed: texts, pairs and numbers, in the shapes that people have them in.

Each function gives back the plain form, or raises an error that names the argument, what is wrong
with its value and what would do instead. Nothing is guessed: what could be read two ways is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from numbers import Integral, Real
from typing import Any

import numpy as np

from conjure_lib.reading import fault

PAIR_COLUMNS = tuple((f"{name}1", f"{name}2") for name in ("text", "sentence", "word"))
EXAMPLE = '[("cat", "dog"), ("cat", "car")]'


def as_pairs(rows: Any) -> list[tuple[str, str]]:
    """Pairs of texts, from a list, generator or array of them or from a table that holds them.

    Args:
        rows: rows of two texts each; or rows with the names text1 and text2, sentence1 and
            sentence2 or word1 and word2 (dicts, named tuples); or columns of these names (a
            DataFrame of pandas or polars, a Dataset, an Arrow table, a dict of lists). A DataFrame
            of two columns without names holds pairs.

    Raises:
        TypeError: something else; sets too, which have no order that results could follow.
        ValueError: no pairs, a blank text, or a table without these columns.
    """
    names = _column_names(rows)
    if names is not None:
        first, second = (listed(rows[name], str(name)) for name in _two_of(names))
        if len(first) != len(second):
            raise ValueError(f"the columns of the pairs have {len(first)} and {len(second)} rows")
        found: Iterable[Any] = zip(first, second, strict=True)
    else:
        found = (_two(i, row) for i, row in enumerate(listed(rows, "pairs", EXAMPLE)))
    pairs = [
        (as_text(f"the first text of pair {i}", a), as_text(f"the second text of pair {i}", b))
        for i, (a, b) in enumerate(found)
    ]
    if not pairs:
        raise ValueError(f"no pairs were given: hand over at least one, as in {EXAMPLE}")
    return pairs


def as_prompts(texts: Any, name: str = "prompt") -> list[str]:
    """Texts as a list, from a list, generator, array or column of them.

    Raises:
        TypeError: a single text, a table, a set, or something in the list that is no text.
        ValueError: no texts, or a blank one.
    """
    names = _column_names(texts)
    if names is not None:
        there = ", ".join(map(str, names))
        raise TypeError(
            f"expected a list of {name}s, not a table with the columns {there}: hand over one of "
            f"its columns, as in table[{next(iter(names), 'text')!r}]"
        )
    given = listed(texts, f"{name}s", '["cat", "dog"]')
    found = [as_text(f"{name} {i}", text) for i, text in enumerate(given)]
    if not found:
        raise ValueError(f"no {name}s were given: hand over at least one")
    return found


def as_text(name: str, value: Any) -> str:
    """``value`` as a text that can be read.

    Raises:
        TypeError: it is no string.
        ValueError: it is empty or blank, or was read in the wrong encoding.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}: {_short(value)}")
    if why := fault(value):
        raise ValueError(f"{name} {why}")
    return str(value)


def whole(name: str, value: Any, least: int = 1) -> int:
    """``value`` as an integer of at least ``least``; numpy's integers are, 2.0 and True are none.

    Raises:
        TypeError: it is no integer.
        ValueError: it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, not {_short(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return int(value)


def finite(name: str, value: Any) -> float:
    """``value`` as a float.

    Raises:
        TypeError: it is no number.
        ValueError: it is NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a finite number, not {_short(value)}")
    with suppress(OverflowError):  # of a whole number that no float holds
        if math.isfinite(value):
            return float(value)
    raise ValueError(f"{name} must be a finite number, not {_short(value)}")


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    """``value``, if it is one of ``known``; ValueError if not."""
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, not {_short(value)}")
    return value


def draw_numbers(draws: Any) -> Sequence[int]:
    """0 … k-1 for a number k; or the given numbers of draws, each of them once.

    Raises:
        TypeError: a number that is no integer.
        ValueError: none, a negative one, or one that stands twice.
    """
    if isinstance(draws, Iterator):
        raise TypeError(f"draws must be a number or a list, to be read twice, not {_short(draws)}")
    if isinstance(draws, str | Real):
        return range(whole("draws", draws))[: 2**63 - 1]  # what len() can count
    if isinstance(draws, range) and draws and min(draws[0], draws[-1]) >= 0:
        return draws[: 2**63 - 1]  # however long
    numbers = [whole("each of draws", i, 0) for i in listed(draws, "draws", "[0, 1, 2]")]
    if not numbers:
        raise ValueError("draws must be at least 1, and none are given")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"draws={_short(numbers)} holds a number twice: each counts once")
    return numbers


def as_numbers(name: str, values: Any) -> np.ndarray:
    """``values`` as an array of finite floats: float32 where it is that, else float64.

    Tensors may be on any device, in any precision and in a graph of gradients, singly or in a list.

    Raises:
        ValueError: something else than real numbers, rows of different lengths, a masked value, or
            one that is not finite.
    """
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        raise ValueError(f"{name} has masked values: fill them in or leave their rows out")
    try:
        if values is None:
            raise TypeError("it is None")
        rows = isinstance(values, list | tuple)
        x = np.asarray([_plain(v) for v in values] if rows else _plain(values))
        if x.dtype.kind not in "biufO":
            raise TypeError(f"{x.dtype} is no real number")
        x = x if x.dtype == np.float32 else np.asarray(x, np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # what numpy and torch say of it
        raise ValueError(f"{name} must be rows of numbers: {error}") from error
    if x.size and not np.isfinite([x.min(), x.max()]).all():  # which no NaN gets past
        at = ", ".join(map(str, np.argwhere(~np.isfinite(x))[0]))
        raise ValueError(f"{name} is not finite{f' at [{at}]' if at else ''}: NaN or infinity")
    return x


def _plain(value: Any) -> Any:
    """A tensor as an array, which has no bfloat16 and no gradients; anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return (value if str(value.dtype) == "torch.float32" else value.double()).numpy()


# -- shapes -----------------------------------------------------------------------------------


def _column_names(rows: Any) -> list[Any] | None:
    """The names of the columns, if ``rows`` is a table; None if it is not."""
    for name in ("collect", "compute"):  # of polars, Spark and Dask
        if hasattr(type(rows), name):
            raise TypeError(
                f"a {type(rows).__name__} has its rows only when asked: hand over table.{name}()"
            )
    if isinstance(rows, Mapping):
        return list(rows)
    if isinstance(rows, np.ndarray):
        return list(rows.dtype.names) if rows.dtype.names else None
    names = getattr(rows, "column_names", None)  # of a Dataset or an Arrow table
    if not isinstance(names, list) and hasattr(rows, "__getitem__"):
        names = getattr(rows, "columns", None)  # of a DataFrame
    return None if names is None else list(names)


def _two_of(names: list[Any]) -> tuple[Any, Any]:
    """The names of the two columns of texts."""
    there = {name for name in names if not isinstance(name, bool | np.bool_)}  # False is no 0
    found = [pair for pair in (*PAIR_COLUMNS, (0, 1)) if set(pair) <= there]
    if len(found) == 1 and all(names.count(name) == 1 for name in found[0]):
        return found[0]
    known = ", or ".join(" and ".join(pair) for pair in PAIR_COLUMNS)
    raise ValueError(
        f"pairs need the columns {known}, once; here are {', '.join(map(repr, names)) or 'none'}: "
        "rename two of them"
    )


def _two(i: int, row: Any) -> tuple[Any, Any]:
    """The two texts of a row, by name where it has names."""
    if hasattr(row, "_asdict"):  # as pandas' itertuples gives them, the index with them
        row = row._asdict()
    if isinstance(row, Mapping):
        first, second = _two_of(list(row))
        return row[first], row[second]
    if isinstance(row, list | tuple | np.ndarray) and len(row) == 2:
        return row[0], row[1]
    raise TypeError(f"row {i} must be a pair of texts, not {_short(row)}: write {EXAMPLE}")


def listed(values: Any, name: str, example: str = "a list") -> list[Any]:
    """The elements of something that has them in an order."""
    if hasattr(values, "to_pylist"):  # a column of Arrow
        return list(values.to_pylist())
    if isinstance(values, str | bytes):
        raise TypeError(f"expected a list of {name}, not the single string {_short(values)}")
    if isinstance(values, set | frozenset | Mapping):
        raise TypeError(f"{name} must be a list, whose order counts, not a {type(values).__name__}")
    try:
        rows = iter(values)
    except TypeError as error:
        raise TypeError(f"{name} must be like {example}, not {_short(values)}") from error
    return list(rows)


def _short(value: Any) -> str:
    """``value`` for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}…"
