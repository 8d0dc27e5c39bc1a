"""What is mended in the built pages: markup, numbers, and what a page says to others.

Links to a page that are shared are shown with its title, its first sentence and a picture, by tags
of the Open Graph protocol. An address for the picture needs that of the published book:
CONJURE_SITE, or that of GitHub's pages where the repository is there.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from pathlib import Path

# Markup of Sphinx and its extensions that misleads screen readers, and what stands for it.
MENDED = {
    '<summary aria-label="Toggle hidden content">': "<summary>",  # which says what it shows
    '<div role="list" class="citation-list">': '<div class="citation-list">',  # of no list items
}
NUMBER = re.compile(r"\[?[+±−–≤≥<>~≈-]?\s*\d(?:[\d\s.,:±×%+−–⁻⁰¹²³⁴-⁹[\]()*-]|e[+−-]?\d)*|[–—-]?")
CELL = re.compile(r"<(td|th)( [^>]*)?>(.*?)</\1>", re.DOTALL)
LONG = 200  # characters of a description
# What stands between two texts for readers: tags, and what is code or a formula as it is.
AS_IT_IS = re.compile(
    r"(<(script|style|pre|code|textarea|svg|dt)\b.*?</\2>"
    r"|<(span|div) class=\"[^\"]*\bmath\b.*?</\3>|<[^>]*>)",
    re.DOTALL,
)
MINUS = re.compile(r"(?<![\w.,)\]°%–−-])-(?=\.?\d)")
POWER = re.compile(r"(?<![\w.])(\d(?:\.\d+)?)e([+-])0*(\d+)(?!\w)")
PERCENT = re.compile(r"(?<=\d)\s*%(?!\w)|^\s+%(?!\w)")  # perhaps behind a tag
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def site_address(repository: str | None) -> str | None:
    """Where the book is published, with a slash at the end; None where that is not known."""
    if address := os.environ.get("CONJURE_SITE"):
        return address.rstrip("/") + "/"
    found = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", repository or "")
    return f"https://{found[1].lower()}.github.io/{found[2]}/" if found else None


def finish(folder: Path, title: str, repository: str | None) -> None:
    """Mend every page of the built book in ``folder``."""
    site = site_address(repository)
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for wrong, right in MENDED.items():
            text = text.replace(wrong, right)
        text = numbers_to_the_right(typeset(text))
        place = page.relative_to(folder).as_posix()
        text = described(text, title, None if site is None else site, place)
        page.write_text(text, encoding="utf-8")


def plain(markup: str) -> str:
    """The text of some markup, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", markup)).split())


def typeset(page: str) -> str:
    """``page`` with the numbers of its text as they are set: −2 for -2, 3 × 10⁻⁷ for 3e-07, 5 %."""
    before, article, rest = page.partition("<article")
    inside, end, after = rest.partition("</article>")
    pieces = AS_IT_IS.split(f"{article}{inside}")
    pieces[::4] = map(_numbers, pieces[::4])  # each followed by a tag and the names in it
    kept = (piece for i, piece in enumerate(pieces) if i % 4 < 2)
    return "".join([before, *kept, end, after])


def _numbers(text: str) -> str:
    text = POWER.sub(_power, MINUS.sub("−", text))
    return PERCENT.sub("\N{NO-BREAK SPACE}%", text)


def _power(found: re.Match[str]) -> str:
    """A number with an exponent as people write it; in full from 0.001 up to thousands."""
    mantissa, power = found[1], int(found[2] + found[3])
    if -4 < power < 4:
        return f"{float(found[0]):.{max(0, len(mantissa[2:]) - power)}f}"
    return f"{mantissa}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{str(power).translate(RAISED)}"


def numbers_to_the_right(page: str) -> str:
    """``page`` with class "number" on the cells of columns that hold numbers alone."""
    # of the text, and of pandas with a style; those of pandas without one are aligned already
    return re.sub(r'<table (?:class="table|id="T_).*?</table>', _aligned, page, flags=re.DOTALL)


def _aligned(table: re.Match[str]) -> str:
    text = table[0]
    _, _, below = text.rpartition("</thead>")
    if "span=" in below:  # cells of several columns or rows
        return text
    rows = [CELL.findall(row) for row in text.split("<tr")[1:]]
    body = [row for row in rows if any(kind == "td" for kind, *_ in row)]  # the first may be a name
    width = min((len(row) for row in body), default=0)
    columns = []
    for i in range(width):
        cells = [plain(row[i][2]) for row in body]
        columns.append(any(cells) and all(NUMBER.fullmatch(cell) for cell in cells))
    parts = text.split("<tr")
    return "<tr".join(parts[:1] + [_marked(row, columns) for row in parts[1:]])


def _marked(row: str, columns: list[bool]) -> str:
    if "span=" in row:  # a heading of several columns
        return row
    place = iter(range(len(columns)))

    def mark(cell: re.Match[str]) -> str:
        i = next(place, None)
        if i is None or not columns[i]:
            return cell[0]
        rest = cell[2] or ""
        rest = (
            rest.replace('class="', 'class="number ')
            if "class=" in rest
            else f'{rest} class="number"'
        )
        return f"<{cell[1]}{rest}>{cell[3]}</{cell[1]}>"

    return CELL.sub(mark, row)


def described(page: str, book: str, site: str | None, place: str) -> str:
    """``page`` with its description for those who meet a link to it."""
    article = page.partition("<article")[2]
    heading = re.search(r"<h1>(.*?)(?:<a |</h1>)", article, re.DOTALL)
    first = re.search(r"<p>(.*?)</p>", article.partition("</h1>")[2], re.DOTALL)
    if heading is None or first is None or "og:title" in page:
        return page
    sentence = plain(first[1])
    if len(sentence) > LONG:
        sentence = sentence[:LONG].rsplit(" ", 1)[0] + " …"
    tags = {
        "og:title": plain(heading[1]),
        "og:description": sentence,
        "og:type": "article",
        "og:site_name": book,
    }
    if site:
        tags |= {"og:url": site + place, "og:image": f"{site}_static/recording/recording.png"}
    quote: Callable[[str], str] = html.escape
    lines = [f'<meta name="description" content="{quote(sentence)}">']
    lines += [f'<meta property="{name}" content="{quote(value)}">' for name, value in tags.items()]
    return page.replace("</head>", "".join(f"    {line}\n" for line in lines) + "</head>", 1)
