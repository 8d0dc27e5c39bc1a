"""Print the built book into one PDF, with what the machine has: headless Chromium.

    make pdf    # _build/conjuring.pdf, from _build/html

Every page is printed as a browser shows it, in the order of the contents, and links between pages
lead within the file.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from build_book import listed_files
from execute import ROOT
from strict import ChapterError, read_yaml

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FOOTER = (
    '<div style="font: 8px sans-serif; width: 100%; padding: 0 15mm; display: flex; '
    'justify-content: space-between"><span class="title"></span>'
    '<span class="pageNumber"></span></div>'
)
MARGIN: Any = {"top": "15mm", "bottom": "18mm", "left": "15mm", "right": "15mm"}
# what moves or asks for a click is of no use on paper; folded cells are printed as they stand
STYLE = """
.bd-header, .bd-header-article, .bd-sidebar-primary, .bd-sidebar-secondary, .prev-next-footer,
.recording-controls, .start-buttons, #conjure form, .explorer, .headerlink, .copybtn {
  display: none !important;
}
.bd-main .bd-content .bd-article-container { max-width: none !important; }
figure, img, table, .math, conjure-recording { break-inside: avoid; }
"""
SET = """() => [...document.querySelectorAll("span.math, div.math")].every(
    (one) => one.querySelector("mjx-container"))"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """No line for every request."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of ``folder`` on this machine."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ChapterError(f"no browser to print with: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"], timeout=120_000
        )


def print_pages(
    chromium: Any, html: Path, names: Sequence[str], folder: Path
) -> tuple[str, list[Path]]:
    """Each page of the book as a PDF of its own; also the address that its links begin with."""
    files = []
    with served(html) as home:
        page = chromium.new_page(reduced_motion="reduce")
        page.set_default_timeout(300_000)
        for number, name in enumerate(names):
            print(f"[{number + 1}/{len(names)}] {name}", flush=True)
            page.goto(f"{home}/{name}.html", wait_until="networkidle")
            page.wait_for_function(SET)
            page.add_style_tag(content=STYLE)
            files.append(folder / f"{number:03}.pdf")
            page.pdf(
                path=files[-1], format="A4", margin=MARGIN, print_background=True,
                display_header_footer=True, header_template="<span></span>", footer_template=FOOTER,
            )  # fmt: skip
        page.close()
    return home, files


def joined(home: str, names: Sequence[str], files: Sequence[Path], target: Path) -> None:
    """One file of all, with an outline, in which links to pages of the book lead to their place."""
    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NullObject

    writer, first = PdfWriter(), {}
    for name, file in zip(names, files, strict=True):
        reader = PdfReader(file)
        first[f"{home}/{name}.html"] = len(writer.pages)
        title = (reader.metadata.title if reader.metadata else None) or name
        writer.append(reader, outline_item=title.partition(" — ")[0])
    for page in writer.pages:
        for link in page.get("/Annots", ()):
            action = link.get_object().get("/A", {})
            place = first.get(str(action.get("/URI", "")).partition("#")[0])
            if place is None:
                continue
            to = writer.pages[place].indirect_reference
            spot = ArrayObject([to, NameObject("/XYZ"), *(NullObject(),) * 3])
            inside = DictionaryObject(
                {NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): spot}
            )
            link.get_object()[NameObject("/A")] = inside
    writer.write(target)


def main() -> None:
    html, target = ROOT / "_build" / "html", ROOT / "_build" / "conjuring.pdf"
    try:
        if not (html / "index.html").is_file():
            raise ChapterError("the book is not built: make book")
        names = list(listed_files(read_yaml(ROOT / "_toc.yml")[0]))
        with tempfile.TemporaryDirectory() as folder, browser() as chromium:
            home, files = print_pages(chromium, html, names, Path(folder))
            joined(home, names, files, target)
    except (ChapterError, OSError) as error:
        sys.exit(f"\nFAILED: {error}")
    print(f"The book is printed: {os.path.relpath(target)}, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
