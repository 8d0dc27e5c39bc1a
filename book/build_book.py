"""Build the Jupyter Book from the executed chapters.

    PYTHONPATH=notebooks python book/build_book.py --profile book    # or: make html

The sources are put together in _build/book-src, laid out as in the repository, so that relative
links hold in both places; the pages land in _build/html. Warnings are errors, and so is anything
in a page that a reader without a network would miss.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import choosing
import explorer
import findings
import live
import nbformat
import recording
import yaml
from execute import (
    ROOT,
    chapter_key,
    chapters,
    contents,
    folders,
    glued,
    holding,
    read_profile,
    read_record,
    watched_paths,
)
from finish import finish
from strict import ChapterError, read_notebook, read_yaml
from tidy import tidy

from studies.pages import captioned

PAGE_PARTS = {".md", ".png", ".svg"}  # of data/, what pages may include
COLAB = "https://colab.research.google.com"
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "manifest", "prefetch"}
FAVICON = "_static/favicon.svg"
# url(...) and @import of style sheets, wherever they stand
STYLE_ADDRESS = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s;]+)""", re.I)


def repository_url() -> str | None:
    """The public https address of the repository, without credentials; None where there is none.

    From CONJURE_REPOSITORY, or else from the git remote called origin. The theme knows the page
    layouts of GitHub and GitLab; other hosts are left out.
    """
    address = os.environ.get("CONJURE_REPOSITORY")
    if address is None:
        command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
        address = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    pattern = r"https://(?:[^/@\s]+@)?([\w.-]*git(?:hub|lab)[\w.-]*/[\w.-]+/[\w.-]+?)(?:\.git)?/?"
    match = re.fullmatch(pattern, address.strip())
    return f"https://{match[1]}" if match else None


def effective_config(config: Mapping[str, Any], repository: str | None) -> dict[str, Any]:
    """``config`` with the buttons that need an address, where there is one."""
    buttons = ("use_repository_button", "use_issues_button", "use_edit_page_button")
    html = {**config.get("html", {}), **dict.fromkeys(buttons, repository is not None)}
    launch = {"colab_url": COLAB if (repository or "").startswith("https://github.com/") else ""}
    place = {"url": repository or "", "branch": "main"}
    return {**config, "html": html, "launch_buttons": launch, "repository": place}


def cost_table(records: Mapping[str, Mapping[str, Any]], profile: str) -> str:
    """A Markdown table of what each chapter cost; ``records`` by notebook stem."""
    rows = [
        (
            f"[](../notebooks/{stem}.ipynb)",
            f"{record['predictions']:,}",
            f"{record['seconds']:.0f}",
            f"{record['peak_mib']:,.0f}",
        )
        for stem, record in records.items()
    ]
    predictions, total = (
        sum(r[key] for r in records.values()) for key in ("predictions", "seconds")
    )
    setups = {
        f"Python {r['python']}, torch {r['torch']}, diffusers {r['diffusers']} and transformers "
        f"{r['transformers']}, {r['cores']} cores"
        for r in records.values()
    }
    rows.append(("together", f"{predictions:,}", f"{total:.0f}", ""))
    heads = ["chapter", "noise predictions", "seconds", "peak memory, MiB"]
    return captioned(f"Profile `{profile}`; {'; '.join(setups)}.", heads, rows)


def predictions_of(values: Mapping[str, str]) -> int:
    """How many noise predictions a chapter says that it made; 0 where it made none."""
    return int(re.sub(r"\D", "", values.get("evaluations", "0")))


def copy_pages(root: Path, source: Path) -> None:
    """The prose, its pictures, and what of data/ pages may include."""
    ignore = shutil.ignore_patterns("*.py", "__pycache__")
    shutil.copytree(root / "book", source / "book", ignore=ignore)
    for file in (root / "data").rglob("*"):
        if file.suffix in PAGE_PARTS:
            copy = source / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def copy_chapters(root: Path, executed: Path, source: Path) -> dict[str, dict[str, Any]]:
    """The executed chapters; returns the records of what they cost, by notebook stem.

    Raises:
        ChapterError: a chapter has not been executed under this profile, or since then something
            in the repository that its numbers depend on has changed, or the copy has.
    """
    (source / "notebooks").mkdir()
    notebooks = chapters(root / "notebooks")
    file = root / "notebooks" / "profiles" / f"{executed.name}.yaml"
    profile, base = read_profile(file, notebooks), contents(watched_paths(root))
    records = {}
    for notebook in notebooks:
        records[notebook.stem] = read_record(notebook, executed)
        if records[notebook.stem]["key"] != chapter_key(notebook, profile[notebook.stem], base):
            raise ChapterError(
                f"{notebook.name} was executed before something changed that its numbers depend "
                "on: make book executes it again"
            )
        page = read_notebook(executed / notebook.name)
        records[notebook.stem]["predictions"] = predictions_of(glued(page))
        nbformat.write(tidy(page, file), source / "notebooks" / notebook.name)
    return records


def check_contents(root: Path) -> None:
    """Refuse a _toc.yml that does not list every page and every chapter, each once.

    Raises:
        ChapterError: one is missing, stands twice, or is not there; or a level is unsound.
    """
    toc, _ = read_yaml(root / "_toc.yml")
    listed = list(listed_files(toc))
    pages = [*(root / "book").glob("*.md"), *chapters(root / "notebooks")]
    there = {page.relative_to(root).with_suffix("").as_posix() for page in pages}
    for name in sorted({name for name in listed if listed.count(name) > 1}):
        raise ChapterError(f"_toc.yml lists {name} twice")
    for name in sorted(there.difference(listed)):
        raise ChapterError(f"_toc.yml does not list {name}, which would be left out of the book")
    for name in sorted(set(listed) - there):
        raise ChapterError(f"_toc.yml lists {name}, and there is no such page or chapter")


def listed_files(level: Any) -> Iterator[str]:
    """Every file that a level of a table of contents names, and those below it."""
    if isinstance(level, list):
        for entry in level:
            yield from listed_files(entry)
    elif isinstance(level, dict):
        for name, value in level.items():
            if name in ("root", "file"):
                yield str(value)
            else:
                yield from listed_files(value)


def write_config(root: Path, source: Path, repository: str | None) -> None:
    """The configuration of the book that ``source`` becomes."""
    config, _ = read_yaml(root / "_config.yml")
    effective = yaml.safe_dump(effective_config(config, repository), allow_unicode=True)
    (source / "_config.yml").write_text(effective, encoding="utf-8")


def write_contents(root: Path, source: Path) -> None:
    """The table of contents, in which chapters have the numbers that the text calls them by."""
    toc, _ = read_yaml(root / "_toc.yml")
    for part in toc.get("parts", []):
        for entry in part["chapters"]:
            file = source / f"{entry['file']}.ipynb"
            if file.is_file():
                entry["title"] = f"{int(file.stem.split('_')[0])}. {first_heading(file)}"
    text = yaml.safe_dump(toc, allow_unicode=True, sort_keys=False)
    (source / "_toc.yml").write_text(text, encoding="utf-8")


def first_heading(notebook: Path) -> str:
    """The title of a chapter."""
    cells = (cell.source for cell in read_notebook(notebook).cells if cell.cell_type == "markdown")
    found = re.search(r"^# (.+)$", "\n".join(cells), re.MULTILINE)
    if found is None:
        raise ChapterError(f"{notebook.name} has no heading of the first level: # TITLE")
    return found[1].strip()


def put_together(root: Path, executed: Path, source: Path, repository: str | None) -> None:
    """Fill the folder ``source`` with everything that the book is built from."""
    check_contents(root)
    shutil.rmtree(source, ignore_errors=True)
    copy_pages(root, source)
    (source / "_static").mkdir()
    shutil.copy(root / "book" / "book.css", source / "_static")
    for part in (recording, live, explorer, findings, choosing):
        part.put_beside(source / "book")
    with holding(executed):  # no runner puts other copies in their places meanwhile
        records = copy_chapters(root, executed, source)
    (source / "book" / "cost_table.txt").write_text(cost_table(records, executed.name))
    write_config(root, source, repository)
    write_contents(root, source)


def build(source: Path, output: Path) -> Path:
    """Build ``source`` anew into ``output``/_build/html, which is returned.

    Raises:
        ChapterError: Sphinx warned or failed; its own words are on standard error.
    """
    html = output / "_build" / "html"
    shutil.rmtree(html, ignore_errors=True)
    shutil.rmtree(output / "_build" / ".doctrees", ignore_errors=True)
    tool = str(Path(sys.executable).with_name("jupyter-book"))
    if not Path(tool).is_file():
        raise ChapterError(f"there is no {tool}: make setup installs it")
    options = ["--path-output", str(output), "--warningiserror", "--keep-going", "--quiet"]
    paths = [str(ROOT), str(ROOT / "book"), os.environ.get("PYTHONPATH", "")]
    there = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}  # for the reference
    command = [tool, "build", str(source), *options]
    if subprocess.run(command, env=there, check=False).returncode:
        raise ChapterError("the book was not built: a warning is an error here, see above")
    config = yaml.safe_load((source / "_config.yml").read_text(encoding="utf-8"))
    title = config["title"]
    finish(html, title, config.get("repository", {}).get("url"))
    first = html / "index.html"  # Jupyter Book's is one line that leads to the introduction
    head = f'<html lang="en">\n<title>{title}</title>\n<link rel="icon" href="{FAVICON}">\n'
    first.write_text(f"<!DOCTYPE html>\n{head}{first.read_text(encoding='utf-8')}</html>\n")
    return html


class _Loaded(HTMLParser):
    """Collects the addresses that a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        if tag == "link" and not LOADED_LINKS & set(values.get("rel", "").lower().split()):
            values.pop("href", None)  # such as rel="canonical", which nothing fetches
        names = ["src", "srcset", "poster", "data"] + ["href"] * (tag in ("link", "image", "use"))
        for name in names:
            self.found += [
                part.split()[0] for part in values.get(name, "").split(",") if part.strip()
            ]
        self.found += STYLE_ADDRESS.findall(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.found += STYLE_ADDRESS.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False


def outside_resources(html: Path) -> Iterator[tuple[Path, str]]:
    """Every script, style sheet, font, picture or frame that a built page takes from elsewhere."""
    for page in sorted(html.rglob("*.html")):
        parser = _Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        for address in parser.found:
            if re.match(r"(https?:)?//", address):
                yield page.relative_to(html), address
    for sheet in sorted(html.rglob("*.css")):
        for address in STYLE_ADDRESS.findall(sheet.read_text(encoding="utf-8")):
            yield sheet.relative_to(html), address


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Build the book from the executed chapters.")
    parser.add_argument("--profile", default="book", help="which executed chapters to take")
    profile = parser.parse_args(arguments).profile
    source = ROOT / "_build" / "book-src"
    try:
        _, executed = folders(profile)
        put_together(ROOT, executed, source, repository_url())
        html = build(source, ROOT)
        for part in (recording, live, explorer):
            part.publish(html)
        if outside := [f"{page} loads {address}" for page, address in outside_resources(html)]:
            raise ChapterError("the book needs a network:\n" + "\n".join(outside))
    except (ChapterError, OSError) as error:
        sys.exit(f"\nFAILED: {error}")
    print(f"The book is built. Open {os.path.relpath(html / 'index.html')} in a browser.")


if __name__ == "__main__":
    main()
