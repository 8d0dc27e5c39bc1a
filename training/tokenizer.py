"""Emoji for the tokenizer: each is read as its name in the Unicode CLDR, such as "dog face".

    python -m training.tokenizer FOLDER --work _training    # of a model that is trained already

The names become rules of the tokenizer's normalizer, which stands in tokenizer.json: whatever reads
that file, in Python or in a browser, reads emoji. Every other text keeps its tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import regex
from tokenizers import Tokenizer

from training.pipeline import write_checksums
from training.sources import ANNOTATIONS, DERIVED, fetch

EMOJI = regex.compile(r"[\p{Emoji}\N{ZERO WIDTH JOINER}\u20e3\U000e0020-\U000e007f]+")
SELECTOR = "\ufe0f"  # asks for the coloured picture; it stands before, after or in a sequence
TONES = "\U0001f3fb-\U0001f3ff"
COLOURED = (
    f"(?<=[☀-➿\U0001f000-\U0001f3fa\U0001f400-\U0001ffff])[{TONES}]"  # a tone after an emoji
)
CLASS = "PreTrainedTokenizerFast"  # takes tokenizer.json as it stands, in every release


def emoji_names(*annotations: Path) -> dict[str, str]:
    """Emoji to their names: single ones, sequences and flags, without variants of skin tone."""
    names = {}
    for file in annotations:
        (content,) = json.loads(file.read_text(encoding="utf-8")).values()
        for text, entry in content["annotations"].items():
            bare = text.replace(SELECTOR, "")
            toned = len(bare) > 1 and regex.search(f"[{TONES}]", bare)
            if "tts" in entry and EMOJI.fullmatch(bare) and not toned:
                names[bare] = entry["tts"][0].replace(":", "")
    return names


def rules(names: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a normalizer does to read ``names``: the longest first, whose parts have names too."""
    ordered = sorted(names, key=lambda text: (-len(text), text))
    dropped = [("String", SELECTOR, ""), ("Regex", COLOURED, "")]
    named = [("String", text, f" {names[text]} ") for text in ordered]
    return [
        {"type": "Replace", "pattern": {kind: pattern}, "content": content}
        for kind, pattern, content in [*dropped, *named]
    ]


def read_emoji(folder: Path, names: Mapping[str, str]) -> None:
    """Give the tokenizer of the pipeline in ``folder`` its rules; ``SHA256SUMS`` follow.

    Emoji that it knows as they are, such as ♥, stay what they are.
    """
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    own = content["normalizer"]
    if own["type"] == "Sequence":  # it has rules already
        own = own["normalizers"][-1]
    content["normalizer"] = own
    plain = Tokenizer.from_str(json.dumps(content))
    unknown = {text: name for text, name in names.items() if not _knows(plain, text)}
    content["normalizer"] = {"type": "Sequence", "normalizers": [*rules(unknown), own]}
    _write(file, content)
    _name_class(folder / "tokenizer" / "tokenizer_config.json", "tokenizer_class", CLASS)
    _name_class(folder / "model_index.json", "tokenizer", ["transformers", CLASS])
    write_checksums(folder)


def _knows(tokenizer: Tokenizer, text: str) -> bool:
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    return bool(tokens) and "[UNK]" not in tokens


def _name_class(file: Path, key: str, value: Any) -> None:
    """A class that builds its own normalizer, as BERT's does, would leave the rules out."""
    _write(file, json.loads(file.read_text(encoding="utf-8")) | {key: value})


def _write(file: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.tokenizer", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("_training"), help="holds sources/")
    options = parser.parse_args(None if arguments is None else list(arguments))
    sources = options.work / "sources"
    fetch(sources)
    read_emoji(options.folder, emoji_names(sources / ANNOTATIONS, sources / DERIVED))


if __name__ == "__main__":
    main()
