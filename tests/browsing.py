"""A site served and a browser that watches what a page does: for the tests of the built pages."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import build_book
import choosing
import explorer
import findings
import live
import nbformat
import pandas as pd
import recording
from execute import ROOT, chapters
from print_book import BROWSERS

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


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


def small_site(folder: Path) -> Path:
    """The pages of the book without its chapters, built in ``folder``; where they are.

    In the place of each chapter stands one with the same headings; the first one's cells show what
    chapters have: a table, a wide figure, a wide equation and computed values.
    """
    source = folder / "source"
    build_book.copy_pages(ROOT, source)
    (source / "_static").mkdir()
    shutil.copy(ROOT / "book" / "book.css", source / "_static")
    (source / "notebooks").mkdir()
    for number, notebook in enumerate(chapters(ROOT / "notebooks"), 1):
        nbformat.write(headings_of(notebook, number == 1), source / "notebooks" / notebook.name)
    (source / "book" / "cost_table.txt").write_text(
        "| chapter | seconds |\n|---|---|\n| 1 | 2.5 |\n"
    )
    build_book.write_contents(ROOT, source)
    build_book.write_config(ROOT, source, None)
    parts = (recording, live, explorer)
    for part in (*parts, choosing, findings):
        part.put_beside(source / "book")
    html = build_book.build(source, folder)
    for part in parts:
        part.publish(html)
    return html


def headings_of(notebook: Path, shows: bool) -> nbformat.NotebookNode:
    """A chapter with the headings and equations' labels of ``notebook``, and perhaps more."""
    cells = [
        c.source for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "markdown"
    ]
    lines = [line for cell in cells for line in cell.splitlines() if re.match("#+ ", line)]
    labels = [label for cell in cells for label in re.findall(r"\$\$ (\([\w-]+\))$", cell, re.M)]
    lines += [f"$$\nx\n$$ {label}" for label in labels]  # pages refer to equations of chapters
    made = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    made.cells = [nbformat.v4.new_markdown_cell("\n\n".join([*lines[:1], "Text.", *lines[1:]]))]
    if shows:
        made.cells += shown_cells()
    return made


def shown_cells() -> list[nbformat.NotebookNode]:
    """Cells with a table, a figure, an equation wider than the page, and a computed value."""
    frame = pd.DataFrame({"distance": [-36.99, 0.7], "error": [0.01, 0.121]}, index=["a", "b"])
    picture = base64.b64encode(
        (ROOT / "data" / "emoji-diffusion" / "contact_sheet.png").read_bytes()
    ).decode()
    outputs = [
        nbformat.v4.new_output("display_data", {"text/html": frame.to_html()}),
        nbformat.v4.new_output("display_data", {"image/png": picture}),
    ]
    glued = {"scrapbook": {"mime_prefix": "application/papermill.record/", "name": "value"}}
    data = {"application/papermill.record/text/plain": "'12.5 nats'"}
    outputs.append(nbformat.v4.new_output("display_data", data, metadata=glued))
    code = nbformat.v4.new_code_cell("1", outputs=outputs, execution_count=1)
    wide = " + ".join(f"\\lVert \\varepsilon(x_{{{i}}}, t) \\rVert^2" for i in range(40))
    text = f"The value is {{glue:text}}`value`.\n\n$$\n{wide}\n$$\n\n"
    text += "| text | nats |\n|---|---|\n| a | 1,036.99 |"
    return [code, nbformat.v4.new_markdown_cell(text)]
