"""What models read of texts: every kind of tokenizer, pairs that they cannot tell apart, emoji."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import letter_tokenizer, random_clip, random_unet, random_vae
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import conjure_lib as cj
from conjure_lib import reading
from conjure_lib.reading import Reader, UnreadWarning, fault, read
from conjure_tools import runs
from conjure_tools.cli import main
from training.tokenizer import emoji_names, read_emoji

FOLDER = Path(__file__).parents[1] / "data/emoji-diffusion"
SMALL: dict[str, Any] = {"steps": 2, "draws": 2}
SAME = [
    ("POLISH", "polish"),
    ("か", "が"),
    ("dog " * 31 + "x", "dog " * 31 + "y"),
    ("🜏", "🜐"),
    ("①", "②"),
]


def bytes_bpe() -> Any:
    """CLIP's kind: bytes, small letters, canonical composition; nothing is unknown."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([*alphabet, *(f"{a}</w>" for a in alphabet)])}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    tokenizer = Tokenizer(
        models.BPE(vocab, [], unk_token="<|endoftext|>", end_of_word_suffix="</w>")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def sentencepiece() -> Any:
    """T5's kind: compatibility forms are folded, and what is not in the vocabulary is unknown."""
    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,-'éかが"
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((c, -2.0) for c in letters)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )


def dropping() -> Any:
    """Letters alone, and no token for what is unknown: it vanishes."""
    vocab = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class Slow:
    """A tokenizer that does not say where its tokens come from."""

    is_fast = False
    all_special_ids = (0,)

    def num_special_tokens_to_add(self) -> int:
        return 2

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        known = "abcdefghijklmnopqrstuvwxyz"
        rows = [[known.find(c) + 1 for c in text.lower() if c not in " \u200b"] for text in texts]
        return {"input_ids": rows}


@pytest.fixture(scope="module")
def embedded() -> list[Reader]:
    return [Reader("tokenizer", AutoTokenizer.from_pretrained(FOLDER / "tokenizer"), 32)]


KINDS = {"bytes": bytes_bpe, "sentencepiece": sentencepiece, "dropping": dropping, "slow": Slow}


def of(kind: str, text: str, length: int = 32) -> reading.Reading:
    return read([Reader("tokenizer", KINDS[kind](), length)], [text])[0]


# -- one tokenizer -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "count", "lost", "folded"),
    [
        ("bytes", "a 🐶 é か", None, [], []),
        ("bytes", "e\u0301", None, [], []),  # the same letter, written in two characters
        ("bytes", "Dog", None, [], ["capitals"]),
        ("bytes", "a " * 40, "32 of 40", ["the last 8 are cut ('a a a a a a a a')"], []),
        ("bytes", "a <|endoftext|>", "1 of 2", ["reads '<|endoftext|>' as signs of its own"], []),
        ("sentencepiece", "dog </s>", None, ["'</s>' as signs of its own and not as text"], []),
        ("slow", "ＤＯＧ", "0 of 3", ["does not read 'ＤＯＧ'"], []),
        ("sentencepiece", "Dog か が é", None, [], []),
        ("sentencepiece", "dog 🐶", "5 of 6", ["does not read '🐶'"], []),
        ("sentencepiece", "犬と dog", None, ["does not read '犬と'"], []),
        ("sentencepiece", "a２ ﬁ", None, [], ["'ﬁ' is read as 'fi'", "'２' is read as '2'"]),
        ("sentencepiece", "a\u200bb", None, [], ["U+200B is read as a space"]),
        ("sentencepiece", "a\u0001b", None, ["does not read U+0001"], []),
        ("dropping", "a 1 dog 🐶!", "4 of 4", ["does not read '1', '🐶!'"], []),
        ("dropping", "a\u200bb", "2 of 2", ["does not read U+200B"], []),
        ("slow", "dog éa", "4 of 5", ["does not read 'éa'"], []),
        ("slow", "Dog a\u200bb", "5 of 5", ["does not read U+200B"], ["capitals"]),
        ("slow", "dog " * 11, "30 of 33", ["the last 3 are cut ('dog')"], []),
    ],
)
def test_what_is_lost_is_named(
    kind: str, text: str, count: str | None, lost: list[str], folded: list[str]
) -> None:
    found = of(kind, text)
    assert count is None or str(found) == count
    assert len(found.lost) == len(lost) and len(found.folded) == len(folded)
    for parts, said in ((lost, found.lost), (folded, found.folded)):
        assert all(part in sentence for part, sentence in zip(parts, said, strict=True)), said


@pytest.mark.parametrize(
    ("text", "count", "lost"),
    [
        ("snow leopard", "2 of 2", ""),
        ("が", "1 of 1", "reads 'が' as 'か'"),
        ("カ\u3099", "1 of 1", "does not read U+3099"),
        ("naïve", "1 of 1", "reads 'ï' as 'i'"),
        ("й and ё", "3 of 3", "reads 'й' as 'и', 'ё' as 'е'"),
        ("🜏 x🜏y z", "1 of 3", "does not read '🜏', 'x🜏y'"),
        ("漢字 龘", "1 of 3", "does not read '字', '龘'"),
        ("a \ufeffdog\u00ad", "2 of 2", "does not read U+FEFF, U+00AD"),
        ("\ue000", "0 of 0", "does not read U+E000"),
        ("a\0b", "1 of 1", "does not read U+0000"),
        ("[MASK] dog", "1 of 2", "reads '[MASK]' as signs of its own and not as text"),
        ("👋🏽", "2 of 2", "does not read '🏽'"),
        ("❤\ufe0f", "2 of 2", ""),
    ],
)
def test_the_embedded_model(embedded: list[Reader], text: str, count: str, lost: str) -> None:
    (found,) = read(embedded, [text])
    assert str(found) == count
    assert not found.lost if not lost else found.lost[0].endswith(lost)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reading.warn_unread(embedded, [text])
    assert [str(w.message) for w in caught] == ([f"{found.lost[0]}, from {text!r}"] if lost else [])


def test_a_text_is_folded_only_where_it_is_read(embedded: list[Reader]) -> None:
    for text in ("ｃａｔ", "𝓬𝓪𝓽", "ⓒⓐⓣ", "Ⅷ", "ᏣᎳᎩ", "①", "ＣＡＴ", "dog " * 30 + "CAT", "dog Ⅷ"):
        (found,) = read(embedded, [text])
        assert found.lost and not found.folded, found
    (found,) = read(embedded, ["CAT Ⅷ ｃａｔ"])
    assert found.folded == ("capitals are read as small letters",)


def test_signs_of_the_model_are_told_from_what_is_unknown(embedded: list[Reader]) -> None:
    found = read(embedded, ["🜏 [SEP][MASK] dog", "[mask]"])
    assert found[0].lost == (
        "the text encoder does not read '🜏'",
        "the text encoder reads '[SEP][MASK]' as signs of its own and not as text",
    )
    assert not found[1].lost and found[1].read == 3  # what is no sign is text


def test_warnings_stay_short(process: cj.GenerativeProcess) -> None:
    pair = "x" * 300, "dog " * 31 + "y" * 300
    with pytest.warns(UnreadWarning) as caught:
        cj.distance(process, *pair, **SMALL)
        cj.trace(process, pair[0], "x" * 299 + "y", steps=2)
    assert max(len(str(one.message)) for one in caught) < 400


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "embedded"])
def test_what_is_said_to_be_read_can_be_given_back(kind: str, embedded: list[Reader]) -> None:
    """Texts of which nothing is lost or folded come back from their tokens; others do not."""
    readers = embedded if kind == "embedded" else [Reader("tokenizer", KINDS[kind](), 32)]
    # no emoji, which come back as their names
    alphabet = [
        *"abcdef gh ij XYZ12.,-' éôñ½²ﬁㅏがかいйё漢字龘ﾊ①",
        "e\u0301",
        "\u200b",
        "\u0001",
        "\u0945",
    ]
    chance, kept = random.Random(0), 0
    texts = ["".join(chance.choices(alphabet, k=chance.randint(1, 8))) for _ in range(600)]
    texts = [text for text in texts if not fault(text)]
    for text, found in zip(texts, read(readers, texts), strict=True):
        ids = readers[0].tokenizer(text, add_special_tokens=False)["input_ids"]
        back = readers[0].tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        equal = plain(back.replace("</w>", " ")) == plain(text)
        assert equal == (not found.lost and not found.folded), (text, back, found)
        kept += equal
    assert 50 < kept < len(texts) - 50  # both outcomes were tried


def plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())


def test_a_text_is_lost_where_no_encoder_reads_it() -> None:
    short, long = Reader("tokenizer", bytes_bpe(), 8), Reader("tokenizer_2", sentencepiece(), 64)
    text = "dog 🐶 and a"
    whole, cut = read([long], [text])[0], read([short], [text])[0]
    assert "'🐶'" in whole.lost[0] and "are cut" in cut.lost[0]
    (both,) = read([short, long], [text])
    assert both.lost == () and both.folded == ("tokenizer reads 8 of 11 tokens",)
    (none,) = read([long, Reader("tokenizer_3", dropping(), 64)], [text])
    assert none.lost == ("none of the text encoders (tokenizer_2, tokenizer_3) reads '🐶'",)
    assert len(both.tokens) == 2
    told = read([short, long], ["Dog", "dog"])
    assert not reading.same(*told)  # the second tells capitals
    assert reading.same(*read([short], ["Dog", "dog"]))


def test_all_tokenizers_of_a_pipeline_are_asked() -> None:
    from pipelines import make

    expected = {"StableDiffusionXLPipeline": 2, "StableDiffusion3Pipeline": 3, "FluxPipeline": 2}
    for name, readers in expected.items():
        process = cj.from_pipeline(make(name))
        assert len(process.readers) == readers
        with pytest.warns(UnreadWarning, match="none of the text encoders .* reads '🐶'"):
            process.encode(["a 🐶 dog"])


# -- through the library --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the text encoder")
@pytest.mark.parametrize("pair", SAME, ids=ascii)
def test_pairs_of_the_same_tokens_say_so(process: cj.GenerativeProcess, pair: Any) -> None:
    with pytest.warns(UnreadWarning, match="are the same tokens to the model"):
        found = cj.distance(process, *pair, **SMALL)
    assert found.same_tokens and (found.value, found.stderr) == (0, 0)
    assert str(found) == "not told apart: the texts differ, and are the same tokens to the model"
    with pytest.warns(UnreadWarning, match="are the same tokens"):
        matrix = cj.distance_matrix(process, [*pair, "a cat"], **SMALL)
    assert np.argwhere(matrix.same_tokens).tolist() == [[0, 1], [1, 0]]
    assert [str(one) for one in matrix.readings][2] == "2 of 2"
    scorer = cj.Scorer(process, **SMALL)
    for call in (
        lambda: scorer.predict([pair]),
        lambda: scorer.encode(list(pair)),
        lambda: cj.trace(process, *pair, steps=2),
    ):
        with pytest.warns(UnreadWarning, match="are the same tokens"):
            call()


def test_equal_texts_and_others_say_nothing(process: cj.GenerativeProcess) -> None:
    same, other = cj.distances(process, [("a dog", "a dog"), ("a dog", "a cat")], **SMALL)
    assert not same.same_tokens and not other.same_tokens
    assert str(same) == "0 ± 0 (draws) ± 0 (steps)" and " ± " in str(other)


def test_many_texts_are_counted(embedded: list[Reader]) -> None:
    texts = [f"🜏{i}" for i in range(40)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reading.warn_unread(embedded, texts)
    assert len(caught) == 4 and str(caught[3].message) == "37 more texts are not read whole"


def test_a_run_has_columns_of_what_was_read(tmp_path: Path, process: cj.GenerativeProcess) -> None:
    rows = [("a", "POLISH", "polish"), ("b", "🜏 dog", "a cat"), ("c", "dog " * 33, "a cat")]
    pairs = pd.DataFrame(rows, columns=["id", "text1", "text2"])
    with pytest.warns(
        UnreadWarning, match="2 texts are not read whole .* 1 pairs differ"
    ) as caught:
        run = runs.score(process, pairs, tmp_path, draws=1, steps=2, report=lambda _: None)
    said = str(caught[0].message)
    assert f"('🜏 dog', '{'dog ' * 19}dog…')" in said and "('POLISH' and 'polish')" in said
    table = run.distances()
    assert table["same_tokens"].tolist() == [True, False, False]
    assert table["read1"].tolist() == ["1 of 1", "1 of 2", "30 of 33"]
    assert table["read2"].tolist() == ["1 of 1", "2 of 2", "2 of 2"]
    assert "'🜏'" in table["lost1"][1] and "are cut" in table["lost1"][2]
    assert table["lost2"].tolist() == ["", "", ""]
    assert run.record["texts_not_read_whole"] == 2 and run.record["pairs_of_same_tokens"] == 1


@pytest.mark.filterwarnings("default")
def test_the_command_line_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--steps", "2", "--draws", "2"]
    assert main(["compare", "POLISH か", "polish が", *settings]) == 0
    out, err = capsys.readouterr()
    assert "not told apart: the texts differ" in out and "0 ± 0" not in out
    assert "tokens read: 2 of 2 and 2 of 2; capitals are read as small letters" in out
    assert "reads 'が' as 'か'" in err and "are the same tokens" in err
    assert main(["compare", "🐱", "🜏 dog", *settings, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["read"] == ["2 of 2", "1 of 2"] and not record["same_tokens"]
    assert record["lost"][0] == [] and "'🜏'" in record["lost"][1][0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (" \t\n\u00a0\u3000", "is blank"),
        ("\u200b", "nothing of U+200B can be seen"),
        ("\ufeff \u2060\u200d\u00ad", "nothing of U+FEFF U+2060 U+200D U+00AD can be seen"),
        ("\u3164\u115f\uffa0\u2800", "can be seen"),
        ("\ufe0f", "can be seen"),
        ("\U000e0041", "can be seen"),
        ("a \ud83d", "half a character at position 2 (U+D83D alone)"),
        ("\udce9t\xe9", "half a character at position 0 (U+DCE9 alone)"),
    ],
    ids=ascii,
)
def test_what_is_no_text(process: cj.GenerativeProcess, text: str, why: str) -> None:
    for call in (lambda: cj.distance(process, "a dog", text), lambda: process.generate([text])):
        with pytest.raises(ValueError, match=f"(prompt .|y2) .*{re.escape(why)}"):
            call()
    columns = ["id", "text1", "text2"]
    pairs = pd.DataFrame([("a", "dog", text)], columns=columns, dtype=object)  # str takes no halves
    with pytest.raises(ValueError, match=f"text2 of the pair 'a' .*{re.escape(why)}"):
        runs.score(process, pairs, Path("never"))


# -- emoji -----------------------------------------------------------------------------------------


def test_emoji_are_read_as_their_names(embedded: list[Reader]) -> None:
    tokenizer = embedded[0].tokenizer
    words = json.loads((FOLDER.parent / "emoji-sample/words.json").read_text(encoding="utf-8"))
    others = [
        {"text": "❤️", "name": "red heart"},
        {"text": "👋🏽", "name": "waving hand"},
        {"text": "🧑🏿\u200d🚒", "name": "firefighter"},
        {"text": "👩🏽\u200d🚀", "name": "woman astronaut"},
        {"text": "👨\u200d👩\u200d👧", "name": "family man, woman, girl"},
        {"text": "🏳️\u200d🌈", "name": "rainbow flag"},
        {"text": "🇩🇪", "name": "flag Germany"},
        {"text": "🐶🐱 and🍕x", "name": "dog face cat face and pizza x"},
        {"text": "3️⃣", "name": "keycap 3"},
        {"text": "👩\u200d🐶", "name": "woman dog face"},  # a sequence that has no name
    ]
    assert len(words) == 64
    for one in words + others:
        assert tokenizer.tokenize(one["text"]) == tokenizer.tokenize(one["name"]), one
    assert all("[UNK]" not in tokenizer.tokenize(one["text"]) for one in words + others)


def test_other_texts_keep_their_tokens(embedded: list[Reader]) -> None:
    content = json.loads((FOLDER / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    rules = content["normalizer"]["normalizers"]
    content["normalizer"] = rules[-1]
    assert rules[-1]["type"] == "BertNormalizer" and len(rules) > 1900
    before = Tokenizer.from_str(json.dumps(content))
    texts = [chr(i) for i in range(0x2FF)] + [
        "♥ ♦ ♣ ♠ © ® ™ → ½",
        "A man’s “café” – naïve…",
        "日本語",
    ]
    data = os.environ.get("CONJURE_DATA")
    for file in sorted(Path(data).rglob("*.csv"))[:12] if data else []:
        texts += file.read_text(encoding="utf-8", errors="replace").splitlines()[:500]
    texts = [t for t in texts if not any(r["pattern"].get("String", "\0") in t for r in rules[:-1])]
    found = embedded[0].tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [one.ids[:32] for one in before.encode_batch(texts, add_special_tokens=False)] == [
        ids[:32] for ids in found
    ]


def test_an_emoji_conjures_what_its_name_does(process: cj.GenerativeProcess) -> None:
    ranked = cj.Scorer(process, steps=4, draws=2).rank("🐶", ["🍕", "🚂", "dog"])
    assert ranked[0]["corpus_id"] == 2


def test_the_recipe_gives_a_tokenizer_its_names(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    shutil.copy(FOLDER / "model_index.json", folder)
    for file in (FOLDER / "tokenizer").iterdir():
        shutil.copy(file, folder / "tokenizer")
    entries = {
        "🐶": {"tts": ["dog face"]},
        "🏃\u200d♂️": {"tts": ["man: running"]},
        "👋🏽": {"tts": ["waving hand: medium skin tone"]},  # a variant: the hand alone is named
        "♥": {"tts": ["heart suit"]},  # is read as it is
        "½": {"tts": ["one half"]},  # is no emoji
    }
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps({"annotations": {"annotations": entries}}), encoding="utf-8")
    names = emoji_names(file)
    assert names == {"🐶": "dog face", "🏃\u200d♂": "man running", "♥": "heart suit"}
    for _ in range(2):  # the second time from a tokenizer that has rules
        read_emoji(folder, names)
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        assert tokenizer.tokenize("🐶 🏃🏾\u200d♂️ ♥ 🐱") == [
            *("dog", "face", "man", "running", "♥", "[UNK]")
        ]
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    assert sorted(line.split()[1] for line in sums) == [
        *("model_index.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")
    ]


def test_a_pipeline_with_another_tokenizer_warns_too(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    clip = letter_tokenizer(tmp_path / "vocabulary")
    pipeline = StableDiffusionPipeline(
        vae=random_vae(),
        text_encoder=random_clip(clip),
        tokenizer=clip,
        unet=random_unet(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with pytest.warns(UnreadWarning) as caught:
        found = cj.distance(cj.from_pipeline(pipeline), "dog 🐶", "dog 🐱", **SMALL)
    assert found.same_tokens == ("not told apart" in str(found))
    assert any("'🐶'" in str(w.message) for w in caught)
