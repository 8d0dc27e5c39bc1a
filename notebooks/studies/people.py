"""Do distances agree with people: the records 'words', 'sts' and 'agreement', chapters 5 and 6.

Everything is resumable: the distances are runs in a folder of the present code, and each baseline
is kept there as soon as it is finished. Texts and human scores are not written, because of their
licences; rows carry the ids of conjure_tools.benchmarks. The seven sentence sets take an hour on
two CPU cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler
from scipy.stats import spearmanr

import conjure_lib as cj
from conjure_tools import baselines, benchmarks, correlation, runs
from conjure_tools.correlation import Resampling
from conjure_tools.fingerprints import weights_hash
from studies import other_models
from studies.probes import COSINES, POOLINGS
from studies.records import (
    RESULTS,
    Made,
    Overlay,
    Pairs,
    hashes_of,
    in_single,
    kept_table,
    laid_over,
    matching,
    results_of_record,
    rows_of,
    texts_of,
    work,
)

SETS = {"words": benchmarks.WORDS, "sts": benchmarks.STS}
STEPS = {"words": 10, "sts": 5}  # 18,850 pairs of sentences: half the steps, for a CPU's sake
DRAWS = {"rg65": 10, "simlex999": 3, "wordsim353": 3}  # of the small sets; two of the others
GAUSSIAN = {"rg65": 65, "simlex999": 100, "stsb": 100, "sickr": 100}  # pairs: many images a text
IMAGES = 8


def scores(name: str) -> Made:
    """Distances and baselines of every pair of one group of sets; float32, as they are stored."""
    process, parts, notes = cj.load(), [], {}
    for benchmark in SETS[name]:
        draws, steps = DRAWS.get(benchmark, 2), STEPS[name]
        pairs = benchmarks.load_pairs(benchmark)
        run = runs.score(process, pairs, work("people") / benchmark, steps=steps, draws=draws)
        notes[benchmark] = run.record
        columns = {"benchmark": benchmark, "id": pairs["id"]}
        for weighting in cj.WEIGHTINGS:
            found = run.distances(weighting, draws=draws)
            columns |= {weighting: found["distance"], f"{weighting}_stderr": found["stderr"]}
        parts.append(pd.DataFrame(columns).merge(others(process, benchmark, pairs, steps), on="id"))
    return {name: in_single(pd.concat(parts, ignore_index=True))}, notes


words, sts = partial(scores, "words"), partial(scores, "sts")


def others(
    process: cj.GenerativeProcess, benchmark: str, pairs: pd.DataFrame, steps: int
) -> pd.DataFrame:
    """The baselines of one set, as similarities; NaN where one was not computed."""
    methods: dict[str, tuple[pd.DataFrame, Callable[[Pairs], np.ndarray]]] = {
        "initial_timestep": (pairs, lambda p: baselines.initial_timestep(process, p, draws=3)),
        "direct_output": (
            pairs,
            lambda p: baselines.direct_output(process, p, steps=steps, draws=1),
        ),
    }
    for method, pooling in POOLINGS.items():
        cosine = partial(baselines.text_encoder_cosine, process, pooling=pooling)
        methods[method] = (pairs, cosine)
    if benchmark in GAUSSIAN:
        few = runs.stratified(pairs, GAUSSIAN[benchmark])
        for kind in ("frechet", "jeffreys"):
            fitted = partial(baselines.image_gaussian, process, divergence=kind, images=IMAGES)
            methods[kind] = (few, fitted)
    if folder := os.environ.get("CONJURE_MINILM"):
        methods["minilm"] = (pairs, lambda p: other_models.sentence_cosine(folder, p))
    else:
        print("CONJURE_MINILM names no folder of all-MiniLM-L6-v2: the column minilm stays empty")
    empty = ("minilm", "frechet", "jeffreys")
    result = pd.DataFrame({"id": pairs["id"], **dict.fromkeys(empty, np.nan)})
    weights = weights_hash(process)
    for method, (rows, compute) in methods.items():
        file = work("people") / f"{benchmark}-{method}.parquet"

        def made(method: str = method, rows: pd.DataFrame = rows, compute: Any = compute) -> Any:
            return pd.DataFrame({"id": rows["id"], method: compute(texts_of(rows))})

        of = [rows_of(rows), weights, IMAGES, folder]
        found = kept_table(file, of, made)
        result = result.drop(columns=method, errors="ignore").merge(found, on="id", how="left")
    return result


def agreements() -> Made:
    """Spearman and Pearson of every column of the records with the human scores."""
    parts = []
    for name, sets in SETS.items():
        if (RESULTS / f"{name}.parquet").is_file():
            table = results_of_record(name).table
            table[list(cj.WEIGHTINGS)] *= -1
            kept = table.columns[~table.columns.str.endswith("_stderr")]
            found = agreement_of(table[kept], {n: benchmarks.load_pairs(n) for n in sets})
            found.insert(0, "table", name)
            parts.append(found)
    made = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    notes = {"computed": "from the records beside it", "from": hashes_of(SETS)}
    return {"agreement": made}, notes | {"provenance": runs.provenance(cj.load())}


# -- records and ratings, opened for a chapter --------------------------------------------------


@dataclass(frozen=True)
class Anew:
    """Settings under which sets are scored anew, resumable, instead of being read from a record."""

    folder: str
    limit: int  # pairs a set, stratified; 0 takes all
    steps: int
    draws: int
    guidance: float


@dataclass(frozen=True)
class Opened:
    """A group of sets: every column of a method is a similarity, and people's ratings beside it."""

    names: Mapping[str, str]  # of the sets, as a page writes them
    table: pd.DataFrame  # benchmark, id and the methods, of all pairs
    results: pd.DataFrame  # rows of `correlation.agreement` with benchmark and method
    joined: dict[str, pd.DataFrame]  # texts, people and methods of the sets that are at hand
    notes: dict[str, Any]  # of each set, where its distances are from
    fresh: Overlay  # distances by set, id and weighting

    @property
    def settings(self) -> dict[str, Any]:
        """What the distances were made with, as `pair_terms` takes it."""
        made = next(iter(self.notes.values()))["settings"]
        return {k: made[k] for k in ("steps", "guidance", "sampler", "seed")}

    def description(self) -> pd.DataFrame:
        """Model, settings, size, date and versions of the record, one a row."""
        made = next(iter(self.notes.values()))
        draws = sorted({of_set["draws"] for of_set in self.notes.values()})
        versions = made["provenance"]["versions"].items()
        rows = {
            "model": made["settings"]["model"],
            "weights (SHA-256)": made["settings"]["weights"][:12],
            **self.settings,
            "draws, by set": ", ".join(map(str, draws)),
            "pairs": f"{len(self.table):,}",
            "made on": made["provenance"]["date"][:10],
            "with": ", ".join(f"{k} {v}" for k, v in versions),
        }
        return pd.Series(rows, name="the record").to_frame()

    def facts(self) -> dict[str, Any]:
        """What the record took, and whether it still holds."""
        count = len(self.fresh.rows) // len(cj.WEIGHTINGS)
        sentence = "No pair could be scored: no set is at hand."
        if count:
            holds = "is stale, and not to be trusted" if self.fresh.stale else "holds"
            sentence = (
                f"Of {count} pairs scored again, the largest relative difference is "
                f"{self.fresh}: the record {holds}. Every correlation of the next table "
                "was computed once more from the record and the ratings, and agrees."
            )
        return {
            "fresh_sentence": Markdown(sentence),
            "record_evaluations": sum(p["unet_evaluations"] for p in self.notes.values()),
            "record_hours": sum(p["seconds"] for p in self.notes.values()) / 3600,
        }


def opened_with_people(
    process: cj.GenerativeProcess,
    group: str,
    names: Mapping[str, str],
    *,
    sample: int,
    resamples: int,
    seed: int,
    batch_size: int,
    anew: Anew | None = None,
) -> Opened:
    """The record of ``group`` ("words" or "sts") with people's ratings, held against a sample.

    ``sample`` pairs are scored now under the record's settings, and a warning is printed where they
    differ from it. With ``anew`` the sets are scored, and nothing is read from a record.

    Raises:
        AssertionError: the record of agreement is not that of these distances.
    """
    rated = at_hand(names)
    if anew:
        made = {n: scored(process, n, p, anew, seed, batch_size) for n, p in rated.items()}
        table = pd.concat([part for part, _ in made.values()], ignore_index=True)
        notes = {name: record for name, (_, record) in made.items()}
    else:
        record = results_of_record(group)
        table, notes = record.table, record.notes
    table[list(cj.WEIGHTINGS)] *= -1
    if anew:
        results = agreement_of(table, rated, resamples=resamples, seed=seed)
    else:
        results = matching(results_of_record("agreement").table, table=group)
    joined = with_ratings(table, rated)
    check_correlations(joined, results)
    fresh = scored_again(process, group, joined, notes, sample, seed, batch_size)
    return Opened(names, table, results, joined, notes, fresh)


def at_hand(names: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """The sets that can be had; which others cannot, and why, is printed."""
    found, absent = {}, {}
    for name in names:
        try:
            found[name] = benchmarks.load_pairs(name)
        except FileNotFoundError as error:
            absent[name] = error
    if absent:
        print("What needs texts or ratings lacks", "; ".join(names[name] for name in absent))
        print("because", next(iter(absent.values())))
    return found


def scored(
    process: cj.GenerativeProcess,
    name: str,
    pairs: pd.DataFrame,
    anew: Anew,
    seed: int,
    batch_size: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Distances and this model's own baselines of one set in the record's columns; its settings."""
    if anew.limit:
        pairs = runs.stratified(pairs, anew.limit, seed=seed)
    how: dict[str, Any] = {"steps": anew.steps, "guidance": anew.guidance, "seed": seed}
    how["batch_size"] = batch_size
    folder = f"{name}-{process.name.replace('/', '--')}-{anew.limit or 'all'}"
    how["draws"] = anew.draws
    run = runs.score(process, pairs, Path(anew.folder) / folder, **how)
    texts, draws = texts_of(pairs), anew.draws
    found: dict[str, Any] = {}
    found |= {w: run.distances(w, draws=draws)["distance"].to_numpy() for w in cj.WEIGHTINGS}
    found["initial_timestep"] = baselines.initial_timestep(process, texts, draws=draws, **how)
    found["direct_output"] = baselines.direct_output(process, texts, draws=draws, **how)
    for method, pooling in POOLINGS.items():
        found[method] = baselines.text_encoder_cosine(process, texts, pooling=pooling)
    return pd.DataFrame({"benchmark": name, "id": pairs["id"], **found}), run.record


def with_ratings(table: pd.DataFrame, rated: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """By set, its texts and people's ratings, and the columns of ``table`` beside them."""
    return {
        name: pairs.rename(columns={"score": "people"}).merge(
            matching(table, benchmark=name), on="id", validate="one_to_one"
        )
        for name, pairs in rated.items()
    }


def agreement_of(
    table: pd.DataFrame, rated: Mapping[str, pd.DataFrame], **how: Unpack[Resampling]
) -> pd.DataFrame:
    """Rows as in the record of agreement, for a table of similarities; what is NaN is left out."""
    rows = []
    for name, scored in rated.items():
        part = matching(table, benchmark=name)
        pairs = scored.set_index("id").loc[part["id"]]
        for method in part.columns.drop(["benchmark", "id"]):
            known = part[method].notna().to_numpy()
            values = part.loc[known, method].to_numpy()
            for row in correlation.agreement(pairs[known], values, **how) if known.any() else ():
                rows.append({"benchmark": name, "method": method, **row})
    return pd.DataFrame(rows)


def check_correlations(joined: Mapping[str, pd.DataFrame], results: pd.DataFrame) -> None:
    """Compute every correlation of whole sets once more, from the similarities."""
    for name, part in joined.items():
        for row in results[(results["benchmark"] == name) & (results["group"] == "")].itertuples():
            known = part[part[row.method].notna()]
            again = spearmanr(known[row.method], known["people"]).statistic
            assert abs(again - row.spearman) < 1e-6, (name, row.method, again, row.spearman)


def scored_again(
    process: cj.GenerativeProcess,
    group: str,
    joined: Mapping[str, pd.DataFrame],
    notes: Mapping[str, Any],
    sample: int,
    seed: int,
    batch_size: int,
) -> Overlay:
    """Distances of a few pairs of all sets under the settings of the record, laid over it."""
    columns = ["benchmark", "id", "weighting", "recorded", "fresh"]
    made = next(iter(notes.values()))["settings"]
    how = {k: made[k] for k in ("steps", "guidance", "sampler", "seed")}
    rows = []
    pool = pd.concat(joined.values(), ignore_index=True) if joined else pd.DataFrame()
    few = runs.stratified(pool, sample, seed=seed).reset_index(drop=True) if joined else pool
    for name, part in few.groupby("benchmark", sort=False) if joined else ():
        terms = cj.pair_terms(
            process, texts_of(part), draws=notes[str(name)]["draws"], batch_size=batch_size,
            progress=False, **how,
        )  # fmt: skip
        for w in cj.WEIGHTINGS:
            now = terms.by_draw(w, made["quadrature"]).mean(axis=1)
            recorded = zip(part["id"], -part[w], now, strict=True)
            rows += [(name, i, w, then, value) for i, then, value in recorded]
    others = made["weights"] != weights_hash(process)
    return laid_over(group, pd.DataFrame(rows, columns=columns), others=others)


# -- what both chapters show ------------------------------------------------------------------


@dataclass(frozen=True)
class MethodTable:
    """Agreement by method and set, or part of one: rows of agreement, and ρ, all × 100."""

    rows: pd.DataFrame  # by method and key
    keys: list[Any]  # a set, or a set and a part of speech
    methods: list[str]
    rho: pd.DataFrame  # methods × keys
    weighting: str

    @property
    def mean(self) -> pd.Series:
        """Over the keys, by method."""
        return self.rho.mean(axis=1)

    @property
    def own(self) -> str:
        """The pooling of the model's own text encoder that agrees better with people."""
        return str(self.mean[COSINES].idxmax())

    @property
    def compared(self) -> list[str]:
        """Conjured similarity, its text encoder, and a sentence encoder where there is one."""
        return [m for m in (self.weighting, self.own, "minilm") if m in self.methods]

    @property
    def columns(self) -> list[str]:
        """What `words.statistics` takes: conjured, people, own cosine, other cosine."""
        return [self.weighting, "people", self.own, *(c for c in COSINES if c != self.own)]


def method_table(
    results: pd.DataFrame, weighting: str, methods: Iterable[str], keys: Iterable[Any], *by: str
) -> MethodTable:
    """The table of those methods and keys that there are; ``by`` are the columns of a key."""
    rows = results.set_index(["method", *by])
    rows[["spearman", "spearman_low", "spearman_high"]] *= 100
    rho = rows["spearman"].unstack(list(by))
    keys, methods = [k for k in keys if k in rho], [m for m in methods if m in rho.index]
    return MethodTable(rows, keys, methods, rho.loc[methods, keys], weighting)


def interval_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns value, low, high from rows of agreement."""
    names = {"spearman": "value", "spearman_low": "low", "spearman_high": "high"}
    return rows.rename(columns=names)[["value", "low", "high"]]


def in_hundredths(found: Mapping[Any, correlation.Correlation]) -> pd.DataFrame:
    """Columns value, low, high (× 100) and pairs, by name."""
    return pd.DataFrame({name: asdict(c) for name, c in found.items()}).T * [100, 100, 100, 1]


def with_interval(rows: pd.DataFrame) -> pd.Series:
    """ρ × 100 of rows of agreement with its interval below it, as a cell of a table."""
    low, high = (rows[f"spearman_{end}"].map("{:.0f}".format) for end in ("low", "high"))
    small = "<br><span style='font-size: 85%'>[" + low + ", " + high + "]</span>"
    return rows["spearman"].map("{:.1f}".format) + small


def styled(cells: pd.DataFrame, caption: str) -> Styler:
    """A table of such cells in small type."""
    small = [
        {"selector": "", "props": "font-size: 80%"},
        {"selector": "th.col_heading", "props": "white-space: nowrap"},
    ]
    look = {"text-align": "center", "white-space": "nowrap"}
    shown = cells.rename_axis(columns=None).fillna("–").style.set_properties(**look)
    return shown.set_table_styles(small).set_caption(caption)
