"""The sentences of chapter 9, which follow its numbers. Agreement with people stands × 100."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown
from scipy.stats import t as student

from studies import comparison, spaces
from studies.comparison import BASE
from studies.pages import bracketed
from studies.spaces import REFERENCE
from studies.spaces_page import LABELS, SpacesCompared

TEXT = "text encoder, last"
UNET, READER = spaces.UNTRAINED
LOTS = ("random conditioning", "random conditioning, again", "relabelled")
REFLECTED, FLEEING = "reflected conditioning", "guidance -1"
EMPTY, STRANGER, NOISE = (f"states of {w}" for w in ("the empty prompt", "a random word", "noise"))
DDPM, DPM = "ddpm", "dpm++2m"
FEW = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


# -- numbers as they are written --------------------------------------------------------------


def minus(text: str) -> str:
    """Signs of numbers as they are set."""
    return text.replace("-", "−")


def number_word(number: int) -> str:
    """A small number in words."""
    return FEW[number] if number < len(FEW) else f"{number:,}"


def in_a_row(parts: Sequence[str]) -> str:
    """Parts in a sentence: a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def measured_interval(found: Sequence[float], spec: str) -> str:
    """A value with its interval, where it has one."""
    if np.isnan(found[0]):
        return "(not measured)"
    return minus(bracketed(found, spec))


def numbers(found: SpacesCompared, name: str, *columns: str) -> list[float]:
    """Some columns of a space; NaN where it was not measured."""
    return [float(found.result[column].get(name, np.nan)) for column in columns]


def agreed(found: SpacesCompared, name: str) -> str:
    """Agreement with people, with its interval."""
    got = numbers(found, name, "spearman", "people_low", "people_high")
    return measured_interval([100 * number for number in got], ".0f")


def like(found: SpacesCompared, name: str) -> str:
    """Resemblance to the reference, with its interval."""
    return measured_interval(numbers(found, name, "value", "low", "high"), ".2f")


def ends(values: np.ndarray, spec: str) -> str:
    """The least and the largest of some values; the value of a single one."""
    least, most = (minus(format(end(values), spec)) for end in (np.min, np.max))
    return least if least == most else f"{least} to {most}"


def range_of(found: SpacesCompared, control: str, column: str, spec: str, times: float = 1) -> str:
    """A column over the networks by lot of a control."""
    values = times * found.result.loc[found.twins(control), column].to_numpy(float)
    return "(not measured)" if np.isnan(values).any() else ends(values, spec)


def agreed_by_lot(found: SpacesCompared, control: str) -> str:
    """Agreement with people of a control's networks, and the mean over such, with its interval."""
    values = 100 * found.result.loc[found.twins(control), "spearman"].to_numpy(float)
    if len(values) < 2 or np.isnan(values).any():
        return agreed(found, control)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    middle = values.mean()
    mean = measured_interval([middle, middle - half, middle + half], ".0f")
    return f"{ends(values, '.0f')} (mean over such networks {mean})"


# -- comparisons in words ---------------------------------------------------------------------


def than(found: SpacesCompared, name: str) -> str:
    """How a space's agreement with people compares with that of `BASE`."""
    value, low, high = numbers(found, name, "difference", "difference_low", "difference_high")
    verdict = f"cannot be told from `{BASE}`"
    if np.isnan(value):
        return f"was not compared with `{BASE}`"
    if low > 0 or high < 0:
        verdict = f"agrees {'better' if low > 0 else 'less'} than `{BASE}`"
    return f"{verdict} ({measured_interval([100 * value, 100 * low, 100 * high], '+.0f')})"


def trained(found: SpacesCompared, control: str) -> pd.DataFrame:
    """Agreement of the trained network less that of each untrained one: value, low, high."""
    columns = ["difference", "difference_high", "difference_low"]
    rows = -100 * found.result.loc[found.twins(control), columns].astype(float)
    return rows.set_axis(["value", "low", "high"], axis=1)


def trained_less(found: SpacesCompared, control: str) -> str:
    """How the trained network stands to the untrained ones, one by one."""
    rows = trained(found, control)
    if rows["value"].isna().any():
        return "the trained one was not compared with them"
    n, each = len(rows), "each of them" if len(rows) > 1 else "the untrained one"
    counts = {"better": int((rows["low"] > 0).sum()), "less": int((rows["high"] < 0).sum())}
    some = [f"{how} than {number_word(count)}" for how, count in counts.items() if count]
    verdict = f"agrees {in_a_row(some)} of the {number_word(n)}"
    if not some:
        verdict = f"cannot be told from {'any of them' if n > 1 else each}"
    for how, count in counts.items():
        verdict = f"agrees {how} than {each}" if count == n else verdict
    least, most = (minus(f"{end:+.0f}") for end in (rows["low"].min(), rows["high"].max()))
    values = ends(rows["value"].to_numpy(), "+.0f")
    span = f", intervals within [{least}, {most}]" if rows["low"].notna().all() else ""
    return f"the trained one {verdict} (trained less untrained {values}{span})"


def repeated(found: SpacesCompared) -> str:
    """Whether another sampler is less like the reference than a repetition of `BASE` is."""
    _, low, high = comparison.more_alike(*(found.matrices[n] for n in (DDPM, BASE, REFERENCE)))
    verdict = "makes no difference that these words can show"
    if high < 0:
        verdict = "makes more of a difference than other noise does"
    elif low > 0:
        verdict = "makes less of a difference than other noise does"
    return (
        f"Another sampler {verdict}: the distances of `{DDPM}` rank like those of `{BASE}` from "
        f"other noise at ρ = {like(found, DDPM)}, where `{BASE}` itself repeats at "
        f"{like(found, BASE)}."
    )


def changed(found: SpacesCompared) -> str:
    """Which of the processes that follow the model agree otherwise with people than `BASE`."""
    follow = found.result.index[found.result["kind"] == "process"]
    others = [str(name) for name in follow if name not in (BASE, REFERENCE)]
    clear = [n for n in others if than(found, n).startswith("agrees")]
    told = [f"“{LABELS.get(n, n)}” {than(found, n)}" for n in clear]
    which = f": {in_a_row(told)}" if told else ""
    differing = f"{number_word(len(clear))} {'differ' if len(clear) > 1 else 'differs'}"
    return (
        f"Of {number_word(len(others))} other processes {differing} from `{BASE}` by more than the "
        f"interval, where one in twenty would by chance{which}."
    )


def by_lot(found: SpacesCompared, beside: str = "") -> str:
    """How the lotteries agree with people, and how many intervals hold zero."""
    one, two, three = (agreed(found, name) for name in LOTS)
    got = np.array([numbers(found, name, "people_low", "people_high") for name in LOTS])
    holding = ""
    if not np.isnan(got).any():
        count = int(((got[:, 0] <= 0) & (got[:, 1] >= 0)).sum())
        many = (
            *("none of the three intervals holds", "one of the three intervals holds"),
            *("two of the three intervals hold", "all three intervals hold"),
        )
        holding = f"; {many[count]} zero"
    return (
        f"agreement with people (ρ × 100) is {one} and {two} in two lotteries and {three} with "
        f"the words relabelled{beside}{holding}"
    )


def moral(found: SpacesCompared) -> str:
    """Which of the two networks agreement with people needs to have been trained."""
    unets, readers = (trained(found, control) for control in (UNET, READER))
    if unets.isna().any(axis=None) or readers.isna().any(axis=None):
        return ""
    drawing, reading = ((rows["low"] > 0).all() for rows in (unets, readers))
    if reading and drawing:
        return "On these words agreement with people needs both networks trained."
    if reading and not (unets["low"] > 0).any():
        return (
            "On these words it is the text encoder that must have been trained for the distance to "
            "agree with people; what training the U-Net adds to that, they do not show."
        )
    if drawing and not (readers["low"] > 0).any():
        return "On these words it is the U-Net that must have been trained."
    return "Which of the two networks must have been trained these words do not settle."


def in_order(found: SpacesCompared) -> str:
    """Likeness to the reference of what stands for each of the cases, the largest first."""
    twins = found.result.loc[found.twins(UNET), "value"].to_numpy(float)
    said = {
        BASE: f"`{BASE}` once more {like(found, BASE)}",
        DDPM: f"`{DDPM}` {like(found, DDPM)}",
        NOISE: f"states of noise {like(found, NOISE)}",
        TEXT: f"the text encoder alone {like(found, TEXT)}",
        UNET: f"other weights in the U-Net {ends(twins, '.2f')}",
    }
    values = {name: numbers(found, name, "value")[0] for name in said} | {UNET: twins.mean()}
    return in_a_row([said[name] for name in sorted(said, key=lambda n: -values[n])])


# -- what the chapter is told -----------------------------------------------------------------


def facts(found: SpacesCompared) -> dict[str, Any]:
    """Every number and sentence that the chapter has of the spaces."""
    lots = len(found.twins(UNET))
    parts = (opening, of_processes, of_lots, of_states, of_controls, of_claim)
    sentences = {name: text for part in parts for name, text in part(found).items()}
    return {
        "n_spaces": len(found.result),
        "n_by_lot": f"{number_word(lots)} {'network' if lots == 1 else 'networks'}",
        "n_rated": int(found.result["pairs"].max()),
        **{name: Markdown(text) for name, text in sentences.items()},
    }


def opening(found: SpacesCompared) -> dict[str, str]:
    """The answer, and what is to be taken away."""
    base = agreed(found, BASE)
    return {
        "answer_sampler": repeated(found),
        "answer_lots": f"{by_lot(found, f', where the process has {base}')}.",
        "answer_rest": (
            "At states of noise, where no sampler has been, the same network agrees with people at "
            f"{agreed(found, NOISE)}. U-Nets that were never trained, behind the same text "
            f"encoder, agree at {agreed_by_lot(found, UNET)}: {trained_less(found, UNET)}."
        ),
        "finding": (
            f"Where the words are told by lot, distances rank nothing: {agreed(found, LOTS[0])} "
            f"with people (ρ × 100). With another sampler, `{DDPM}`, it is {agreed(found, DDPM)}; "
            f"`{BASE}` has {base}."
        ),
    }


def of_processes(found: SpacesCompared) -> dict[str, str]:
    """Processes that follow the model, and the one that flees its text."""
    told = "A process that avoids what a word means still depends on what it means."
    flees = numbers(found, FLEEING, "people_low")[0] > 0
    return {
        "followers": (
            f"`{BASE}` agrees with itself from other noise at {like(found, BASE)}: no space of so "
            f"few draws is known better. `{DDPM}` has {like(found, DDPM)} and `{DPM}` "
            f"{like(found, DPM)}. With people `{BASE}` has {agreed(found, BASE)} and from other "
            f"noise {agreed(found, REFERENCE)}: the first change to look at is no change at all. "
            f"{changed(found)}"
        ),
        "fleeing": (
            f"Fleeing the text (guidance −1) leaves {agreed(found, FLEEING)} with people and "
            f"{like(found, FLEEING)} with the reference. {told if flees else ''}"
        ),
    }


def of_lots(found: SpacesCompared) -> dict[str, str]:
    """Random, exchanged and reflected conditioning."""
    p = in_a_row([f"{numbers(found, name, 'p')[0]:.2f}" for name in LOTS])
    return {
        "lots": (
            f"With random conditioning {by_lot(found)}. Mantel's test, which goes below 0.05 in "
            f"one lottery of twenty, puts their likeness to the reference at p = {p}."
        ),
        "reflected": (
            "*Reflected* conditioning, which keeps the relations and changes every process, has "
            f"{agreed(found, REFLECTED)} with people and {like(found, REFLECTED)} with the "
            "reference."
        ),
    }


def of_states(found: SpacesCompared) -> dict[str, str]:
    """The same network at states that the words did not choose."""
    return {
        "elsewhere": (
            f"At the states of the empty prompt the network has {agreed(found, EMPTY)} with people "
            f"and {than(found, EMPTY)}; at those of a word by lot it has "
            f"{agreed(found, STRANGER)} and {than(found, STRANGER)}; at states of noise "
            f"{agreed(found, NOISE)}, and it {than(found, NOISE)}. With the reference the first "
            f"and the last are alike at {like(found, EMPTY)} and {like(found, NOISE)}."
        )
    }


def of_controls(found: SpacesCompared) -> dict[str, str]:
    """Other weights, and no picture; and what the groups say of all of them."""
    nearer = {
        name: f"{100 * numbers(found, name, 'separation')[0]:.0f} %" for name in (BASE, NOISE, TEXT)
    }
    return {
        "controls": (
            f"With people, untrained U-Nets have {agreed_by_lot(found, UNET)}: "
            f"{trained_less(found, UNET)}. Behind untrained text encoders the trained U-Net has "
            f"{agreed_by_lot(found, READER)}: {trained_less(found, READER)}. The cosine of the "
            f"text encoder alone has {agreed(found, TEXT)}. To agree with people is one thing, to "
            "be the same space another: with the reference, the untrained U-Nets are alike at "
            f"{range_of(found, UNET, 'value', '.2f')}, the text encoder at {like(found, TEXT)}."
        ),
        "groups": (
            f"A pair of one group is nearer than a pair of two in {nearer[BASE]} of cases for "
            f"`{BASE}`, {nearer[NOISE]} at states of noise, "
            f"{range_of(found, UNET, 'separation', '.0f', 100)} % for the untrained U-Nets and "
            f"{nearer[TEXT]} for the text encoder, where shuffled groups give "
            f"{ends(100 * np.array(found.by_chance), '.0f')} %."
        ),
    }


def of_claim(found: SpacesCompared) -> dict[str, str]:
    """What is measured of the claim, where it is a matter of measurement."""
    return {
        "claim_states": (
            f"At states of noise the network {than(found, NOISE)}, at those of the empty prompt it "
            f"{than(found, EMPTY)}."
        ),
        "claim_weights": (
            f"With U-Nets by lot, {trained_less(found, UNET)}; with text encoders by lot, "
            f"{trained_less(found, READER)}. {moral(found)}"
        ),
        "in_order": in_order(found),
    }


def map_facts(found: SpacesCompared) -> dict[str, Any]:
    """How alike the processes are to one another, to the text encoder, and to the lots."""
    follow = list(found.result.index[found.result["kind"] == "process"])
    untrained = found.twins(UNET)
    every = found.between([*follow, TEXT, *LOTS, *untrained])
    inside = every.loc[follow, follow].to_numpy()[np.triu_indices(len(follow), 1)]
    return {
        "inside": ends(inside, ".2f"),
        "to_text": ends(every.loc[follow, TEXT].to_numpy(), ".2f"),
        "to_lots": ends(every.loc[list(LOTS), follow].to_numpy(), ".2f"),
        "untrained_to_text": ends(every.loc[untrained, TEXT].to_numpy(), ".2f"),
    }
