"""Human-judgement data sets, by name: from a folder, a cache, an installed package or the network.

Splits and aggregation are those of SentEval and SimCSE: of STS12 to STS16 the test sets with all
their subsets pooled ("all": one Spearman over the pooled pairs, not a mean over subsets), of
STS-B its 1,379 test pairs, of SICK-R its 4,927 test pairs. MTEB scores SICK on all 9,927 pairs:
``load_pairs("sickr", split="all")``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from conjure_tools.hub import SECONDS, from_hub
from conjure_tools.tables import examined, read_table, refuse

STS = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr")
WORDS = (
    "rg65",
    "simlex999",
    "wordsim353",
    "wordsim353_similarity",
    "wordsim353_relatedness",
    "simverb3500",
)
NAMES = {
    "rg65": "RG-65",
    "simlex999": "SimLex-999",
    "simverb3500": "SimVerb-3500",
    "wordsim353": "WordSim-353",
    "wordsim353_similarity": "WordSim-353, similarity",
    "wordsim353_relatedness": "WordSim-353, relatedness",
    **{name: name.upper() for name in STS},
    "stsb": "STS-B",
    "sickr": "SICK-R",
}
"""The sets, as pages write them."""

SHA256 = {
    "sts12": "7e07b0e93ff109e3739b18b4e8cf0d250fb69632885a9c08bba4a96d063f96c2",
    "sts13": "7a48519b448f8f96f5e74ec0b530ec3f9d09b185af33cb967631ea1ad86bec33",
    "sts14": "464c9bc3570f73fff9f6543ff339afb119cb01c5159d7972f2c247c069b61691",
    "sts15": "c4326c4f9b24e5a5e2a6ae03f2200aeb0776a4326afc21706d1f12e39436e0a2",
    "sts16": "da9efa9707793eabb7b9cc520c5e32b4f795d79cff85f5a8d76d58978b45ccdc",
    "stsb": "7a84ce6a00d4dde6b498616fb759055cd1094a5208c32c7ae938b4525bd2adba",
    "sickr": "0393a2d51247f8984c81fd7b8c0b5cc29caf3c3c7a5584fd01c576e90c6d8d12",
    "rg65": "a03c2533d9d689214963ca112fbf286487b72d274d12b6aada90831da5c7c492",
    "simlex999": "ad9e264dc5df20037c9c01a8a5630b7ff03c8592d3a49e89d74e7e85ab4f29d6",
    "wordsim353": "cf0ac44da03d87b969c5d472f518e2fb9e569eaab9979f068dc7fd44a65cc012",
    "wordsim353_similarity": "714fd939e41a52e805a84563811f62919a321d8893acfacd504684522b215cdf",
    "wordsim353_relatedness": "1c824779203bd3c41ebed7bed516153fdc93a520f905ee15668b11558711ffbc",
    "simverb3500": "774475e05dc26160b5345f0dabe943a83f8cf769d6ec9b50036730a41b61a3c7",
    "concreteness": "2b7eae2c39ba0c7de5a77c453eef545b522de221f852885c3e7523ebc7f85d9d",
    "google": "083f9c3a3d844ecdf5bc26918bb1f59d7bd672abab5c5c9703ac2121660bf120",
}
"""Of the UTF-8 CSV file ``sts/NAME.csv``, ``words/NAME.csv`` or ``analogies/NAME.csv``."""

BLOCKS = """
sts12 test MSRpar:750 MSRvid:750 SMTeuroparl:459 surprise.OnWN:750 surprise.SMTnews:399
sts13 test FNWN:189 headlines:750 OnWN:561
sts14 test deft-forum:450 deft-news:300 headlines:750 images:750 OnWN:750 tweet-news:750
sts15 test answers-forums:375 answers-students:750 belief:375 headlines:750 images:750
sts16 test answer-answer:254 headlines:249 plagiarism:230 postediting:244 question-question:209
stsb train main-captions/MSRvid:1000 main-captions/images:1000 main-forum/deft-forum:450
stsb train main-news/MSRpar:1000 main-news/deft-news:300 main-news/headlines:1999
stsb dev main-captions/MSRvid:250 main-captions/images:250 main-captions/track5.en-en:125
stsb dev main-forums/answers-forums:375 main-news/MSRpar:250 main-news/headlines:250
stsb test main-captions/MSRvid:250 main-captions/images:250 main-captions/track5.en-en:125
stsb test main-forums/answer-answer:254 main-news/MSRpar:250 main-news/headlines:250
sickr train SICK:4500
sickr trial SICK:500
sickr test SICK:4927
rg65 all N:65
simlex999 all A:111 N:666 V:222
wordsim353 all :353
wordsim353_similarity all :203
wordsim353_relatedness all :252
simverb3500 all V:3500
"""
"""The blocks of each set in the published order: split, then subset (words: part of speech) and
number of pairs. So copies without labels, which keep the order, get their labels back."""

HUB = {
    "sts12": ("mteb/sts12-sts", "a0d554a64d88156834ff5ae9920b964011b16384", "8adeff56a146"),
    "sts13": ("mteb/sts13-sts", "7e90230a92c190f1bf69ae9002b8cea547a64cca", "8ad82ad84f77"),
    "sts14": ("mteb/sts14-sts", "6031580fec1f6af667f0bd2da0a551cf4f0b2375", "8632c6260a68"),
    "sts15": ("mteb/sts15-sts", "ae752c7c21bf194d8b67fd573edf7ae58183cbe3", "ce8c28dc8c6e"),
    "sts16": ("mteb/sts16-sts", "4d8694f8f0e0100860b497b999b3dbed754a0513", "52727c895e8d"),
    "stsb": ("mteb/stsbenchmark-sts", "b0fddb56ed78048fa8b90373c8a3cfc37b684831", "0afd2df4c8d6"),
    "sickr": ("mteb/sickr-sts", "20a6d6f312dd54037fe07a32d58e5e168867909d", "443f5055471d"),
}
"""Hugging Face data set, its revision (the one that MTEB 2.26 pins) and the fingerprint of the
published scores in the published order. These copies keep the order, which is checked, but not the
subsets and splits; their STS12 to STS16 texts are tokenised (a space before each full stop)."""

GENSIM = {
    "simlex999": "simlex999.txt",
    "wordsim353": "wordsim353.tsv",
    "google": "questions-words.txt",
}
"""Files in ``gensim/test/test_data`` of the gensim wheel."""

GITHUB = "https://raw.githubusercontent.com"
SIMCROSS = f"{GITHUB}/mrmechko/simcross/ffc5c7598185be00260d81fd71274db32e6bceda"
GENSIM_DATA = f"{GITHUB}/piskvorky/gensim/4.4.0/gensim/test/test_data"
RATINGS = f"{GITHUB}/lingresearchers/LexCreativity/9ae012c00c16d9adfb2e25792ec213bbe3570227"
URLS = {
    "rg65": f"{SIMCROSS}/RG.txt",
    "simlex999": f"{SIMCROSS}/SimLex-999/SimLex-999.txt",
    "wordsim353": f"{SIMCROSS}/wordsim353/combined.tab",
    "wordsim353_similarity": f"{SIMCROSS}/wordsim353/similarity.tab",
    "wordsim353_relatedness": f"{SIMCROSS}/wordsim353/relatedness.tab",
    "simverb3500": f"{SIMCROSS}/SimLex-3500/SimVerb-3500.txt",
    "concreteness": f"{RATINGS}/Concreteness_ratings_Brysbaert_et_al_BRM.txt",
    "google": f"{GENSIM_DATA}/questions-words.txt",
}
"""Text files at fixed commits or tags; what is made of them must have the SHA-256 above."""

PAIR = re.compile(r"^([^\t\n]+)\t([^\t\n]+)\t(?:[NVA]\t)?([\d.]+)", re.MULTILINE)
RATING = re.compile(r"^([^\t\n]+)\t[01]\t([\d.]+)", re.MULTILINE)
UNLABELLED = ("concreteness", "google")  # sets without split, subset or part of speech


def load_pairs(name: str, *, split: str | None = None) -> pd.DataFrame:
    """A benchmark, from the first place that has it.

    The places: the folder ``CONJURE_DATA``; the cache (folder ``CONJURE_CACHE``, by default
    ``~/.cache/conjure_lib``); an installed gensim, which carries SimLex-999 and WordSim-353; the
    Hugging Face hub (STS12 to SICK-R) or GitHub (words), after which the set is in the cache.

    Args:
        name: one of `STS` or `WORDS`.
        split: None for what papers report (STS-B and SICK-R: test; otherwise everything), "all",
            or "train", "dev", "test" where there are such.

    Returns:
        Columns id (stable, such as "stsb-test-0001"), text1, text2, score (mean human rating on
        its native scale), subset ("" where there is none) and, for words, pos (N, V, A or "").

    Raises:
        ValueError: an unknown set or split; a damaged file, named with the row where possible.
        FileNotFoundError: the set cannot be had; the message says what to set.

    >>> from conjure_tools.benchmarks import load_pairs
    >>> load_pairs("simlex999").columns.tolist()
    ['id', 'text1', 'text2', 'score', 'subset', 'pos']
    """
    if name not in STS + WORDS:
        known = ", ".join(STS + WORDS)
        raise ValueError(f"benchmark must be one of {known}, or a file that is there, not {name!r}")
    (first, second), _ = _columns(name)
    table, words = _table(name).rename(columns={first: "text1", second: "text2"}), name in WORDS
    table["split"] = "all" if words else table["split"].replace("trial", "dev")
    number = (table.groupby("split").cumcount() + 1).map("{:04d}".format)
    table["id"] = f"{name}-" + ("" if words else table["split"] + "-") + number
    if words:
        table["subset"] = ""
    splits = dict.fromkeys([*table["split"], "all"])
    wanted = split or ("all" if words else "test")
    if wanted not in splits:
        raise ValueError(f"{name} has the splits {', '.join(splits)}, not {wanted!r}")
    rows = table if wanted == "all" else table[table["split"] == wanted]
    columns = ["id", "text1", "text2", "score", "subset", *(["pos"] if words else [])]
    return rows[columns].reset_index(drop=True)


def load_concreteness() -> pd.Series:
    """Concreteness of 39,954 English words, 1 to 5 (Brysbaert et al., 2014), indexed by word.

    Raises:
        ValueError, FileNotFoundError: as `load_pairs`.
    """
    return _table("concreteness").set_index("word")["concreteness"]


def load_analogies() -> pd.DataFrame:
    """The Google analogies (Mikolov et al. 2013): "a is to b as c is to d", 14 categories.

    From the first place that has them, as in `load_pairs`; gensim carries them.

    Returns:
        Columns category, a, b, c, d, in the published order: 19,544 questions.

    Raises:
        ValueError, FileNotFoundError: as `load_pairs`.
    """
    return _table("google")


def _columns(name: str) -> tuple[list[str], str | None]:
    """Names of the text columns and of the number, if there is one, in the CSV file of a set."""
    if name == "concreteness":
        return ["word"], "concreteness"
    if name == "google":
        return ["category", *"abcd"], None
    stem = "sentence" if name in STS else "word"
    return [f"{stem}1", f"{stem}2"], "score"


def _table(name: str) -> pd.DataFrame:
    """A set in the columns of its CSV file, from the first place that has it."""
    folder = "sts" if name in STS else "analogies" if name == "google" else "words"
    path = f"{folder}/{name}.csv"
    given = os.environ.get("CONJURE_DATA")
    cache = os.environ.get("CONJURE_CACHE") or Path.home() / ".cache" / "conjure_lib"
    if given and (file := Path(given, path)).is_file():
        return _published(file, name, exact=True)
    if (file := Path(cache, path)).is_file():
        return _published(file, name, exact=name not in HUB)
    try:
        table, origin = _fetch(name)
    except Exception as error:  # whatever the network, the hub's client or a parser may raise
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        kind = ["split", "subset"] if name in STS else ["pos"] if name in WORDS else []
        texts, number = _columns(name)
        columns = ", ".join([*texts, *kind, *([number] if number else [])])
        raise FileNotFoundError(
            f"{name} is not at hand: set CONJURE_DATA to a folder that holds {path} (columns "
            f"{columns}), {'install gensim, ' if name in GENSIM else ''}or let it be fetched once "
            f"over the network. CONJURE_DATA is {given!r}; fetching failed: {reason}"
        ) from error
    table = _labelled(table, name, origin)
    content = table.to_csv(index=False, lineterminator="\n").encode()
    if name not in HUB and hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise ValueError(f"{origin} is not the published {name}: its rows differ")
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(file)
    return table


def _published(file: Path, name: str, *, exact: bool) -> pd.DataFrame:
    """A local CSV file, if it is the published one or, unless ``exact``, the hub's copy of it."""
    texts, number = _columns(name)
    found = read_table(file, [*texts, *([number] if number else [])])
    refuse(found.faults, file, found.cells)
    table = _checked(found.cells, file, texts, number)
    if hashlib.sha256(file.read_bytes()).hexdigest() == SHA256[name]:
        return table
    if not exact:
        return _labelled(table, name, str(file))
    raise ValueError(f"{file} is not the published file of {name}: its SHA-256 differs")


def _fetch(name: str) -> tuple[pd.DataFrame, str]:
    """Texts and number of each row of a set that is not in a file here, and where it is from."""
    if name in HUB:
        return _from_hub(name), f"{HUB[name][0]} at {HUB[name][1][:8]}"
    text, origin = _from_gensim(name), "the copy in gensim"
    if text is None:
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        with urllib.request.urlopen(URLS[name], timeout=SECONDS) as answer:
            text, origin = answer.read().decode("utf-8"), URLS[name]
    if name == "google":
        return _analogies(text), origin
    texts, number = _columns(name)
    rows = (RATING if len(texts) == 1 else PAIR).findall(text.replace("\r", ""))
    rows = rows[1:] if name == "rg65" else rows  # that file repeats its first pair
    table = pd.DataFrame(rows, columns=[*texts, number])
    table[number] = table[number].astype(float)
    return table, origin


def _analogies(text: str) -> pd.DataFrame:
    """The questions of word2vec's file: a line ": category", then four words a line."""
    parts = re.split(r"^: (\S+)\s*$", text, flags=re.MULTILINE)[1:]
    lists = zip(parts[::2], parts[1::2], strict=True)
    rows = [[category, *line.split()] for category, lines in lists for line in lines.split("\n")]
    return pd.DataFrame([r for r in rows if len(r) > 1], columns=["category", *"abcd"])


def _from_gensim(name: str) -> str | None:
    """A file of gensim's test data, without importing gensim; None if it is not installed."""
    spec = find_spec("gensim") if name in GENSIM else None
    for folder in (spec and spec.submodule_search_locations) or []:
        file = Path(folder, "test", "test_data", GENSIM[name])
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return None


def _from_hub(name: str) -> pd.DataFrame:
    """sentence1, sentence2 and score of all splits in order, from JSON lines or Parquet."""
    from huggingface_hub import snapshot_download

    kinds = (".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.gz")
    repository, revision, _ = HUB[name]
    patterns = [f"*{kind}" for kind in kinds]

    def fetch(commit: str | None, local: bool) -> str:
        options: dict[str, Any] = {
            "revision": commit,
            "local_files_only": local,
            "allow_patterns": patterns,
        }
        return snapshot_download(repository, repo_type="dataset", **options)

    folder = from_hub(repository, revision, fetch, kind="dataset")
    files: list[Path] = []
    for split in ("train", "validation", "test") if name == "stsb" else ("test",):
        found = sorted(f for f in folder.rglob(f"{split}*") if f.name.endswith(kinds))
        files += [f for f in found if f.suffix == found[0].suffix]  # one format, if there are two
    exact: dict[str, Any] = {"lines": True, "dtype": False, "precise_float": True}
    tables = [
        pd.read_parquet(f) if f.suffix == ".parquet" else pd.read_json(f, **exact) for f in files
    ]
    return pd.concat(tables, ignore_index=True)[["sentence1", "sentence2", "score"]]


def _labelled(table: pd.DataFrame, name: str, origin: str) -> pd.DataFrame:
    """A copy without labels in the columns of the CSV file: split and subset, or pos, by position.

    Raises:
        ValueError: the number of pairs is not the published one, or (hub) the order of scores.
    """
    if name in UNLABELLED:
        return table
    texts, number = _columns(name)
    labels = _labels(name)
    if len(table) != len(labels):
        raise ValueError(f"{origin} has {len(table)} pairs: {name} has {len(labels)}")
    table = _checked(table, origin, texts, number)
    if name in HUB and _fingerprint(table["score"]) != HUB[name][2]:
        raise ValueError(f"{origin} does not have the published scores of {name} in their order")
    split, label = zip(*labels, strict=True)
    if name in WORDS:
        return table.assign(pos=label)[[*texts, "pos", number]]
    return table.assign(split=split, subset=label)[["split", "subset", number, *texts]]


def _labels(name: str) -> list[tuple[str, str]]:
    """Split and label of each row of a set, from `BLOCKS`."""
    lines = [line.split(" ") for line in BLOCKS.strip().splitlines()]
    blocks = [(line[1], *b.split(":")) for line in lines if line[0] == name for b in line[2:]]
    return [(split, label) for split, label, count in blocks for _ in range(int(count))]


def _fingerprint(scores: pd.Series) -> str:
    """Start of the SHA-256 of the scores in their order: no tokeniser changes it."""
    return hashlib.sha256(" ".join(f"{s:.3f}" for s in scores).encode()).hexdigest()[:12]


def _checked(
    table: pd.DataFrame, origin: Path | str, texts: list[str], number: str | None
) -> pd.DataFrame:
    """The table with stripped texts and float numbers; ValueError names the first bad row."""
    if table.index.name is None:
        table = table.set_axis(pd.RangeIndex(1, len(table) + 1, name="row"))
    checked, faults = examined(table, texts, number)
    refuse(faults, origin, table)
    return checked.reset_index(drop=True)
