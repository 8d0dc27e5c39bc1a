"""The recorded run of the start page: its numbers, its pictures, the player in a browser."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import finish
import numpy as np
import pandas as pd
import print_book
import pypdf
import pytest
import recording
import yaml
from browsing import SIZES, Watched
from execute import ROOT
from PIL import Image
from scipy import stats

import conjure_lib as cj

RUN = recording.read()


def test_the_recording_is_of_the_embedded_model() -> None:
    assert RUN["model"] == recording.fingerprint_of_model(), "the model is another: make start"
    assert {"commit", "date", "versions"} <= RUN["provenance"].keys()
    assert RUN["settings"]["seed"] == 0 and RUN["settings"]["draws"] == len(RUN["by_draw"])


def test_its_first_draw_is_what_the_model_gives_now(process: cj.GenerativeProcess) -> None:
    settings = {name: RUN["settings"][name] for name in recording.SETTINGS}
    now = cj.distance(process, *RUN["prompts"], draws=1, **settings)
    assert now.timesteps.tolist() == RUN["timesteps"]
    np.testing.assert_allclose(RUN["by_step"], now.by_step, rtol=5e-3, atol=1e-2)


def test_its_intervals_are_students() -> None:
    for count, interval in enumerate(RUN["intervals"], 2):
        values = RUN["by_draw"][:count]
        expected = stats.t.interval(0.95, count - 1, np.mean(values), stats.sem(values))
        assert interval == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_its_pictures_are_small_and_whole() -> None:
    side, steps = RUN["side"], len(RUN["timesteps"])
    with Image.open(recording.SHEET) as sheet, Image.open(recording.ANIMATED) as moving:
        assert sheet.size == (steps * side, 8 * side)
        assert getattr(moving, "n_frames", 1) == len(list(recording.moments(RUN)))
    assert recording.ANIMATED.stat().st_size <= recording.LIMIT
    assert "recording_moving.webp" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_prompts_cannot_end_the_script_that_holds_them() -> None:
    hostile = "</script><b>"
    text = recording.player(RUN | {"prompts": [hostile, "b"]})
    packed = text.split('json">')[1].split("</script>")[0]
    assert json.loads(packed)["prompts"] == [hostile, "b"]


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == cj.__version__
    page = (ROOT / "book" / "cite.md").read_text(encoding="utf-8")
    assert f"version = {{{cj.__version__}}}" in page
    entry = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    for word in (cited["preferred-citation"]["title"], "2410.16431"):
        assert word in entry and word in page


# -- what is mended in built pages ---------------------------------------------------------


def test_columns_of_numbers_are_on_the_right() -> None:
    rows = ["<tr><th><p>a</p></th><th>b</th></tr>"]
    rows += ["<tr><td>x 1</td><td><p>−1,036.9 ± 0.2</p></td></tr>"]
    rows += ['<tr><td>2</td><td class="c">–</td></tr>', "<tr><td>3</td><td>[0.1, 0.2]</td></tr>"]
    page = f'<table class="table">{"".join(rows)}</table>'
    found = finish.numbers_to_the_right(page)
    assert found.count("number") == 4
    assert '<th class="number">b' in found and '<td class="number c">–' in found
    assert "<td>2</td>" in found  # its column has words too
    assert (
        finish.numbers_to_the_right(page.replace("<td>2", "<td rowspan=2>2")).count("number") == 0
    )


def test_a_number_keeps_its_per_cent() -> None:
    page = '<article title="9 %">95\n% and <span>3</span> %, 7 %d</article><pre>5 % 2</pre>'
    kept = page.replace("95\n%", "95\N{NO-BREAK SPACE}%").replace("> %,", ">\N{NO-BREAK SPACE}%,")
    assert finish.typeset(page) == kept


def test_numbers_of_a_styled_frame_stand_at_the_right() -> None:
    frame = pd.DataFrame({"value": [1.5, -2.0], "of": ["cat", "dog"]}, index=["first", "second"])
    found = finish.numbers_to_the_right(frame.style.format(precision=1).to_html())
    assert re.findall(r'<t[hd][^>]*class="number [^>]*>([^<]*)<', found) == ["value", "1.5", "-2.0"]


def test_columns_with_exponents_and_under_shared_headings_are_numbers_too() -> None:
    rows = ["<tr><th></th><th colspan=2>both</th></tr>", "<tr><th></th><th>a</th><th>b</th></tr>"]
    body = "<tr><td>cat</td><td>3e-07</td><td>52 [31, 68]*</td></tr>"
    page = f'<table class="table"><thead>{"".join(rows)}</thead><tbody>{body}</tbody></table>'
    found = finish.numbers_to_the_right(finish.typeset(f"<article>{page}</article>"))
    assert found.count('class="number"') == 4  # of the heading that is shared, none
    assert ">3\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10⁻⁷<" in found


def test_numbers_of_the_text_are_set_and_those_of_code_are_not() -> None:
    code = '<pre>-1 3e-07</pre><span class="math notranslate">\\(x^{-1}\\)</span><code>5%</code>'
    text = "-0.02 [-0.1, 5], 63%, 2.8e+00 and 3e-01, 2026-11-29, row-1, 1-2"
    page = f'-1<article class="a-1">{code}<p id="x-1">{text}</p></article>-1'
    set_ = "−0.02 [−0.1, 5], 63\N{NO-BREAK SPACE}%, 2.8 and 0.3, 2026-11-29, row-1, 1-2"
    assert finish.typeset(page) == page.replace(text, set_)


@pytest.mark.parametrize(
    ("repository", "named", "address"),
    [
        (None, None, None),
        ("https://github.com/Someone/book", None, "https://someone.github.io/book/"),
        ("https://gitlab.com/a/b", None, None),
        (None, "https://e.x/b", "https://e.x/b/"),
    ],
)
def test_where_the_book_is_published(
    monkeypatch: pytest.MonkeyPatch, repository: str | None, named: str | None, address: str | None
) -> None:
    monkeypatch.delenv("CONJURE_SITE", raising=False)
    if named:
        monkeypatch.setenv("CONJURE_SITE", named)
    assert finish.site_address(repository) == address


def test_a_page_says_what_it_is_to_those_who_meet_a_link() -> None:
    page = (
        '<head></head><article><h1>A “B”<a href="#">#</a></h1><p>One <b>two</b> & 3.</p></article>'
    )
    found = finish.described(page, "Book", "https://e.x/", "book/a.html")
    assert 'property="og:title" content="A “B”"' in found
    assert 'property="og:description" content="One two &amp; 3."' in found
    assert 'content="https://e.x/_static/recording/recording.png"' in found
    assert "og:image" not in finish.described(page, "Book", None, "book/a.html")


# -- in a browser --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SIZES)
def opened(request: pytest.FixtureRequest, browser: Any, small_site: str) -> Iterator[Watched]:
    context = browser.new_context(viewport=SIZES[request.param])
    yield Watched(context.new_page(), f"{small_site}/book/introduction.html").open()
    context.close()


def test_the_start_page_plays_by_itself(opened: Watched) -> None:
    player = opened.page.locator("conjure-recording")
    assert player.locator("canvas").count() == 8
    opened.page.wait_for_function(
        "document.querySelector('conjure-recording').dataset.moment > 2", timeout=120_000
    )
    player.get_by_role("button", name="Pause").click()
    moment = player.get_attribute("data-moment")
    player.locator("input").press("End")
    assert player.get_attribute("data-moment") != moment
    mean = np.mean(RUN["by_draw"])
    assert player.locator(".recording-number").inner_text() == f"{mean:.0f} nats"
    low, high = RUN["intervals"][-1]
    assert f"{low:.0f} to {high:.0f}" in player.inner_text()


def test_the_first_screen_says_what_to_do(opened: Watched) -> None:
    opened.page.evaluate("scrollTo(0, 0)")
    for name, to in {"Try your own words": "live.html", "Read the book": "01_quick_start"}.items():
        link = opened.page.get_by_role("link", name=name)
        assert to in link.get_attribute("href")
    height = SIZES["desktop"]["height"]
    if opened.page.viewport_size == SIZES["desktop"]:
        box = opened.page.get_by_role("link", name="Try your own words").bounding_box()
        assert box["y"] + box["height"] <= height


def test_the_start_page_is_quiet_accessible_and_fits(opened: Watched) -> None:
    assert opened.faults == []
    assert opened.inaccessible(".bd-article") == []
    assert opened.overflow() <= 0


def test_text_of_the_player_can_be_read(opened: Watched) -> None:
    sizes = """() => [...document.querySelectorAll("conjure-recording :is(p, figcaption, button)")]
        .map((one) => parseFloat(getComputedStyle(one).fontSize))"""
    assert min(opened.page.evaluate(sizes)) >= 11


def test_a_reader_who_wants_less_motion_sees_the_end(browser: Any, small_site: str) -> None:
    context = browser.new_context(reduced_motion="reduce")
    watched = Watched(context.new_page(), f"{small_site}/book/introduction.html").open()
    player = watched.page.locator("conjure-recording[data-ready]")
    last = player.get_attribute("data-ready")
    assert player.get_attribute("data-moment") == last
    player.get_by_role("button", name="Play").click()
    watched.page.wait_for_function(
        f"document.querySelector('conjure-recording').dataset.moment !== '{last}'"
    )
    context.close()


def test_without_javascript_the_start_page_has_a_still(browser: Any, small_site: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    watched = Watched(context.new_page(), f"{small_site}/book/introduction.html").open()
    still = watched.page.locator("conjure-recording img")
    assert still.is_visible() and len(still.get_attribute("alt")) > 40
    assert still.evaluate("one => one.complete && one.naturalWidth > 0")
    context.close()


def test_chapters_have_their_numbers_in_the_side_bar(opened: Watched) -> None:
    names = opened.page.locator(".bd-sidebar-primary a[href*='notebooks/']").all_text_contents()
    assert [int(name.strip().split(".")[0]) for name in names] == list(range(1, len(names) + 1))


def test_what_chapters_show_is_set_to_be_read(browser: Any, small_site: str) -> None:
    context = browser.new_context(viewport=SIZES["phone"])
    watched = Watched(context.new_page(), f"{small_site}/notebooks/01_quick_start.html").open()
    page = watched.page
    page.locator("div.math mjx-container").first.wait_for()
    assert watched.overflow() <= 0
    wide = "one => [one.scrollWidth > one.clientWidth, getComputedStyle(one).overflowX]"
    assert page.locator("div.math mjx-container").first.evaluate(wide) == [True, "auto"]
    style = "one => getComputedStyle(one).{}"
    assert int(page.locator(".pasted-text").first.evaluate(style.format("fontWeight"))) <= 400
    assert page.locator("table.dataframe td").first.evaluate(style.format("textAlign")) == "right"
    assert page.locator("td.number").first.inner_text() == "1,036.99"
    context.close()


def test_every_page_says_what_it_is(small_site: str) -> None:
    for name in ("book/introduction", "book/live", "notebooks/02_sde"):
        text = urlopen(f"{small_site}/{name}.html").read().decode()
        assert len(re.findall(r'<meta property="og:(?:title|description|type)"', text)) == 3
    assert os.environ.get("CONJURE_SITE") or "og:image" not in text


def test_the_book_is_printed_into_one_file(
    browser: Any, small_folder: Path, tmp_path: Path
) -> None:
    names = ["book/introduction", "book/summary"]
    home, files = print_book.print_pages(browser, small_folder, names, tmp_path)
    target = tmp_path / "book.pdf"
    print_book.joined(home, names, files, target)
    found = pypdf.PdfReader(target)
    titles = [str(entry.title) for entry in found.outline if not isinstance(entry, list)]
    assert titles == ["Conjuring semantic similarity", "The book on one page"]
    actions = [
        note.get_object().get("/A", {}) for page in found.pages for note in page.get("/Annots", ())
    ]
    assert any(action.get("/S") == "/GoTo" for action in actions)  # to the summary
    assert len(pypdf.PdfReader(files[1]).pages) == 1  # that is what it promises
