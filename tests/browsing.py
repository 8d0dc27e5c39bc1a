"""A site served and a browser that watches what a page does: for the tests of the built pages."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import build_book
import explorer
import live
import yaml
from execute import ROOT

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 740}}


@dataclass
class Watched:
    """A page of a browser, and what went wrong or abroad while it was open."""

    page: Any
    address: str
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        home = urlsplit(self.address).netloc
        self.page.set_default_timeout(120_000)  # a busy machine is no fault of the page
        on = self.page.on
        on("console", lambda m: m.type in ("error", "warning") and self.faults.append(m.text))
        on("pageerror", lambda error: self.faults.append(str(error)))
        on(
            "requestfailed",  # one that is cut off by leaving the page has not failed
            lambda r: r.failure != "net::ERR_ABORTED" and self.faults.append(f"failed: {r.url}"),
        )
        on("response", lambda r: r.status >= 400 and self.faults.append(f"{r.status}: {r.url}"))
        self.page.context.on(
            "request",
            lambda r: (
                urlsplit(r.url).netloc not in (home, "") and self.faults.append(f"abroad: {r.url}")
            ),
        )

    def open(self, fragment: str = "") -> Watched:
        self.page.goto("about:blank")  # another fragment alone would not load the page anew
        self.page.goto(self.address + fragment, wait_until="networkidle")
        return self

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.page.evaluate("document.scrollingElement.scrollWidth - innerWidth")

    def inaccessible(self, selector: str = "body") -> list[str]:
        """Accessibility faults that axe-core calls serious or critical."""
        script = live.workshop() / "node_modules" / "axe-core" / "axe.min.js"
        self.page.evaluate(script.read_text(encoding="utf-8"))
        # two buttons of the theme: axe takes an icon's title and a hint of keys for their labels
        theirs = [".theme-switch-button", ".search-button-field"]
        where = {"include": [selector], "exclude": theirs}
        found = self.page.evaluate("where => axe.run(where)", where)["violations"]
        return [
            f"{fault['id']}: {fault['help']} {[node['html'] for node in fault['nodes']][:5]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """No line for every request."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of ``folder``, served without any special headers."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def small_site(folder: Path) -> Path:
    """A book of the live page and the explorer alone, built in ``folder``; where its pages are."""
    source = folder / "source"
    shutil.copytree(ROOT / "book" / "images", source / "book" / "images")
    shutil.copy(ROOT / "book" / "references.bib", source / "book")
    linked = ["notebooks/03_algorithm_1", "notebooks/05_sts", "notebooks/08_distance_matrices"]
    (source / "notebooks").mkdir()
    for name in ("book/introduction", "book/model_card", *linked):
        (source / name).with_suffix(".md").write_text("# A page\n")
    for name in ("live", "explorer"):
        shutil.copy(ROOT / "book" / f"{name}.md", source / "book")
    with (source / "book" / "model_card.md").open("a") as page:
        page.write("\n```{bibliography}\n```\n")
    files = [{"file": name} for name in (*linked, "book/live", "book/explorer", "book/model_card")]
    toc = {"format": "jb-book", "root": "book/introduction", "chapters": files}
    (source / "_toc.yml").write_text(yaml.safe_dump(toc))
    shutil.copy(ROOT / "_config.yml", source)
    for part in (live, explorer):
        part.put_beside(source / "book")
    html = build_book.build(source, folder)
    for part in (live, explorer):
        part.publish(html)
    return html
