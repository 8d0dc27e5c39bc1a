"""Tables of pairs: what is read is what was written, or an error that names file and line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conjure_tools import cluster, runs
from conjure_tools.cli import main
from conjure_tools.tables import read_pairs, write_dropped

PAIRS = [("a cat", "a dog", 3.0), ("a boat, red", 'a "ship"', 4.5), ("null", "007", 0.0)]


def write(folder: Path, content: str | bytes, name: str = "pairs.csv") -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def rows(table: pd.DataFrame) -> list[tuple]:
    """(text1, text2) or (text1, text2, score) of each row."""
    columns = [c for c in ("text1", "text2", "score") if c in table]
    return [tuple(row) for row in table[columns].to_numpy().tolist()]


def as_csv(table: list[tuple], header: str = "text1,text2,score", **options: Any) -> str:
    text = io.StringIO()
    csv.writer(text, **options).writerows([header.split(","), *table])
    return text.getvalue()


# Text files that are read


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # encodings and line ends
        ("\ufefftext1,text2\na cat,a dog\n", [("a cat", "a dog")]),
        ("text1,text2\ncafé,bar\n".encode("utf-16"), [("café", "bar")]),
        ("\ufefftext1,text2\ncafé,bar\n".encode("utf-16-be"), [("café", "bar")]),
        ("text1,text2\ncafé,bar\n".encode("utf-32"), [("café", "bar")]),
        ("text1,text2\r\na cat,a dog\r\n", [("a cat", "a dog")]),
        ("text1,text2\ra cat,a dog\rx,y", [("a cat", "a dog"), ("x", "y")]),
        ("text1,text2\na\u2028b,c\x85d\n", [("a\u2028b", "c\x85d")]),
        # headers
        ("Text1,TEXT2,Score\na cat,a dog,1\n", [("a cat", "a dog", 1.0)]),
        ("text1, text2\na cat, a dog\n", [("a cat", "a dog")]),
        ("# pairs v2\ntext1,text2\na cat,a dog\n", [("a cat", "a dog")]),
        ("#text1\ttext2\na cat\ta dog\n", [("a cat", "a dog")]),
        ("sep=;\ntext1;text2\na cat;a, dog\n", [("a cat", "a, dog")]),
        ("word1,word2,rating\na,b,1\n", [("a", "b", 1.0)]),
        ("id\tsentence1\tsentence2\n7\ta\tb\n", [("a", "b")]),
        ("sentence_A|sentence_B\na|b, c\n", [("a", "b, c")]),
        ("word1 , word2 ,score\na red cat,a dog,1\n", [("a red cat", "a dog", 1.0)]),
        ("word1   ;word2   ;score   ;pos\na cat;b;1;N\n", [("a cat", "b", 1.0)]),
        ("text1 \ttext2 \t score\na b\tc d\t1\n", [("a b", "c d", 1.0)]),
        ("word1   word2   score\nsun   light   2\n", [("sun", "light", 2.0)]),
        (",text1,text2,score\n0,a cat,a dog,1\n", [("a cat", "a dog", 1.0)]),
        # delimiters and decimal commas
        ("text1\ttext2\tscore\na, b\tc;d\t1\n", [("a, b", "c;d", 1.0)]),
        ("text1;text2;score\na cat;a dog;1,5\n", [("a cat", "a dog", 1.5)]),
        ('text1,text2,score\na cat,a dog,"3,5"\n', [("a cat", "a dog", 3.5)]),
        ("text1,text2,score\na,b,-1e-2\nc,d,.5\n", [("a", "b", -0.01), ("c", "d", 0.5)]),
        ("text1,text2\na\tb,c\n", [("a\tb", "c")]),
        # cells
        ("text1,text2,score\nnull,NA,1\nnan,None,2\n", [("null", "NA", 1.0), ("nan", "None", 2.0)]),
        ("text1,text2,score\n007,1e5,4\n", [("007", "1e5", 4.0)]),
        ("text1,text2\nTom & J; x,a < b > c\n", [("Tom & J; x", "a < b > c")]),
        ("text1,text2,score\na,b,3,\nc,d,4,\n", [("a", "b", 3.0), ("c", "d", 4.0)]),
        ("text1,text2,score\na,b,\nc,d,\n", [("a", "b"), ("c", "d")]),
        ("text1,text2\n\na,b\n  \n,\nc,d\n\n", [("a", "b"), ("c", "d")]),
        # quotes that enclose
        ('text1,text2\n"a cat\nasleep",a dog\n', [("a cat\nasleep", "a dog")]),
        ('text1,text2\n"a, b","say ""hi"""\n', [("a, b", 'say "hi"')]),
        ('text1,text2\n"a, b", "c, d"\n', [("a, b", "c, d")]),
        ('text1,text2\n5" nail,a tack\n', [('5" nail', "a tack")]),
        ('text1,text2\n"say \\"hi\\"",x\n"\\"z\\", w",v\n', [('say "hi"', "x"), ('"z", w', "v")]),
        ('text1,text2\n"C:\\new, old",x\n', [("C:\\new, old", "x")]),
        ('text1,text2,score\n"a,\n\nc, d,",e,3\nf,g,4\n', [("a,\n\nc, d,", "e", 3), ("f", "g", 4)]),
        ('text1,text2\n"a, b\nc, d","e"\n', [("a, b\nc, d", "e")]),
        ('text1,text2,score\n"a, b\nc, d","e",3\n', [("a, b\nc, d", "e", 3.0)]),
        # no header, and a number where only a score can be
        ("gem;jewel;3.94\ncord;smile;0.02\n", [("gem", "jewel", 3.94), ("cord", "smile", 0.02)]),
        ("tiger\tcat\t7.35\n", [("tiger", "cat", 7.35)]),
        ("sun sunlight 50.000000\nday dawn 2.0 \n", [("sun", "sunlight", 50), ("day", "dawn", 2)]),
    ],
)  # fmt: skip
def test_what_people_have_is_read(
    content: str | bytes, expected: list[tuple], tmp_path: Path
) -> None:
    for name in ("pairs.csv", "pairs.TXT"):
        assert rows(read_pairs(write(tmp_path, content, name))) == expected


def test_a_table_keeps_what_its_file_has(tmp_path: Path) -> None:
    file = write(tmp_path, '\ufefftext2,genre,text1,score\nb,x,"a, null",1.5\nnull,07,01,2\n')
    assert read_pairs(file).to_dict("list") == {
        "id": ["row-000001", "row-000002"],
        "text1": ["a, null", "01"],
        "text2": ["b", "null"],
        "score": [1.5, 2.0],
        "genre": ["x", "07"],
    }
    file = write(tmp_path, "ID,,text1,a,Text2,a,kind of pair,score\n1.0,2,3,4,5,6,7,8\n")
    table = read_pairs(file)
    assert table.iloc[0].to_dict() == {
        "id": "1.0",
        "text1": "3",
        "text2": "5",
        "score": 8.0,
        "column 2": "2",
        "a": "4",
        "a (6)": "6",
        "kind of pair": "7",
    }


@pytest.mark.parametrize("ending", ["csv", "CSV", "txt", "dat", "tsv"])
def test_the_content_decides_and_not_the_ending(ending: str, tmp_path: Path) -> None:
    for delimiter in ",;\t|":
        content = as_csv(PAIRS, delimiter=delimiter)
        assert rows(read_pairs(write(tmp_path, content, f"pairs.{ending}"))) == PAIRS


# Text files that are refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        (" \n\n", "it is empty"),
        ("text1,text2\n", "holds no pairs"),
        ("text1,score\na,1\n", "has text1, score; name the columns .*--columns"),
        ("a cat\na dog\n", "has a cat; name"),
        ("a cat,a dog\na boat,a ship\n", "it has a cat, a dog; name"),
        ("premise,hypothesis\na,b\n", "it has premise, hypothesis; name"),
        ("text1,text2,Text2\na,b,c\n", "the columns text2, Text2 could be the text2"),
        ("word1,word2,sentence1,sentence2\na,b,c,d\n", "word1, sentence1 could be the text1"),
        ("text1,text2,word1,word2\na,b,c,d\n", "text1, word1 could be the text1; name the col"),
        ("sent_a\tsent_b\ttext1\ttext2\na\tb\tc\td\n", "sent_a, text1 could be the text1"),
        ("text1,text2,rating,gold\na,b,1,2\n", "rating, gold could be the score"),
        ("text1,text2\na,b\n , b\n", "line 3: text1 is empty"),
        ("text1,text2\n\u00a0 ,b\n", "line 2: text1 is empty"),
        ("text1,text2\n\u200b\u200d,b\n", "line 2: text1 is blank .nothing of U"),
        ("text1,text2,score\na cat,a dog,1\n\n\na boat,,2\n", "line 5: text2 is empty; .*--drop"),
        ('text1,text2,score\n"a\nb",c,1\nd,e,x\n', "line 4: score is not a number: 'x'"),
        ("text1,text2,score\na,b,1\nc,d,\n", "line 3: score is empty"),
        ("text1,text2,score\na,b,inf\n", "line 2: score is not a number: 'inf'"),
        ("text1,text2,score\na,b,1e999\n", "line 2: score is not a number: '1e999'"),
        ("text1,text2,score\na,b,True\nc,d,False\n", r"line 2: score is .*'True' \(2 rows have"),
        ("text1,text2,score\na,b,3.5\nc,d,\"3,5\"\n", "line 3: score is not a number: '3,5'"),
        ('text1,text2,score\na,b,"1,234"\n', "line 2: score is not a number: '1,234'"),
        ("id,text1,text2\n1,a,b\n2,a,b\n1,a,b\n", "line 4: the id '1' stands in line 2 too"),
        ("id,text1,text2\n,a,b\n", "line 2: the id is empty"),
        ("text1,text2\na,b\ntext1,text2\nc,d\n", "line 3: it is the header once more"),
        ("n;Word 1;Word 2\n1;a;b\nN;word1;word2\n", "line 3: it is the header once more"),
        ("text1,text2,score\na cat, black,a dog,3\na,b,4\n", "line 2: it has 4 cells, and 3 .*','"),
        ("text1,text2\n'a cat, black','a dog'\n", "line 2: it has 3 cells, and 2"),
        ("text1,text2,score\na cat,a dog\na,b,4\n", "line 2: it has 2 cells, and 3"),
        ("text1,text2,note\na,b,x\na,b\n", "line 3: it has 2 cells, and 3"),
        ("text1,text2\na cat\0 black,a dog\n", "line 2 holds a NUL"),
        # what quotes would swallow
        (
            'text1,text2\na cat,"look a dog\na red car,a blue car\na boat,a ship"\na tree,a bush\n',
            "line 2: a double quote makes lines 2 to 4 one row.*--quotes none",
        ),
        (
            'text1,text2,score\n"x, y",z,1\na,"look, a dog,3\na car,a bus,2\nc,a ship",4\n',
            "line 3: a double quote makes lines 3 to 5 one row",
        ),
        ('text1,text2\n"a, b",c\n"d,e\nf,g\n', "line 3: a double quote is not closed"),
        ('text1,text2\n"a, b",c\n"d" e,"f, g"\n', "line 3: a double quote is not closed, or not"),
        ('text1,text2\n"a cat","x"\n"Yes she,y\n', "line 3: a double quote is not closed"),
        *[
            (content, "line 2: a double quote makes lines 2 to 3 one row.*--quotes none")
            for content in (  # with delimiters that no quotes enclose, too
                'text1,text2,score\n"a cat, black,a dog,3\na boat",a ship,4\n',
                'text1,text2,score\na cat,"a dog, big,3\na boat, red",4\n',
                'text1,text2,score\n"a cat,a dog,n/a\na boat",a ship,4\n',
                'text1,text2\n"a cat, black,a dog\na boat",a ship\n',
                'score,text1,text2\n3,a cat,"a dog, black\n4,a boat, red,a ship"\n',
                'text1;text2;score\n"a cat; black;a dog;3\na boat";a ship;4\n',
            )
        ],
        # encodings
        ("text1,text2\ncafé,bar\n".encode("latin-1"), "line 2 is not UTF-8.*'café,bar'.*cp1252"),
        ("text1,text2\n“big” dog,b\n".encode("cp1252"), "'“big” dog,b': --encoding cp1252"),
        ("text1,text2\na cat,a dog\n".encode("utf-16-le"), "UTF-16: --encoding utf-16-le"),
        ("text1,text2\na cat,a dog\n".encode("utf-16-be"), "UTF-16: --encoding utf-16-be"),
        ("text1,text2\na cat,a dog\n".encode("utf-32-le"), "UTF-32: --encoding utf-32-le"),
        ("text1,text2\n猫,犬\n".encode("utf-32-be"), "UTF-32: --encoding utf-32-be"),
        (b"\x80\x04\x95\x00\x01\xff pickled", "it is a pickle, which could run anything"),
        (b"\x03\x04\x95\x00\x01\xff", "it is no text; CSV, JSON lines, Parquet"),
        (b"\xff\xfea", "line 1 is not UTF-16"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_its_line(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path, content)
    with pytest.raises(ValueError, match=rf"(?s)pairs\.csv.*{message}") as caught:
        read_pairs(file)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*pairs\.csv"):
        read_pairs(tmp_path / "pairs.csv")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_pairs(tmp_path)
    file = write(tmp_path, as_csv(PAIRS))
    with pytest.raises(ValueError, match="quotes must be"):
        read_pairs(file, quotes="single")
    with pytest.raises(ValueError, match="encoding 'cp9999' cannot be used"):
        read_pairs(file, encoding="cp9999")
    with pytest.raises(ValueError, match="encoding 'base64' cannot be used"):
        read_pairs(file, encoding="base64")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_the_one_file_of_a_tar_archive_is_read(mode: str, tmp_path: Path) -> None:
    packed = write(tmp_path, as_csv(PAIRS))
    file = tmp_path / f"pairs.tar{mode[1:].replace(':', '.')}"
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        archive.add(packed, "folder/pairs.csv")
        archive.add(packed, "folder/._pairs.csv")  # as macOS writes
    assert rows(read_pairs(file)) == PAIRS
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        archive.add(packed, "a.csv")
        archive.add(packed, "b.csv")
    with pytest.raises(ValueError, match=r"2 files \(a.csv, b.csv\), and one is expected"):
        read_pairs(file)


def test_an_open_document_is_called_what_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pairs.ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", "<a/>")
    with pytest.raises(ValueError, match="it is OpenDocument: save it as .xlsx or CSV"):
        read_pairs(tmp_path / "pairs.ods")


GARBLED = ["café", "“big” dog", "mały kot", "naïve — or not", "привет", "日本", "a 🐱", "déjà vu"]


@pytest.mark.parametrize("text", GARBLED)
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_a_text_that_was_read_in_another_encoding_is_shown(
    text: str, encoding: str, tmp_path: Path
) -> None:
    try:
        garbled = text.encode().decode(encoding)
    except UnicodeDecodeError:
        pytest.skip("no character stands for one of its bytes")
    table = pd.DataFrame({"text1": ["a cat", garbled], "text2": ["a dog", "x"]})
    for name, save in FORMATS.items():
        save(table.assign(score=1.0), tmp_path / name)
        said = rf"(line|row) \d+: .* seems to be {re.escape(repr(text))}, read in another"
        with pytest.warns(UserWarning, match=said):
            assert read_pairs(tmp_path / name)["text1"][1] == garbled.strip()


def test_characters_that_were_lost_are_told_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="line 3: 'caf\ufffd' has characters that .*2 texts"):
        read_pairs(write(tmp_path, "text1,text2\na,b\ncaf\ufffd,b\nd,caf\ufffd au lait\n"))


def test_markup_in_a_text_is_told_of(tmp_path: Path) -> None:
    for text in ("Tom &amp; Jerry", "a <b>cat</b>", "caf&#233;", "a<br/>b", '<a href="x">y</a>'):
        table = pd.DataFrame({"text1": ["a", text], "text2": ["b", "c"]})
        table.to_csv(tmp_path / "pairs.csv", index=False)
        with pytest.warns(UserWarning, match=r"line 3: .* holds HTML \(.*\), which is read as it"):
            assert read_pairs(tmp_path / "pairs.csv")["text1"][1] == text


@pytest.mark.parametrize("marks", ["''", "‘’", "“”", "„“", "«»", "``"])
def test_marks_around_most_texts_are_told_of(marks: str, tmp_path: Path) -> None:
    first, last = marks
    enclosed = [f"{first}{text}{last}" for text in ("a cat", "a dog", "a bus")]
    lines = "".join(f"{text};{first}an owl{last};1\n" for text in enclosed)
    with pytest.warns(UserWarning, match="4 of 4 texts stand in quotation marks") as told:
        pairs = read_pairs(write(tmp_path, f"text1;text2;score\n{lines}"))
    assert pairs["text1"].tolist() == enclosed  # and nothing is taken away
    assert len(told) == 1


@pytest.mark.parametrize("text", ["“big” dog", "a dog…", "10 € – a bargain"])
def test_signs_of_cp1252_that_another_encoding_has_not_are_told_of(
    text: str, tmp_path: Path
) -> None:
    file = write(tmp_path, f"text1,text2\na cat,{text} it was\n".encode("cp1252"))
    with pytest.warns(UserWarning, match=rf"line 2: .* seems to be '{text} it was', read in ano"):
        read_pairs(file, encoding="latin-1")


@pytest.mark.parametrize("codec", ["mac_roman", "cp437"])
@pytest.mark.parametrize("text", ["café", "naïve — or not", "mały kot"])
def test_utf8_that_an_old_machine_read_is_told_of(codec: str, text: str, tmp_path: Path) -> None:
    garbled = text.encode().decode(codec)
    table = pd.DataFrame({"text1": ["a", garbled], "text2": ["b", "c"]})
    table.to_csv(tmp_path / "pairs.csv", index=False)
    with pytest.warns(UserWarning, match=rf"line 3: .* seems to be '{text}', read in another"):
        read_pairs(tmp_path / "pairs.csv")


def test_tags_of_parts_of_speech_are_told_of(tmp_path: Path) -> None:
    """The lemma form of MEN; one word that ends so is none."""
    lines = "sun-n sunlight-n 50.0\ncord-n smile-j 12\nrun-v old-j 3\n"
    with pytest.warns(UserWarning, match="6 of 6 texts end in a letter for .* '.*-.'"):
        read_pairs(write(tmp_path, lines, "men.txt"), "1,2,3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_pairs(write(tmp_path, "text1,text2\nsun-n,a cat\nan owl,plan-a\n"))


def test_formulas_without_a_value_are_named(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["text1", "text2", "score"], ["a cat", "a dog", "=1+1"]):
        book.active.append(row)
    book.save(tmp_path / "pairs.xlsx")
    with pytest.warns(UserWarning, match="formulas whose value was never stored are read as empty"):
        read_pairs(tmp_path / "pairs.xlsx")


def test_a_quotation_among_other_texts_is_none_of_these_marks(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_pairs(write(tmp_path, "text1,text2\n'tis the season',a cat\nan owl,a bus\n"))


def test_texts_with_accents_and_signs_are_not_suspected(tmp_path: Path) -> None:
    texts = ["«Café»", "«CAFÉ»", "voilà…", "le café…»", "CHÂTEAU", "São", "ÃO £5", "»Ä« und »Ö«"]
    texts += ["20 °C, ½ ¼", "Ångström", "ÀÉÎÕÜ ß", "naïve", "ð and þ", "“Â”", "âme"]
    table = pd.DataFrame({"text1": texts, "text2": texts[::-1]})
    table.to_csv(tmp_path / "pairs.csv", index=False)
    assert read_pairs(tmp_path / "pairs.csv")["text1"].tolist() == texts


def test_a_second_column_of_scores_is_told_of(tmp_path: Path) -> None:
    file = write(tmp_path, "text1,text2,rating,score\na,b,1,2\n")
    with pytest.warns(UserWarning, match="score is read as the score, and not rating"):
        assert rows(read_pairs(file)) == [("a", "b", 2.0)]
    assert rows(read_pairs(file, "text1,text2,rating")) == [("a", "b", 1.0)]
    named = write(tmp_path, "text1,text2,word1,word2\na,b,c,d\n")
    for columns, pair in (("word1,word2", ("c", "d")), ("3,4", ("c", "d")), ("1,2", ("a", "b"))):
        assert rows(read_pairs(named, columns)) == [pair]


def test_options_of_another_kind_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, as_csv(PAIRS))
    for drop in ("no", 0, None):
        with pytest.raises(ValueError, match=f"drop must be True or False, not {drop!r}"):
            read_pairs(file, drop=drop)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="columns must be like .* not 5"):
        read_pairs(file, columns=5)  # type: ignore[arg-type]
    for columns in ({"text2", "text1"}, {"text2": "first", "text1": "second"}):
        with pytest.raises(TypeError, match="columns must be a list, whose order counts"):
            read_pairs(file, columns=columns)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encoding must be a name such as 'cp1252', not 3"):
        read_pairs(file, encoding=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encoding must be a name such as 'cp1252', not ''"):
        read_pairs(file, encoding="")
    for encoding in ("\0", "undefined", "rot13"):
        with pytest.raises(
            ValueError, match=f"encoding {encoding!r} cannot be used".replace("\\", ".")
        ):
            read_pairs(file, encoding=encoding)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<!DOCTYPE html>\n<html><body>404, sorry</body></html>\n", "it is HTML or XML, perhaps"),
        ("\n<html lang='en'>\n", "it is HTML"),
        ('<?xml version="1.0"?>\n<a/>', "it is HTML or XML"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        ("| text1 | text2 |\n|---|:--|\n| a | b |\n", "a table of Markdown: save it as CSV"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "it is a PDF: it needs the table itself"),
        (b"\x1f\x9d\x90abc", "an archive that is not read: unpack it"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "an archive that is not read: unpack it"),
        (b"Rar!\x1a\x07\x01\0", "an archive that is not read: unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an old workbook .*xlsx or CSV UTF-8"),
        (b"SQLite format 3\0\x10\0", "a database of SQLite: write the table as CSV or Parquet"),
        (b"ARROW1\0\0\xff\xff\xff\xff", "a format that is not read: write it with to_parquet"),
        (b"\x89HDF\r\n\x1a\n", "a format that is not read: write it with to_parquet"),
    ],
)
def test_what_is_no_table_is_called_what_it_is(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    for name in ("pairs.csv", "pairs.jsonl", "pairs.md"):
        with pytest.raises(ValueError, match=message):
            read_pairs(write(tmp_path, content, name))


@pytest.mark.parametrize("orient", ["columns", "index", "split", "table"])
def test_what_pandas_nests_is_refused_with_what_would_be_read(orient: Any, tmp_path: Path) -> None:
    table = pd.DataFrame({"text1": ["a cat", "a car"], "text2": ["a dog", "a bus"]})
    with pytest.raises(ValueError, match=r"it is nested: .*orient=\"records\""):
        read_pairs(write(tmp_path, table.to_json(orient=orient), "pairs.json"))
    read = read_pairs(write(tmp_path, table.to_json(orient="records"), "pairs.json"))
    assert read[["text1", "text2"]].equals(table)


def test_a_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    thread = threading.Thread(target=pipe.write_text, args=("text1,text2\na,b\n",))
    thread.start()
    assert rows(read_pairs(pipe)) == [("a", "b")]
    thread.join()


def test_texts_are_as_long_as_they_are(tmp_path: Path) -> None:
    long = "a cat, " * 30_000 + "end"
    assert rows(read_pairs(write(tmp_path, as_csv([(long, "b", 1.0)])))) == [(long, "b", 1.0)]
    assert rows(read_pairs(write(tmp_path, f"{long}\tb\t1\n"))) == [(long, "b", 1.0)]
    with pytest.warns(UserWarning, match="line 2: a double quote is not closed"):
        read_pairs(write(tmp_path, f'text1\ttext2\n"{long}\tb\n'))


TITLED = "text1,text2,score\na,b,1\n"


@pytest.mark.parametrize(
    "content",
    [
        f"My pairs of 2024,,\n{TITLED}",
        f"My pairs of 2024\n\n{TITLED}",
        f'"My pairs, of 2024",,\nsecond version\n{TITLED}',
        f"My pairs\n{TITLED}".replace(",", "\t"),
        f'My 5" pairs\r\n{TITLED}',
    ],
)
def test_a_title_above_the_header_is_passed_over_and_it_is_said(
    content: str, tmp_path: Path
) -> None:
    file = write(tmp_path, content)
    header = content[: content.index("text1")].count("\n") + 1
    for columns in (None, "text1,text2,score", "1,2,3"):
        with pytest.warns(UserWarning, match=f"line {header} is read as the header"):
            assert rows(read_pairs(file, columns)) == [("a", "b", 1.0)]
    with file.open("a") as stream:
        stream.write("c,,1\n" if "," in TITLED and "\t" not in content else "c\t\t1\n")
    with pytest.raises(ValueError, match=f"line {header + 2}: text2 is empty"):
        read_pairs(file)


def test_rows_of_one_cell_are_no_titles_where_no_header_follows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it has cat, ; name"):
        read_pairs(write(tmp_path, "cat,\na boat,a ship\n"))
    file = write(tmp_path, "sun sunlight 50\n" * 9 + "day dawn n/a\nday dawn 2\n", "pairs.txt")
    with pytest.raises(ValueError, match="line 10: score is not a number"):
        read_pairs(file, "1,2,3")


# Quotes and encodings that the caller explains


def test_quotes_that_can_enclose_nothing_are_characters_and_it_is_said(tmp_path: Path) -> None:
    content = 'text1,text2,score\n"big" dog,a dog,4\n"Yes she said,she,3\na,b,5\n"No" he,he,1\n'
    file = write(tmp_path, content)
    expected = [
        ('"big" dog', "a dog", 4.0),
        ('"Yes she said', "she", 3.0),
        ("a", "b", 5.0),
        ('"No" he', "he", 1.0),
    ]
    with pytest.warns(UserWarning, match="line 2: a double quote is not closed.*--quotes none"):
        assert rows(read_pairs(file)) == expected
    assert rows(read_pairs(file, quotes="none")) == expected  # and no warning
    with pytest.raises(ValueError, match="line 2: a double quote"):
        read_pairs(file, quotes="double")


def test_two_readings_are_for_the_caller_to_choose_from(tmp_path: Path) -> None:
    file = write(tmp_path, 'text1,text2\na,"b\nc,d\ne,f"\n')
    with pytest.raises(ValueError, match="lines 2 to 4"):
        read_pairs(file)
    assert rows(read_pairs(file, quotes="double")) == [("a", "b\nc,d\ne,f")]
    assert rows(read_pairs(file, quotes="none")) == [("a", '"b'), ("c", "d"), ("e", 'f"')]
    file = write(tmp_path, 'text1\ttext2\na\t"b\nc\td\ne\tf"\n')  # texts hold no tabs
    with pytest.warns(UserWarning, match="lines 2 to 4"):
        assert rows(read_pairs(file)) == [("a", '"b'), ("c", "d"), ("e", 'f"')]


def test_an_encoding_is_taken_at_its_word(tmp_path: Path) -> None:
    file = write(tmp_path, "text1,text2\n“big” dog,café\n".encode("cp1252"))
    assert rows(read_pairs(file, encoding="cp1252")) == [("“big” dog", "café")]
    file = write(tmp_path, "text1,text2\n猫,犬\n".encode("shift-jis"))
    assert rows(read_pairs(file, encoding="shift-jis")) == [("猫", "犬")]
    file = write(tmp_path, "text1,text2\na cat,é\n".encode("utf-16-le"))
    assert rows(read_pairs(file, encoding="utf-16-le")) == [("a cat", "é")]
    file = write(tmp_path, "\ufefftext1,text2\na cat,é\n")  # a mark is surer than a word
    assert rows(read_pairs(file, encoding="cp1252")) == [("a cat", "é")]


def test_an_encoding_that_makes_nonsense_of_utf8_is_doubted(tmp_path: Path) -> None:
    file = write(tmp_path, "text1,text2\na,b\ncafé,bar\n")
    for encoding in ("latin-1", "cp1252", "iso-8859-15"):
        with pytest.warns(UserWarning, match="line 3 is read as 'cafÃ©.*'café,bar'.*--encoding"):
            read_pairs(file, encoding=encoding)
    assert rows(read_pairs(file, encoding="utf-8-sig")) == [("a", "b"), ("café", "bar")]
    plain = write(tmp_path, "text1,text2\na,b\n")
    assert rows(read_pairs(plain, encoding="latin-1")) == [("a", "b")]  # and no warning
    file = write(tmp_path, "café\tbar\n", "STS.input.x.txt")
    write(tmp_path, "3\n", "STS.gs.x.txt")
    with pytest.warns(UserWarning, match="line 1 is read as 'cafÃ©"):
        read_pairs(file, encoding="latin-1")


# Which column is which


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ("q,a,b\n1,x,y\n", "a,b", [("x", "y")]),
        ("q,a,b\n1,x,y\n", ["a", "b", "q"], [("x", "y", 1.0)]),
        ("q,A b,b\n1,x,y\n", "a_B, B, Q", [("x", "y", 1.0)]),
        ("score,a,b,id\n1,x,y,z\n", "b,a", [("y", "x", 1.0)]),
        ("score,text1,text2\n1,x,y\n", "score,text1,text2", [("x", "y", 1.0)]),
        ("score,text1,text2\n1,x,y\n", "text2,text1", [("y", "x", 1.0)]),
        ("score,text1,text2,mine\n1,x,y,5\n", "text1,text2,mine", [("x", "y", 5.0)]),
        ("a,b,score\nx,y,1\n", "b,score,a", [("y", "x", 1.0)]),
        ("a,b,score\nx,y,1\n", "b,score", [("y", "1")]),
        ("a,b,n\nx,y,7\n", "a,b,,n", [("x", "y")]),
        ("a,b,n\nx,y,7\n", "1,2,3", [("x", "y", 7.0)]),
        ("q,b\nx,y\n", "2,1", None),  # warned of below
        ("text1,text2\nx,y\n", "2,1", [("y", "x")]),
        ("x,y,1\nv,w,2\n", "2,1,3", [("y", "x", 1.0), ("w", "v", 2.0)]),
        ("1\tx\ty\n2\tv\tw\n", "2,3,1", [("x", "y", 1.0), ("v", "w", 2.0)]),
        ("x\ty\t1\nv\tw\t2\n", "text1,text2,score", [("x", "y", 1.0), ("v", "w", 2.0)]),
        ("1;x;y\n", "score,text1,text2", [("x", "y", 1.0)]),
        ("x;N;y;1,5\n", "word1,pos,word2,score", [("x", "y", 1.5)]),
        ("1,2,x,y\n3,4,v,w\n", "3,4,1", [("x", "y", 1.0), ("v", "w", 3.0)]),
    ],
)
def test_columns_by_name_or_position(
    content: str, columns: Any, expected: list[tuple] | None, tmp_path: Path
) -> None:
    file = write(tmp_path, content)
    if expected is None:
        with pytest.warns(UserWarning, match="line 1 is read as a pair, not as a header: 'b' and"):
            assert rows(read_pairs(file, columns)) == [("b", "q"), ("y", "x")]
    else:
        assert rows(read_pairs(file, columns)) == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("a,c", "it has no column c: it has a, b, score"),
        ("1,4", "it has no columns 1, 4: it has a, b, score"),
        ("0,1", "it has no columns 0, 1"),
        ("a", "two or more different ones, not 'a'"),
        ("a,a", "two or more different ones, not 'a,a'"),
        (["a"], "two or more"),
        (",a", "two or more"),
        ("a,b,b", "different"),
        ("a,b,a b", "it has no column a b"),
    ],
)
def test_columns_that_are_not_there(columns: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_pairs(write(tmp_path, "a,b,score\nx,y,1\n"), columns)


def test_a_first_line_that_only_the_caller_says_is_no_header_is_shown(tmp_path: Path) -> None:
    file = write(tmp_path, "question one,question two\nx,y\n")
    with pytest.warns(UserWarning, match="line 1 is read as a pair.*'question one' and"):
        assert len(read_pairs(file, "text1,text2")) == 2


# Original layouts, imitated


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "SimLex-999.txt",
            "word1\tword2\tPOS\tSimLex999\tconc(w1)\tconc(w2)\tconcQ\tAssoc(USF)\tSimAssoc333\t"
            "SD(SimLex)\nold\tnew\tA\t1.58\t2.72\t2.81\t2\t7.25\t1\t0.41\n",
            [("old", "new", 1.58)],
        ),
        ("rg65.txt", "cord\tsmile\t0.02\na\tb\t4\n", [("cord", "smile", 0.02), ("a", "b", 4)]),
        ("rg65.csv", "cord;smile;0.02\n", [("cord", "smile", 0.02)]),
        ("combined.csv", "Word 1,Word 2,Human (mean)\nlove,sex,6.77\n", [("love", "sex", 6.77)]),
        ("combined.tab", "Word 1\tWord 2\tHuman (mean)\na\tb\t6.77\n", [("a", "b", 6.77)]),
        ("set1.csv", "Word 1,Word 2,Human (mean),1,2,3\na,b,6.77,9,6,8\n", [("a", "b", 6.77)]),
        ("wordsim_similarity_goldstandard.txt", "tiger\tcat\t7.35\n", [("tiger", "cat", 7.35)]),
        ("MEN_dataset_natural_form_full", "sun sunlight 50.000000\n", [("sun", "sunlight", 50.0)]),
        ("MEN_dataset_lemma_form_full", "sun-n day-n 50.000000\n", [("sun-n", "day-n", 50.0)]),
        (
            "SimVerb-3500.txt",
            "take\tremove\tV\t6.81\tSYNONYMS\nwalk\ttrail\tV\t4.81\tCOHYPONYMS\n",
            [("take", "remove", 6.81), ("walk", "trail", 4.81)],
        ),
        (
            "SICK.txt",
            "pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score\t"
            "entailment_AB\tsentence_A_original\n1\tA kid plays\tA boy plays\tNEUTRAL\t4.5\t"
            "A_neutral_B\tA kid\n",
            [("A kid plays", "A boy plays", 4.5)],
        ),
        (
            "SICK_train.txt",
            "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\r\n"
            "1\tA kid plays\tA boy plays\t4.5\tNEUTRAL\r\n",
            [("A kid plays", "A boy plays", 4.5)],
        ),
        (
            "dev.tsv",
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\t"
            "score\n0\tmain-captions\tMSRvid\t2012test\t0000\tnone\tnone\tA plane.\tA jet.\t5.0\n",
            [("A plane.", "A jet.", 5.0)],
        ),
    ],
)
def test_original_layouts_load_as_they_are(
    name: str, content: str, expected: list[tuple], tmp_path: Path
) -> None:
    assert rows(read_pairs(write(tmp_path, content, name))) == expected


STSB = (
    "main-captions\tMSRvid\t2012test\t0001\t5.000\tA plane takes off.\tAn air plane takes off.\n"
    'main-news\tMSRpar\t2012train\t0010\t3.800\t"It is not new, he said.\t"It is new.\n'
    'main-news\theadlines\t2013\t7\t2.4\tHe said "no".\t"Yes."\thttp://a\thttp://b\n'
    'main-forum\tdeft\t2014\t3\t0\t"Who, me?\tYou"\n'
)


def test_sts_benchmark_with_quotes_that_are_not_balanced(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="line 2: a double quote"):
        table = read_pairs(write(tmp_path, STSB, "sts-train.csv"))
    assert rows(table) == [
        ("A plane takes off.", "An air plane takes off.", 5.0),
        ('"It is not new, he said.', '"It is new.', 3.8),
        ('He said "no".', '"Yes."', 2.4),
        ('"Who, me?', 'You"', 0.0),
    ]
    assert table["genre"].tolist() == ["main-captions", "main-news", "main-news", "main-forum"]
    assert table["column 8"].tolist() == ["", "", "http://a", ""]


def test_sts_benchmark_where_quotes_could_enclose_a_tab(tmp_path: Path) -> None:
    start = "main-news\theadlines\t2013\t1\t5.0\t"
    for content in ('"A\tB"\tsrc\tsrc2\n', '"A\tB"\tsrc\n'):
        file = write(tmp_path, f"{start}C\tD\n{start}{content}", "sts-dev.csv")
        with pytest.warns(UserWarning, match="line 2: a double quote makes.*--quotes none"):
            assert rows(read_pairs(file)) == [("C", "D", 5.0), ('"A', 'B"', 5.0)]


def test_sts_of_a_year_takes_its_scores_from_the_file_beside_it(tmp_path: Path) -> None:
    texts = 'a "cat\ta dog\nb\tc\nd\te\thttp://x\thttp://y\n"f\tg\nh\ti\n'
    file = write(tmp_path, texts, "STS2016.input.headlines.txt")
    with pytest.warns(UserWarning, match=r"no scores, since STS2016\.gs\.headlines\.txt is not"):
        assert rows(read_pairs(file)) == [
            ('a "cat', "a dog"), ("b", "c"), ("d", "e"), ('"f', "g"), ("h", "i"),
        ]  # fmt: skip
    write(tmp_path, "5\n\n1.5\n3\n\n", "STS2016.gs.headlines.txt")
    with pytest.warns(UserWarning, match="2 of 5 rows are left out, first line 2, why nobody"):
        table = read_pairs(file)
    assert rows(table) == [('a "cat', "a dog", 5.0), ("d", "e", 1.5), ('"f', "g", 3.0)]
    assert table["id"].tolist() == ["row-000001", "row-000003", "row-000004"]
    assert [d["line"] for d in table.attrs["dropped"]] == [2, 5]
    for wrong in ("5\n1\n", "5\n4\n3\n2\n1\n0\n"):
        write(tmp_path, wrong, "STS2016.gs.headlines.txt")
        with pytest.raises(ValueError, match=r"has 5 lines and STS2016\.gs\.\S+ has"):
            read_pairs(file)
    write(tmp_path, "5\n1\nx\n2\n1", "STS2016.gs.headlines.txt")
    with pytest.raises(ValueError, match="line 3: score is not a number: 'x'"):
        read_pairs(file)


# Rows that are left out


def test_rows_are_left_out_on_demand_counted_and_written(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "id,text1,text2,score\n1,a,b,1\n2,,b,2\n3,a,b,x\n1,c,d,4\n5,e,f\n\n6,é,h,6\n",
    )
    with pytest.raises(ValueError, match=r"line 3: text1 is empty \(4 rows have faults\)"):
        read_pairs(file)
    with pytest.warns(UserWarning, match="4 of 6 rows are left out, first line 3, why text1 is"):
        table = read_pairs(file, drop=True)
    assert table["id"].tolist() == ["1", "6"] and table["score"].tolist() == [1.0, 6.0]
    assert table.index.tolist() == [0, 1]
    write_dropped(table, tmp_path / "new")
    dropped = pd.read_csv(tmp_path / "new" / "dropped.csv")
    assert dropped["line"].tolist() == [3, 4, 5, 6]
    assert dropped["why"].tolist() == [
        "text1 is empty",
        "score is not a number: 'x'",
        "the id '1' stands in line 2 too",
        "it has 3 cells, and 4 are expected",
    ]
    assert json.loads(dropped["cells"][2]) == ["1", "c", "d", "4"]
    write_dropped(table, tmp_path / "new")  # the same once more
    (tmp_path / "new" / "dropped.csv").write_text("something of the reader's")
    with pytest.raises(FileExistsError, match=r"dropped\.csv would be written over"):
        write_dropped(table, tmp_path / "new")
    book = workbook(tmp_path, [["text1", "text2"], ["a", "b"], ["c", None]])
    with pytest.warns(UserWarning, match="1 of 2 rows are left out, first row 3, why text2 is"):
        assert read_pairs(book, drop=True).attrs["dropped"] == [
            {"row": 3, "why": "text2 is empty", "cells": '["c", null]'}
        ]
    with pytest.raises(ValueError, match="no pairs that can be used"):
        read_pairs(write(tmp_path, "text1,text2\n,b\n"), drop=True)
    write_dropped(read_pairs(write(tmp_path, "text1,text2\na,b\n")), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_numbers_of_rows_do_not_move_when_others_are_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, "text1,text2\na,b\n,c\nd,e\n")
    with pytest.warns(UserWarning, match="1 of 3 rows"):
        assert read_pairs(file, drop=True)["id"].tolist() == ["row-000001", "row-000003"]


# Containers


def zipped(content: bytes, *names: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zip": lambda content: zipped(content, "pairs.csv", "__MACOSX/._pairs.csv"),
}


def taken_up(content: bytes) -> bytes:
    """A tar archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("pairs.csv")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [*PACKERS, "zst"])
def test_compressed_files(kind: str, tmp_path: Path) -> None:
    if kind == "zst":
        with pa.CompressedOutputStream(str(tmp_path / "packed"), "zstd") as stream:
            stream.write(as_csv(PAIRS).encode())
        packed = (tmp_path / "packed").read_bytes()
    else:
        packed = PACKERS[kind](as_csv(PAIRS).encode())
    for name in (f"pairs.csv.{kind}", f"PAIRS.{kind.upper()}", "pairs.csv"):
        assert rows(read_pairs(write(tmp_path, packed, name))) == PAIRS
    for damaged in (packed[: len(packed) // 2], packed[:-9]):
        with pytest.raises(ValueError, match=r"pairs\.csv: it is (damaged|empty)"):
            read_pairs(write(tmp_path, damaged))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst", "tar"])
def test_what_follows_the_first_part_of_a_compressed_file_is_not_lost(
    kind: str, tmp_path: Path
) -> None:
    """Parts that stand one behind the other are read all, or the file is refused."""
    pack = PACKERS.get(kind, taken_up if kind == "tar" else pa.Codec("zstd").compress)
    first, second = (bytes(pack(part.encode())) for part in (as_csv(PAIRS), "sun,moon,1\n" * 9))
    if kind != "tar":
        found = read_pairs(write(tmp_path, first + second))
        assert rows(found) == [*PAIRS, *[("sun", "moon", 1.0)] * 9]
    broken = bytes([second[0] ^ 1]) + second[1:]
    middle = len(second) // 2 if kind != "tar" else 200
    flipped = second[:middle] + bytes([second[middle] ^ 16]) + second[middle + 1 :]
    torn = [broken, flipped, second[:-4]] if kind in ("gz", "bz2", "xz") else [broken]
    for rest in (*torn, b"and so on", *[second] * (kind == "tar")):
        with pytest.raises(ValueError, match="it is damaged, or cannot be unpacked"):
            read_pairs(write(tmp_path, first + rest))


def test_a_compressed_name_on_a_file_that_is_not(tmp_path: Path) -> None:
    assert rows(read_pairs(write(tmp_path, as_csv(PAIRS), "pairs.csv.gz"))) == PAIRS
    with pytest.raises(ValueError, match=r"pairs\.zip: .*it is no text"):
        read_pairs(write(tmp_path, b"\xfe\x00\x01garbage", "pairs.zip"))


@pytest.mark.parametrize("name", ["PK", "PK id", "BZh", "BZh9", "BZhidden", "PAR1"])
def test_a_text_may_begin_like_the_mark_of_a_format(name: str, tmp_path: Path) -> None:
    for content in (f"{name},text1,text2\n1,a,b\n", f"{name}\ttext1\ttext2\n1\ta\tb\n"):
        assert rows(read_pairs(write(tmp_path, content))) == [("a", "b")]
    assert rows(read_pairs(write(tmp_path, f"{name} cat,a dog,3\n"))) == [
        (f"{name} cat", "a dog", 3.0)
    ]


def test_archives_of_several_files_or_with_a_password(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 files \(a\.csv, b\.csv\), and one"):
        read_pairs(write(tmp_path, zipped(b"x", "a.csv", "b.csv"), "pairs.zip"))
    with pytest.raises(ValueError, match="0 files"):
        read_pairs(write(tmp_path, zipped(b""), "pairs.zip"))
    locked = bytearray(zipped(b"text1,text2\na,b\n", "a.csv"))
    locked[6] |= 1  # the flag of encryption, in the entry and in the directory
    locked[locked.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(ValueError, match=r"pairs\.zip: .*cannot be unpacked: .*password"):
        read_pairs(write(tmp_path, bytes(locked), "pairs.zip"))


# Parquet


def test_parquet(tmp_path: Path) -> None:
    table = pd.DataFrame(PAIRS, columns=["Sentence1", "sentence2", "Score"])
    table["n"], table["c"] = [1, 2, 3], pd.Categorical(["x", "y", "x"])
    file = tmp_path / "pairs.PARQUET"
    table.to_parquet(file)
    found = read_pairs(file)
    assert rows(found) == PAIRS
    assert found["n"].tolist() == [1, 2, 3] and found["c"].tolist() == ["x", "y", "x"]
    write(tmp_path, gzip.compress(file.read_bytes()), "pairs.parquet.gz")
    assert rows(read_pairs(tmp_path / "pairs.parquet.gz")) == PAIRS
    assert rows(read_pairs(file, "sentence2,sentence1")) == [(b, a, s) for a, b, s in PAIRS]
    assert rows(read_pairs(file, "1,2,3")) == PAIRS
    with pytest.raises(ValueError, match=r"pairs\.PARQUET: it has no column c2: it has Sentence1"):
        read_pairs(file, "c2,c")


def test_an_index_of_a_parquet_file_is_a_column_if_it_has_a_name(tmp_path: Path) -> None:
    table = pd.DataFrame(PAIRS, columns=["text1", "text2", "score"], index=[10, 5, 7])
    table.to_parquet(tmp_path / "a.parquet")
    found = read_pairs(tmp_path / "a.parquet")
    assert list(found) == ["id", "text1", "text2", "score"] and found["id"][0] == "row-000001"
    table.rename_axis("ID").to_parquet(tmp_path / "a.parquet")
    assert read_pairs(tmp_path / "a.parquet")["id"].tolist() == ["10", "5", "7"]
    two = table.set_index(pd.MultiIndex.from_arrays([list("xyz"), [1, 2, 3]], names=["fold", "id"]))
    two.to_parquet(tmp_path / "a.parquet")
    found = read_pairs(tmp_path / "a.parquet")
    assert found["id"].tolist() == ["1", "2", "3"] and found["fold"].tolist() == list("xyz")
    two = table.set_axis(pd.MultiIndex.from_product([["pairs"], table.columns]), axis=1)
    two.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: .*it has \('pairs', 'text1'\)"):
        read_pairs(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text1": ["a", None]}, "row 2: text1 is empty"),
        ({"text1": [["a", "b"], ["c"]]}, "row 1: text1 is .*, which is no text"),
        ({"text1": [b"a", b"b"]}, "row 1: text1 is b'a', which is no text"),
        ({"text1": [True, False]}, "row 1: text1 is True, which is no text"),
        ({"score": [1.0, np.inf]}, "row 2: score is not a number: 'inf'"),
        ({"score": [1.0, None]}, "row 2: score is empty"),
        ({"score": [True, False]}, "row 1: score is not a number: 'True'"),
        ({"id": [1, None]}, "row 2: the id is empty"),
        ({"id": [2**60 + 1, 2**60 + 1]}, f"row 2: the id '{2**60 + 1}' stands in row 1 too"),
        ({"text1": ["a\0", "b"]}, "row 1: text1 holds a NUL"),
    ],
)
def test_parquet_cells_that_are_none(columns: dict, message: str, tmp_path: Path) -> None:
    given = {"text1": ["a", "b"], "text2": ["c", "d"], **columns}
    pq.write_table(pa.table(given), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"a\.parquet, {message}"):
        read_pairs(tmp_path / "a.parquet")


def test_a_parquet_file_with_one_name_twice_or_torn(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    pq.write_table(pa.table(columns, names=["text1", "x", "text2"]), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    assert rows(read_pairs(tmp_path / "a.parquet")) == [("a", "c")]
    pq.write_table(pa.table(columns, names=["text1", "text2", "text2"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="text2, text2 could be"):
        read_pairs(tmp_path / "a.parquet")
    for torn in (b"PAR1 torn", whole[:-7], whole[:40]):
        with pytest.raises(ValueError, match=r"a\.parquet: it is damaged"):
            read_pairs(write(tmp_path, torn, "a.parquet"))


# Excel


def workbook(folder: Path, *sheets: list[list], name: str = "pairs.xlsx") -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for i, lines in enumerate(sheets):
        sheet = book.create_sheet(f"sheet {i}")
        for line in lines:
            sheet.append(line)
    book.save(folder / name)
    return folder / name


def test_excel(tmp_path: Path) -> None:
    lines = [
        ["ID", "Word 1", "Word 2", "Human (mean)", None],
        [1, "a", 7, 2, None],
        [],
        [2, "c", "d", 1.5],
    ]
    table = read_pairs(workbook(tmp_path, lines, []))  # fmt: skip
    assert rows(table) == [("a", "7", 2.0), ("c", "d", 1.5)]
    assert table["id"].tolist() == ["1", "2"]
    assert rows(
        read_pairs(workbook(tmp_path, [["a", "b", 1.5], ["c", "d", 2]], name="A.XLSX"))
    ) == [
        ("a", "b", 1.5),
        ("c", "d", 2.0),
    ]
    with pytest.warns(UserWarning, match="of its 2 sheets that are not empty, 'sheet 0' is read"):
        read_pairs(workbook(tmp_path, lines, [["notes"]]))


def test_excel_with_a_title_or_several_sheets(tmp_path: Path) -> None:
    lines: list[list] = [["text1", "text2", "score"], ["a", "b", 1]]
    for file in (
        workbook(tmp_path, [["My pairs"], [], *lines], name="title.xlsx"),
        workbook(tmp_path, [[], ["My pairs"], *lines], name="blank.xlsx"),
    ):
        for columns in (None, "1,2,3"):
            with pytest.warns(UserWarning, match="row [23] is read as the header"):
                assert rows(read_pairs(file, columns)) == [("a", "b", 1.0)]
    notes = [["hello"], ["see sheet 1"]]
    with pytest.warns(UserWarning, match="of its 2 sheets that are not empty, 'sheet 1' is read"):
        assert rows(read_pairs(workbook(tmp_path, notes, lines))) == [("a", "b", 1.0)]
    with pytest.raises(ValueError, match="sheets 'sheet 0', 'sheet 2' could all be.* as CSV"):
        read_pairs(workbook(tmp_path, lines, notes, lines))
    with pytest.raises(ValueError, match="sheet 'sheet 0': .*has hello.*sheet 'sheet 1': .*has x"):
        read_pairs(workbook(tmp_path, notes, [["x", "y"], ["a", "b"]]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["a", None, 1], r"pairs\.xlsx, row 4: text2 is empty"),
        (["a", True, 1], r"row 4: text2 is True, which is no text"),
        (["a", pd.Timestamp("2024-05-03"), 1], r"row 4: text2 is .*2024.* no text"),
        (["a", "b", "#N/A"], r"row 4: score is empty"),
        (["a", "=1+1", 1], r"row 4: text2 is empty"),  # a formula whose value was never saved
        (["a", "b", 1, "more"], r"row 4: it has 4 cells, and 3 are expected"),
    ],
)
def test_excel_cells_that_are_none(line: list, message: str, tmp_path: Path) -> None:
    file = workbook(tmp_path, [["text1", "text2", "score"], ["x", "y", 1], [], line])
    with pytest.raises(ValueError, match=message):
        read_pairs(file)


@pytest.mark.parametrize("hidden", [False, True])
def test_rows_that_excel_hides_are_read_and_it_is_said(hidden: bool, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["text1", "text2"], ["a cat", "a dog"], ["a bus", "a car"]):
        book.active.append(row)
    book.active.row_dimensions[3].hidden = hidden
    book.save(tmp_path / "pairs.xlsx")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert rows(read_pairs(tmp_path / "pairs.xlsx")) == [("a cat", "a dog"), ("a bus", "a car")]
    said = [str(one.message) for one in told]
    assert len(said) == hidden and all("rows that Excel hides" in one for one in said)


def test_excel_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workbook(tmp_path, [["text1", "text2"], ["a", "b"]])
    whole = file.read_bytes()
    with pytest.raises(ValueError, match=r"pairs\.xlsx: it is damaged"):
        read_pairs(write(tmp_path, whole[:-30], "pairs.xlsx"))
    with pytest.raises(ValueError, match=r"pairs\.xlsx: it is empty"):
        read_pairs(workbook(tmp_path, []))
    with pytest.raises(ValueError, match=r"old\.xls: it is an old workbook"):
        read_pairs(write(tmp_path, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "old.xls"))
    import sys

    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"pairs\.xlsx: .*pip install openpyxl, or save it as CSV"):
        read_pairs(write(tmp_path, whole, "pairs.xlsx"))


# JSON

ONE, TWO = '{"text1": "a", "text2": "b", "score": 1}', '{"score": 2.5, "text2": "d", "text1": "c"}'


@pytest.mark.parametrize(
    "content",
    [
        f"{ONE}\n{TWO}\n",
        f"\n{ONE}\r\n\r\n{TWO}",
        f"[{ONE},\n {TWO}]",
        '{"text1": ["a", "c"], "text2": ["b", "d"], "score": [1, 2.5]}',
        '["a", "b", 1]\n["c", "d", 2.5]\n',
        '[["text1", "text2", "score"], ["a", "b", 1], ["c", "d", 2.5]]',
        '\ufeff{"Sentence1": "a", "Sentence2": "b", "Rating": "1"}\n{"Sentence1": "c", '
        '"Sentence2": "d", "Rating": "2.5", "more": {"x": [1]}}',
    ],
)
def test_json(content: str, tmp_path: Path) -> None:
    for name in ("pairs.jsonl", "pairs.JSON"):
        table = read_pairs(write(tmp_path, content, name))
        assert rows(table) == [("a", "b", 1.0), ("c", "d", 2.5)]
    assert "more" not in table or table["more"].tolist() == ["", "{'x': [1]}"]
    half = '{"text1": "a", "text2": "b", "id": "\\ud83d1", "more": "\\ud83d"}'
    assert read_pairs(write(tmp_path, half, "pairs.jsonl")).iloc[0].tolist() == [
        "?1",
        "a",
        "b",
        "?",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{ONE}\n{TWO[:20]}\n", "line 2 is no JSON"),
        (f"[{ONE},\n {TWO}", "line 2 is no JSON"),
        (f'{ONE}\n{{"text1": null, "text2": "b"}}\n', "line 2: text1 is empty"),
        (f'{ONE}\n\n{{"text1": "a", "text2": {{}}}}', "line 3: text2 is {}, which is no text"),
        (f'{ONE}\n{{"text1": "a", "text2": "b", "score": NaN}}', "line 2: score is empty"),
        (f'{ONE}\n{{"text1": "a", "text2": "\\ud83d", "score": 1}}', "line 2: text2 holds half a"),
        (f'{ONE}\n{{"text1": "a", "text1": "b"}}', "line 2: the name 'text1' stands twice"),
        (f"{ONE}\n[1, 2]", "each line must be one object, such as"),
        ('["a", "b"]', "each row must be one object"),
        ("[]", "it is empty: there are no pairs"),
        ("{}", "it is empty: there are no pairs"),
        ("[" * 100_000, "line 1: its JSON is nested too deeply"),
        (f"{ONE}\n" + "[" * 100_000, "line 2: its JSON is nested too deeply"),
        (f'{{"text1": "a", "text2": "b", "score": {"1" * 5000}}}', "row 1: score is not .*'1{80}'"),
        (f'{{"text1": "a", "text2": "b", "score": {"1" * 400}}}', "row 1: score is not a number"),
        ("3", "each row must be one object"),
        ('{"text1": ["a", "c"], "text2": ["b"]}', "its columns differ in length"),
        ('{"a": "x", "b": "y"}', "it has a, b; name the columns"),
    ],
)
def test_json_that_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"pairs\.jsonl.*{message}"):
        read_pairs(write(tmp_path, content, "pairs.jsonl"))


def test_json_over_several_lines_in_a_file_of_any_name(tmp_path: Path) -> None:
    for records in ([{"text1": "a", "text2": "b"}], {"text1": ["a"], "text2": ["b"]}):
        content = json.dumps(records, indent=2)
        for name in ("pairs.txt", "pairs.csv", "pairs"):
            assert rows(read_pairs(write(tmp_path, content, name))) == [("a", "b")]
        with pytest.raises(ValueError, match="line . is no JSON"):
            read_pairs(write(tmp_path, content[:-4], "pairs.txt"))


def test_a_number_of_any_length_may_be_a_text(tmp_path: Path) -> None:
    content = f'{{"text1": {"1" * 5000}, "text2": 7}}'
    assert rows(read_pairs(write(tmp_path, content, "pairs.json"))) == [("1" * 5000, "7")]


# Whatever is written

SIGNS = st.sampled_from(list("abc,;\t|\"'\\ \n\r#=01.é猫🐱\u2028"))
LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
TEXTS = st.text(SIGNS | LETTERS, min_size=1, max_size=12).filter(
    lambda text: any(c.isalnum() for c in text)
)
SCORES = st.floats(-1e6, 1e6)
ROWS = st.lists(st.tuples(TEXTS, TEXTS, SCORES), min_size=1, max_size=6)
FORMATS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "comma.csv": lambda t, f: t.to_csv(f, index=False),
    "tab.tsv": lambda t, f: t.to_csv(f, index=False, sep="\t"),
    "semicolon.csv": lambda t, f: t.to_csv(f, index=False, sep=";", encoding="utf-16"),
    "quoted.csv": lambda t, f: t.to_csv(f, index=False, quoting=1, encoding="utf-8-sig"),
    "packed.csv.gz": lambda t, f: t.to_csv(f, index=False, lineterminator="\r\n"),
    "escaped.csv": lambda t, f: t.to_csv(f, index=False, doublequote=False, escapechar="\\"),
    "lines.jsonl": lambda t, f: t.to_json(f, orient="records", lines=True, double_precision=15),
    "array.json": lambda t, f: f.write_text(json.dumps(t.to_dict("records"))),
    "columns.json": lambda t, f: f.write_text(json.dumps(t.to_dict("list"))),
    "table.parquet": lambda t, f: t.to_parquet(f),
    "book.xlsx": lambda t, f: t.to_excel(f, index=False),
}  # fmt: skip
DELIMITED = [name for name in FORMATS if ".csv" in name or ".tsv" in name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


@pytest.mark.parametrize("name", list(FORMATS))
@given(written=ROWS)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_is_read_is_what_was_written_or_an_error(
    name: str, folder: Path, written: list[tuple[str, str, float]]
) -> None:
    file = folder / name
    # XML has one line end, and a backslash in a text may escape or not
    old, new = {"book.xlsx": "\r\n", "escaped.csv": "\\/"}.get(name, "\r\r")
    written = [(a.replace(old, new), b.replace(old, new), s) for a, b, s in written]
    table = pd.DataFrame(written, columns=["text1", "text2", "score"])
    FORMATS[name](table, file)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = read_pairs(file)
    except ValueError as error:
        formula = "xlsx" in name and any(t.startswith("=") for row in written for t in row[:2])
        # pandas does not quote a lone carriage return, which then ends a line
        broken = any("\r" in t for row in written for t in row[:2])
        quotes = "a double quote" in str(error)
        assert formula or (name in DELIMITED and (quotes or (broken and "cells" in str(error))))
        assert str(error).startswith(str(file))
        return
    if caught:  # what is not sure is said, with its line
        assert all(re.search("line|row", str(w.message)) for w in caught)
        return
    assert [(a.strip(), b.strip()) for a, b, _ in written] == [(a, b) for a, b, _ in rows(found)]
    np.testing.assert_allclose(found["score"], table["score"], rtol=1e-14, atol=1e-14)


@given(
    content=st.binary(max_size=200) | st.text('text12,\t;"\n\\#a1.', max_size=120).map(str.encode)
)
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_are_read_or_refused_by_name(folder: Path, content: bytes) -> None:
    for start in (b"", b"text1,text2\n", b"PK\3\4", b"\x1f\x8b", b"PAR1", b"[", b"{"):
        file = write(folder, start + content, "any.csv")
        try:
            found = read_pairs(file)
        except ValueError as error:
            assert str(error).startswith(str(file))
        else:
            assert all(t.strip() for t in [*found["text1"], *found["text2"]])


# From a shell


def test_a_file_of_another_layout_is_scored_from_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "3;chat;chien\n1;chat;caf\xe9\n0;;soleil\n".encode("cp1252"), "mine.txt")
    command = ["score", str(file), "--out", str(tmp_path / "run"), "--device", "cpu"]
    command += ["--steps", "2", "--draws", "1", "--columns", "2,3,1"]
    assert main(command) == 2
    assert "--encoding cp1252" in capsys.readouterr().err
    assert main([*command, "--encoding", "cp1252"]) == 2
    said = capsys.readouterr().err
    assert "line 3: text1 is empty" in said and "--drop" in said
    assert not (tmp_path / "run").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # the command line prints them
        assert main([*command, "--encoding", "cp1252", "--drop"]) == 0
    assert "1 of 3 rows are left out, first line 3" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "run" / "distances.csv")
    assert table["text2"].tolist() == ["chien", "café"] and table["score"].tolist() == [3, 1]
    assert pd.read_csv(tmp_path / "run" / "dropped.csv")["line"].tolist() == [3]


def test_evaluate_takes_any_file_and_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "text1\ttext2\tlabel\na\tb\t1\n", "mine")
    assert main(["evaluate", str(file), "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "has no column score" in said and "label" in said and "--columns" in said
    assert main(["evaluate", str(tmp_path / "other.csv")]) == 2
    assert "or a file that is there" in capsys.readouterr().err


def test_a_cluster_is_given_any_file(tmp_path: Path) -> None:
    made = cluster._pairs(write(tmp_path, "ID;Word1;Word2\n7;a;b\n", "mine.txt"))
    assert made.iloc[0].tolist() == ["7", "a", "b"]
    (tmp_path / "folder").mkdir()
    made.to_parquet(tmp_path / "folder" / "some.parquet")
    for other in (tmp_path / "folder", tmp_path / "folder" / "some.parquet"):
        pd.testing.assert_frame_equal(cluster._pairs(other), made)
    with pytest.raises(ValueError, match="the id '7' stands in line 2 too"):
        cluster._pairs(write(tmp_path, "id,text1,text2\n7,a,b\n7,c,d\n"))


def test_a_text_that_draws_nothing_is_dropped_as_the_method_would_refuse_it(tmp_path: Path) -> None:
    """Two signs that draw nothing and are no spaces: one judge of what is blank."""
    file = write(tmp_path, "text1,text2\ncat,dog\n\u2800\u3164,dog\n")
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        kept = read_pairs(file, drop=True)
    assert kept["text1"].tolist() == ["cat"]
    runs.check_pairs(kept)
