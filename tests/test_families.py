"""Every family against diffusers' own call, on small pipelines with random weights.

The pipeline draws its own noise and is only listened to, at its network and its scheduler. From the
same x_T, what the network is told and says at every step, and the sample at the end, must be ours.
"""

from __future__ import annotations

import copy
import inspect
import json
import warnings
from collections.abc import Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers.pipelines import auto_pipeline
from pipelines import FAMILIES, make
from torch import Tensor

import conjure_lib as cj
from conjure_lib.pipelines import check_family
from conjure_lib.process import generator
from conjure_lib.reading import UnreadWarning
from conjure_lib.sde import eps_from_output
from conjure_tools import runs
from conjure_tools.cli import main
from conjure_tools.fingerprints import fingerprint, weights_hash

CLASSES = sorted(
    {
        kind
        for name, mapping in vars(auto_pipeline).items()
        if "TEXT2IMAGE" in name and name.endswith("MAPPING")
        for kind in mapping.values()
    },
    key=lambda kind: kind.__name__,
)
UNTRIED = "it was not tried"
STEPS = 4
PROMPTS = ["a red fox", "two boats on the sea"]


@cache
def both(name: str) -> tuple[Any, cj.GenerativeProcess]:
    family, pipeline = FAMILIES[name], make(name)
    return pipeline, cj.from_pipeline(
        pipeline, height=family.size, width=family.size, **family.call
    )


class Heard:
    """What a pipeline's own run says: x, t and the output at each step, and where it ends."""

    def __init__(self, name: str, prompt: str, options: Mapping[str, Any], output: str) -> None:
        pipeline, family = both(name)[0], FAMILIES[name]
        self.x: list[Tensor] = []
        self.t: list[float] = []
        self.output: list[Tensor] = []
        scheduler, own = pipeline.scheduler, pipeline.scheduler.step

        def step(output: Tensor, t: Any, x: Tensor, *given: Any, **named: Any) -> Any:
            self.x.append(x.clone())
            self.t.append(float(t))
            self.output.append(output.clone())
            if "generator" in inspect.signature(own).parameters:  # noise of a step as we draw it
                named["generator"] = [generator(0, 0, len(self.t) - 1)]
            found = own(output, t, x, *given, **named)
            self.final = found[0].clone()
            return found

        scheduler.step = wraps(own)(step)
        try:
            self.picture = pipeline(
                prompt=prompt,
                num_inference_steps=STEPS,
                generator=torch.Generator().manual_seed(5),
                height=family.size,
                width=family.size,
                output_type=output,
                **options,
                **{k: v for k, v in family.call.items() if k not in options},
            )[0]
        finally:
            del scheduler.step


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_trajectory_is_the_pipelines_own(name: str, guidance: float) -> None:
    process, family = both(name)[1], FAMILIES[name]
    options = family.plain if guidance == 1 else family.guided
    if options is None:
        pytest.skip("its own guidance is another")
    for prompt in PROMPTS:
        theirs = Heard(name, prompt, options, "latent")
        assert tuple(theirs.x[0].shape) == (1, *process.latent_shape)
        start = float(getattr(process.sampler(sampler="own", steps=STEPS), "init_noise_sigma", 1.0))
        path = process.trajectories(
            process.encode([prompt]),
            theirs.x[0] / start,
            [0],
            steps=STEPS,
            guidance=guidance,
            sampler="own",
        )
        np.testing.assert_allclose(path.timesteps.double(), theirs.t, rtol=1e-6)
        steps = zip(path.states[0], path.timesteps, theirs.output, strict=True)
        for k, (x, t, output) in enumerate(steps):
            expected = output[:, : x.shape[0]]
            if process.kind != "epsilon":
                at = process.schedule.coefficients(t[None])
                expected = eps_from_output(expected, x[None], *at, process.kind)
            torch.testing.assert_close(path.guided[:, k], expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(path.final, theirs.final, rtol=1e-3, atol=1e-4)
        spread = (theirs.output[0] - theirs.output[-1]).abs().max()
        assert spread > 1e-4 and theirs.final.isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_distances(name: str) -> None:
    _, process = both(name)
    settings: dict[str, Any] = {"steps": 2, "draws": 1}
    one = cj.distance(process, *PROMPTS, **settings)
    other = cj.distance(process, *PROMPTS[::-1], batch_size=1, **settings)
    assert one.value > 0 and one.value == pytest.approx(other.value, rel=1e-4)
    assert cj.distance(process, *PROMPTS, guidance=3.0, **settings).value > 0


def test_a_saved_pipeline_loads(tmp_path: Path) -> None:
    pipeline, process = both("StableDiffusionXLPipeline")
    pipeline.save_pretrained(tmp_path / "sdxl")
    again = cj.load(tmp_path / "sdxl", device="cpu")
    settings: dict[str, Any] = {"steps": 2, "draws": 1, "sampler": "own"}
    mine, loaded = (cj.distance(p, *PROMPTS, **settings).value for p in (process, again))
    assert loaded == pytest.approx(mine, rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_are_the_pipelines(name: str) -> None:
    """Of the latents where its own run ended."""
    _, process = both(name)
    theirs = Heard(name, PROMPTS[0], FAMILIES[name].plain, "np")
    assert process.decode is not None
    pictures = process.decode(torch.cat([theirs.final, theirs.final.flip(-1)]))
    np.testing.assert_allclose(pictures[:1], theirs.picture, rtol=0, atol=1e-4)
    assert np.abs(pictures[0] - pictures[1]).max() > 1e-3


def test_latents_are_not_clipped_by_a_samplers_own_default() -> None:
    """PixArt's checkpoints come with a scheduler that has no setting for it."""
    pipeline = make("PixArtAlphaPipeline")
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler()
    process = cj.from_pipeline(pipeline)
    for name in ("ddim", "ddpm"):
        assert not process.sampler(sampler=name, steps=4).config.clip_sample
    path = process.trajectories(process.encode(["a"]), 30 * process.noise([0], 0), [0], steps=4)
    assert path.final.abs().max() > 2


@pytest.mark.parametrize("name", FAMILIES)
def test_use_changes_no_fingerprint(name: str) -> None:
    _, process = both(name)
    before = fingerprint(process)
    cj.distance(process, "cat", "dog", steps=2, draws=1)
    process.generate(["cat"], steps=2)
    assert fingerprint(process) == before == fingerprint(copy.deepcopy(process))


def test_a_flow_needs_two_steps() -> None:
    _, process = both("StableDiffusion3Pipeline")
    with pytest.raises(ValueError, match="2 steps or more"):
        process.sampler(sampler="euler", steps=1)


def test_half_precision_is_of_the_network_alone(tmp_path: Path) -> None:
    for family in ("StableDiffusionXLPipeline", "StableDiffusion3Pipeline"):
        make(family).save_pretrained(tmp_path / family)
        process = cj.load(tmp_path / family, device="cpu", dtype=torch.bfloat16)
        dtypes = {name: next(m.parameters()).dtype for name, m in process.modules.items()}
        network = dtypes.pop("unet", None) or dtypes.pop("transformer")
        assert network == torch.bfloat16 and set(dtypes.values()) == {torch.float32}
        assert process.dtype == "bfloat16"
        assert cj.distance(process, *PROMPTS, steps=2, draws=1, sampler="own").value > 0


def test_samplers_that_do_not_fit() -> None:
    _, process = both("StableDiffusion3Pipeline")
    with pytest.raises(
        ValueError, match="3Pipeline's sampler must be one of euler, own, not 'ddim'"
    ):
        process.sampler(sampler="ddim", steps=4)


@pytest.mark.parametrize(
    ("name", "first"), [("StableDiffusion3Pipeline", "euler"), ("StableDiffusionPipeline", "ddim")]
)
def test_the_default_sampler_is_the_first_that_fits(
    name: str, first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever none is named, the numbers are those of that one, and so is the name on record."""
    _, process = both(name)
    few: dict[str, Any] = {"steps": 2, "draws": 1}
    terms = cj.pair_terms(process, [PROMPTS], **few)
    np.testing.assert_array_equal(
        terms.squares, cj.pair_terms(process, [PROMPTS], sampler=first, **few).squares
    )
    pairs = pd.DataFrame([["a", *PROMPTS]], columns=["id", "text1", "text2"])
    run = runs.score(process, pairs, tmp_path / "run", report=str, **few)
    found = [terms, cj.floor(process, "a", **few), cj.trace(process, *PROMPTS, steps=2), run.terms]
    assert [one.sampling.sampler for one in found] == [first] * 4
    assert cj.Scorer(process, **few).sampling.sampler == run.record["settings"]["sampler"] == first
    make(name).save_pretrained(tmp_path / "model")
    model = ["--model", str(tmp_path / "model"), "--steps", "2", "--draws", "1"]
    assert main(["compare", *PROMPTS, *model]) == 0
    assert f"1 draws of 2 steps ({first}, " in capsys.readouterr().out
    assert main(["compare", *PROMPTS, *model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampler"] == first
    if first == "euler":
        assert main(["compare", *PROMPTS, *model, "--sampler", "ddim"]) == 2
        assert "must be one of euler, own, not 'ddim'" in capsys.readouterr().err


# -- the page of families ---------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[1] / "book" / "families.md"


def row(name: str) -> str:
    """A family's line of the page."""
    process = both(name)[1]
    kinds = {"epsilon": "ε", "v_prediction": "v", "flow": "the velocity of a flow"}
    guided = "1 and 3" if FAMILIES[name].guided else "1; its own rule for others differs"
    samplers = ", ".join(process.samplers)
    if process.scheduler.config.get("use_karras_sigmas"):
        samplers += ", which keeps the Karras sigmas that it has here"
    return f"| {name} | {kinds[process.kind]} | {samplers} | {process.samplers['own']} | {guided} |"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_page_of_families_says_what_is_proven(name: str) -> None:
    assert row(name) in PAGE.read_text("utf-8")


def refusal(kind: type) -> str:
    """Why a class is not adapted, empty where it may be."""
    try:
        check_family(kind)
    except ValueError as error:
        return str(error).split(". A GenerativeProcess")[0].partition("not adapted: ")[2]
    return ""


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_for_texts_is_proven_or_named(kind: type) -> None:
    """What is refused is so by its class alone, before anything is fetched."""
    if kind.__name__ in FAMILIES:
        check_family(kind)
    else:
        assert f"| {kind.__name__} | {refusal(kind) or UNTRIED} |" in PAGE.read_text("utf-8")


def test_thirty_classes_are_proven() -> None:
    assert len({kind.__name__ for kind in CLASSES} & set(FAMILIES)) >= 30


# -- a pipeline as it is ----------------------------------------------------------------------


def test_load_takes_a_pipeline_and_options_of_its_call() -> None:
    pipeline = make("StableDiffusionPipeline")
    plain = cj.load(pipeline)
    other = cj.load(pipeline, height=32, width=16, negative_prompt="a dog")
    assert plain.latent_shape == (4, 8, 8) and other.latent_shape == (4, 16, 8)
    assert torch.equal(other.encode([""]), plain.encode(["a dog"]))
    assert not torch.equal(plain.encode([""]), plain.encode(["a dog"]))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("StableDiffusionPipeline", {"height": 32}, ValueError, "height alone is what pipelines"),
        ("StableDiffusionPipeline", {"width": 32, "height": None}, ValueError, "give height and"),
        ("FluxPipeline", {"width": 32}, ValueError, "width alone"),
        ("StableDiffusionPipeline", {"guidance_scale": 3}, ValueError, "guidance_scale=3 changes"),
        ("StableDiffusion3Pipeline", {"guidance_scale": 7.5}, ValueError, "give guidance=… with"),
        ("QwenImagePipeline", {"true_cfg_scale": 4.0}, ValueError, "true_cfg_scale=4.0 changes"),
        ("StableDiffusionPAGPipeline", {"pag_scale": 3.0}, ValueError, "pag_scale=3.0 changes"),
        ("StableDiffusionPipeline", {"eta": 1.0}, TypeError, "no option eta that could be set"),
        ("StableDiffusionXLPipeline", {"guidance_rescale": 0.7}, TypeError, "guidance_rescale"),
        ("StableDiffusionPipeline", {"num_images_per_prompt": 2}, TypeError, "num_images"),
        ("FluxPipeline", {"callback_on_step_end": print}, TypeError, "callback_on_step_end"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        cj.load(make(name), **options)


def test_a_negative_prompt_without_guidance_is_warned_of() -> None:
    process = cj.load(make("StableDiffusionPipeline"), negative_prompt="a dog")
    few: dict[str, Any] = {"steps": 2}
    for use in (
        lambda: cj.distance(process, *PROMPTS, draws=1, **few),
        lambda: cj.trace(process, *PROMPTS, **few),
        lambda: process.generate(PROMPTS, **few),
        lambda: cj.Scorer(process, draws=1, **few).encode(PROMPTS),
    ):
        with pytest.warns(UserWarning, match="negative_prompt changes nothing without guidance"):
            use()
    assert cj.distance(process, *PROMPTS, draws=1, guidance=3.0, **few).value > 0  # and is silent
    assert process.generate(PROMPTS, guidance=3.0, **few).shape[0] == 2


def test_a_text_that_a_frame_leaves_no_room_for_is_warned_of() -> None:
    """Lumina 2 puts a text behind an instruction, which its tokenizer's room knows nothing of."""
    process = cj.load(make("Lumina2Pipeline"))
    fits, beyond = ("fox " * 9).strip(), ("fox " * 45).strip()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadWarning)
        process.encode([fits])
    with pytest.warns(UnreadWarning, match="is told nothing of the end of 'fox fox"):
        process.encode([beyond])


def test_the_guidance_that_a_distilled_network_is_told() -> None:
    pipeline = make("FluxPipeline")
    size: dict[str, Any] = {"height": 16, "width": 16}
    usual, other = cj.load(pipeline, **size), cj.load(pipeline, guidance_scale=7.0, **size)
    told = [p.encode(["a cat"]).rows[0].parts["guidance"] for p in (usual, other)]
    assert [float(one) for one in told] == [3.5, 7.0]


def test_a_compiled_network_is_the_same_model() -> None:
    pipeline = make("StableDiffusionPipeline")
    plain = cj.load(pipeline)
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    compiled = cj.load(pipeline)
    assert weights_hash(compiled) == weights_hash(plain)
    assert fingerprint(compiled) == fingerprint(plain)
    numbers = [cj.distance(p, *PROMPTS, steps=2, draws=1).value for p in (plain, compiled)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)


def test_a_network_stored_in_eight_bits_computes_in_more() -> None:
    pipeline = make("FluxPipeline")
    pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    process = cj.load(pipeline, height=16, width=16)
    assert process.dtype == "float32"
    assert cj.distance(process, *PROMPTS, steps=2, draws=1, sampler="euler").value > 0


def test_a_texts_numbers_do_not_depend_on_its_company() -> None:
    """Texts of several lengths in one batch, and each alone."""
    for name in ("QwenImagePipeline", "ZImagePipeline", "NucleusMoEImagePipeline"):
        process = both(name)[1]
        texts = ["a" * n for n in (1, 21, 2, 3, 4, 5, 6, 7)]  # one fills up what it is read in
        x, t = process.noise(range(8), 0), torch.linspace(900, 100, 8)
        together = process.eps(x, t, process.encode(texts))
        for i, text in enumerate(texts):
            alone = process.eps(x[[i]], t[[i]], process.encode([text]))
            torch.testing.assert_close(together[[i]], alone, rtol=1e-4, atol=1e-5)


def test_a_sampler_that_asks_more_often_than_it_steps_is_refused() -> None:
    pipeline = make("StableDiffusionPipeline")
    pipeline.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(ValueError, match="HeunDiscreteScheduler asks the network 7 times in 4"):
        cj.load(pipeline).sampler(sampler="own", steps=4)
