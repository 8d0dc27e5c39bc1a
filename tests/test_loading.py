"""Loading: complete or refused by name, nothing unpickled, the Hub asked once, nothing shared."""

from __future__ import annotations

import ast
import copy
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from conftest import Model, open_pipeline, random_unet, random_vae
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel, CLIPTextModel

import conjure_lib as cj
from conjure_lib.integrity import quiet
from conjure_tools import weights
from conjure_tools.baselines import lengths
from conjure_tools.fingerprints import weights_hash
from conjure_tools.grounding import embed, load_encoder
from conjure_tools.hub import REVISIONS
from conjure_tools.loading import pick_device
from studies.other_models import sentence_cosine

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
Edit = Callable[[Path], None]


@pytest.fixture
def folder(random_folder: Path, tmp_path: Path) -> Path:
    """A copy of the random pipeline, to be damaged."""
    return Path(shutil.copytree(random_folder, tmp_path / "model"))


def tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite the tensors of a file."""
    found = load_file(file)
    change(found)
    save_file(found, file, metadata={"format": "pt"})


def index(folder: Path, **changed: Any) -> None:
    """Rewrite entries of model_index.json; None takes one out."""
    file = folder / "model_index.json"
    entries = json.loads(file.read_text()) | changed
    file.write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))


# -- complete, or refused ----------------------------------------------------------------------


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_a_tensor_that_does_not_fit_is_named(folder: Path, part: str, fault: str) -> None:
    name = sorted(load_file(folder / part / FILES[part]))[5]

    def change(found: dict[str, torch.Tensor]) -> None:
        weight = found.pop(name)
        if fault == "unexpected":
            found |= {name: weight, f"{name.split('.')[0]}.more": torch.ones(3)}
        if fault == "shape":
            found[name] = torch.ones(1, *weight.shape)

    tensors(folder / part / FILES[part], change)
    named = f"{name.split('.')[0]}.more" if fault == "unexpected" else name
    with pytest.raises(ValueError, match=f"{part}.*{named if fault != 'shape' else ''}") as caught:
        cj.load(folder, device="cpu")
    assert str(folder) in str(caught.value)
    if fault != "shape":
        assert f"{named} {fault}" in str(caught.value)


def unlink(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def drop(name: str) -> Edit:
    return lambda folder: shutil.rmtree(folder / name)


def write(name: str, content: str) -> Edit:
    return lambda folder: (folder / name).write_text(content) and None


def entry(**changed: Any) -> Edit:
    return lambda folder: index(folder, **changed)


def edited(name: str, **changed: Any) -> Edit:
    """Settings of a JSON file are changed; those that are to be ... are taken out."""

    def edit(folder: Path) -> None:
        found = json.loads((folder / name).read_text()) | changed
        kept = {key: value for key, value in found.items() if value is not ...}
        (folder / name).write_text(json.dumps(kept))

    return edit


def without_class(folder: Path) -> None:
    index(folder, _class_name=None)


def pickled(folder: Path) -> None:
    file = folder / "unet" / FILES["unet"]
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


def no_vocabulary(folder: Path) -> None:
    for file in (folder / "tokenizer").iterdir():
        if file.name not in ("tokenizer_config.json", "special_tokens_map.json"):
            file.unlink()


def other_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(ROOT / "data/emoji-diffusion/tokenizer", folder / "tokenizer")
    index(folder, tokenizer=["transformers", "BertTokenizer"])


BROKEN: dict[str, tuple[Edit, str]] = {
    "no class": (without_class, r"model_index\.json must name a class"),
    "a list as class": (entry(_class_name=["my", "Own"]), r"model_index\.json must name a class"),
    "unknown class": (entry(_class_name="NoSuchPipeline"), "NoSuchPipeline is not adapted"),
    "another family": (entry(_class_name="DDPMPipeline"), "DDPMPipeline is not adapted"),
    "torn index": (write("model_index.json", '{"_class'), r"model_index\.json is no JSON"),
    "index is a list": (write("model_index.json", "[]"), r"model_index\.json must name"),
    "own code": (entry(unet=["my_unet", "Net"]), "unet is to be 'Net' of 'my_unet'"),
    "unknown part": (entry(unet=["diffusers", "NoNet"]), "unet is to be 'NoNet'"),
    "odd entry": (entry(unet=["diffusers"]), "unet is to be"),
    "no part": (entry(unet=[None, None]), "has no unet"),
    "no text encoder": (entry(text_encoder=[None, None]), "has no text_encoder"),
    "no tokenizer": (drop("tokenizer"), "tokenizer is missing"),
    "no vocabulary": (no_vocabulary, "tokenizer"),
    "torn tokenizer": (
        write("tokenizer/tokenizer.json", '{"version"'),
        "tokenizer.*cannot be read",
    ),
    "other tokenizer": (other_tokenizer, "tokenizer of this .* knows 30522 tokens"),
    "no scheduler": (drop("scheduler"), "scheduler is missing"),
    "empty scheduler": (unlink("scheduler/scheduler_config.json"), "scheduler cannot be read"),
    "torn scheduler": (write("scheduler/scheduler_config.json", "{"), "scheduler cannot be read"),
    "bad scheduler": (
        edited("scheduler/scheduler_config.json", beta_schedule="wavy"),
        "scheduler cannot be read.*wavy",
    ),
    "unknown scheduler": (entry(scheduler=["diffusers", "NoScheduler"]), "scheduler is to be"),
    "EDM": (entry(scheduler=["diffusers", "EDMEulerScheduler"]), "EDMEulerScheduler has no var"),
    "no config": (unlink("unet/config.json"), "unet cannot be read as UNet2DConditionModel"),
    "torn config": (write("vae/config.json", "{"), "vae cannot be read as AutoencoderKL"),
    "torn text config": (write("text_encoder/config.json", "{"), "text_encoder cannot be read"),
    "a class's other": (entry(unet=["diffusers", "AutoencoderKL"]), "unet"),
    "pickle": (pickled, "unet holds no weights as safetensors, and diffusion_.*bin is a pickle"),
}


def as_integers(folder: Path) -> None:
    def change(found: dict[str, torch.Tensor]) -> None:
        found |= {key: weight.to(torch.int32) for key, weight in found.items()}

    tensors(folder / "text_encoder" / FILES["text_encoder"], change)


def wide_input(folder: Path) -> None:
    def change(found: dict[str, torch.Tensor]) -> None:
        found["conv_in.weight"] = torch.ones(96, 5, 3, 3)

    tensors(folder / "unet" / FILES["unet"], change)


def lost_shard(part: str) -> Edit:
    """An index beside the whole file, and not the files that it names."""

    def edit(folder: Path) -> None:
        whole = folder / part / FILES[part]
        shard = whole.with_suffix("").name + "-00001-of-00002.safetensors"
        named = {"weight_map": dict.fromkeys(load_file(whole), shard)}
        Path(f"{whole}.index.json").write_text(json.dumps(named))

    return edit


SCHEDULER = "scheduler/scheduler_config.json"
NONSENSE: dict[str, tuple[Edit, str]] = {
    "empty": (write(SCHEDULER, "{}"), "does not say num_train_timesteps, beta_start, beta_end"),
    **{
        name: (edited(SCHEDULER, **{name: ...}), f"scheduler_config.json does not say {name}")
        for name in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    },
    "no prediction": (edited(SCHEDULER, prediction_type=...), "does not say prediction_type"),
    "two betas": (
        edited(SCHEDULER, trained_betas=[0.1, 0.2]),
        r"trained_betas=\[0.1, 0.2\] are 2 steps, and num_train_timesteps is 1000",
    ),
    "spacing": (edited(SCHEDULER, timestep_spacing="banana"), "timestep_spacing must .*'banana'"),
    "zero": (edited(SCHEDULER, rescale_betas_zero_snr=True), "rescale_betas_zero_snr=True give no"),
    "NaN": (edited(SCHEDULER, beta_end=float("nan")), "beta_end must be a positive number"),
    "a text": (edited(SCHEDULER, num_train_timesteps="10"), "timesteps must be a positive whole"),
    "deep": (write("model_index.json", "[" * 100_000), r"model_index\.json is no JSON"),
    "no class": (entry(_class_name="__doc__"), "__doc__ is not adapted"),
    "integers": (as_integers, r"text_encoder.model\.safetensors stores embeddings.* as I32"),
    **{
        f"length {length!r}": (
            edited("tokenizer/tokenizer_config.json", model_max_length=length),
            r"tokenizer_config\.json: model_max_length is .* from 3, .* to 32, the positions",
        )
        for length in (0, 2, -1, 33, 64, "32", 8.5, True, None, ...)
    },
    "no filling": (edited("tokenizer/tokenizer_config.json", pad_token=...), "names no pad_token"),
    **{
        f"size {size!r}": (edited("unet/config.json", sample_size=size), "sample_size in .*unet")
        for size in (None, 0, -8, "8", 8.5, [8], [8, -8])
    },
    "larger pipeline": (entry(_class_name="StableDiffusionXLPipeline"), "has no text_encoder_2"),
    "rows": (edited("text_encoder/config.json", vocab_size=100), "token_embedding.* another shape"),
    "positions": (
        edited("text_encoder/config.json", max_position_embeddings=64),
        "position_embedding.weight of another shape",
    ),
    "wide": (wide_input, r"conv_in\.weight expected shape \S+ 16, 3, 3\]\), but got [^I]*$"),
    **{
        f"list {file}": (write(file, "[]"), rf"{file} must name settings, and holds a list")
        for file in ("unet/config.json", "text_encoder/config.json", SCHEDULER)
    },
    "activation": (edited("text_encoder/config.json", hidden_act="banana"), "hidden_act='banana'"),
    "automatic": (entry(text_encoder=["transformers", "AutoModel"]), "text_encoder is to be 'Auto"),
    "no scheduler": (
        entry(scheduler=["diffusers", "UNet2DConditionModel"]),
        "scheduler is to be 'UNet2DConditionModel' of 'diffusers', which is no SchedulerMixin",
    ),
    **{
        f"shard of {part}": (lost_shard(part), r"index\.json names .*-00001-of-00002.*not there")
        for part in FILES
    },
}


@pytest.fixture
def embedded(embedded_folder: Path, tmp_path: Path) -> Path:
    """A copy of the embedded model that says no hashes, to be damaged."""
    kept = shutil.ignore_patterns("*SHA256*")
    return Path(shutil.copytree(embedded_folder, tmp_path / "model", ignore=kept))


@pytest.mark.parametrize("case", NONSENSE)
def test_settings_of_no_sense_are_refused_by_file_and_name(
    embedded: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    edit, expected = NONSENSE[case]
    edit(embedded)
    with pytest.raises((ValueError, FileNotFoundError), match=expected) as caught:
        cj.load(embedded, device="cpu")
    assert "\n" not in str(caught.value)
    assert str(embedded) in str(caught.value) or case in ("no class", "larger pipeline")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("variant", ["fp16", 3, ""])
def test_a_variant_that_is_not_there(embedded: Path, variant: Any) -> None:
    with pytest.raises(ValueError, match=f"no weights of variant={variant!r}; its variants: none"):
        cj.load(embedded, device="cpu", variant=variant)


def test_an_unknown_setting_is_told_of_once(
    embedded: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edited(SCHEDULER, foo=1, skip_prk_steps=True)(embedded)  # the second is of PNDM
    with pytest.warns(
        UserWarning, match=r"no scheduler like DDIMScheduler knows \['foo'\]"
    ) as told:
        process = cj.load(embedded, device="cpu")
        cj.distance(process, "snow leopard", "bengal tiger", steps=2, draws=1)
    assert len(told) == 1 and capfd.readouterr() == ("", "")


def test_an_empty_name() -> None:
    with pytest.raises(ValueError, match="model is empty"):
        cj.load("")


def test_what_early_releases_did_not_say(folder: Path) -> None:
    """The file of Stable Diffusion v1.4 is older than the setting, and was always epsilon."""
    settings: dict[str, Any] = {"steps": 2, "draws": 1, "quadrature": "sum"}

    def told() -> float:
        process = cj.load(folder, device="cpu")
        assert process.kind == "epsilon"
        return cj.distance(process, "snow leopard", "bengal tiger", **settings).value

    expected = told()
    edited(SCHEDULER, prediction_type=..., _diffusers_version="0.7.0.dev0")(folder)
    assert told() == expected > 0


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_by_name(folder: Path, case: str) -> None:
    edit, expected = BROKEN[case]
    edit(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=expected) as caught:
        cj.load(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_variant_alone_is_named_and_is_loaded_when_asked_for(folder: Path) -> None:
    plain = cj.load(folder, device="cpu")
    for part, file in FILES.items():
        old = folder / part / file
        old.rename(old.with_suffix(".fp16.safetensors"))
    with pytest.raises(ValueError, match="variant of its weights alone: say variant='fp16'"):
        cj.load(folder, device="cpu")
    assert weights_hash(cj.load(folder, device="cpu", variant="fp16")) == weights_hash(plain)


def test_parts_that_do_not_fit_are_refused(model: Model) -> None:
    pipeline = copy.copy(model.pipeline)
    wide = {**model.pipeline.unet.config, "in_channels": 9}
    pipeline.unet = diffusers.UNet2DConditionModel.from_config(wide)
    with pytest.raises(
        ValueError, match="takes 9 channels, and its latents have [0-9]+.*inpainting"
    ):
        cj.from_pipeline(pipeline)
    wide = {**model.pipeline.unet.config, "cross_attention_dim": 40}
    pipeline.unet = diffusers.UNet2DConditionModel.from_config(wide)
    with pytest.raises(ValueError, match="takes texts of width 40"):
        cj.from_pipeline(pipeline)


def test_blank_lines_in_checksums_are_skipped_and_others_are_named(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text("\n  \n\n")
    cj.load(folder, device="cpu")
    (folder / "SHA256SUMS").write_text("\nunet/config.json\n")
    with pytest.raises(ValueError, match="SHA256SUMS, line 2: .*'unet/config.json'"):
        cj.load(folder, device="cpu")


# -- the known hash ----------------------------------------------------------------------------


def test_the_embedded_model_has_a_known_hash_once_loaded(
    process: cj.GenerativeProcess, embedded_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a library says that all is well, as none of those known does."""
    recorded = (embedded_folder / weights.LOADED).read_text().strip()
    start = time.process_time()
    assert weights.loaded_hash(process.modules) == recorded
    assert time.process_time() - start < 0.6
    honest = CLIPTextModel.from_pretrained

    def silent(*arguments: Any, **options: Any) -> Any:
        found, report = honest(*arguments, **options)
        found.get_input_embeddings().weight.data[7, 7] += 1e-3
        return found, report

    monkeypatch.setattr(CLIPTextModel, "from_pretrained", silent)
    with pytest.raises(ValueError, match="not those that were trained.*transformers"):
        cj.load(device="cpu")


def test_the_hash_holds_in_half_precision_too(process: cj.GenerativeProcess) -> None:
    half = cj.load(device="cpu", dtype="bfloat16")
    assert half.dtype == "bfloat16"
    for key, weight in process.modules["unet"].state_dict().items():
        assert torch.equal(weight.bfloat16(), half.modules["unet"].state_dict()[key])


def test_training_writes_the_hash_that_loading_asks_for(
    embedded_folder: Path, tmp_path: Path
) -> None:
    from training.pipeline import assemble

    parts = open_pipeline(embedded_folder)
    scale = parts.vae.config.scaling_factor
    assemble(parts.vae, parts.text_encoder, parts.tokenizer, parts.unet, scale, tmp_path)
    shipped = (embedded_folder / weights.LOADED).read_text()
    assert (tmp_path / weights.LOADED).read_text() == shipped
    cj.load(tmp_path, device="cpu")


# -- encoders and other single models ----------------------------------------------------------


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with a small BERT, saved with the head of its training."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "data/emoji-diffusion/tokenizer")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_a_head_may_stay_behind_and_nothing_else(bert: Path) -> None:
    encoder, tokenizer = load_encoder(bert)
    whole = BertForMaskedLM.from_pretrained(bert).eval()
    ids = tokenizer(["snow leopard"], return_tensors="pt")
    expected = whole.bert(**ids).last_hidden_state[:, 0]
    torch.testing.assert_close(embed(encoder, tokenizer, ["snow leopard"]), expected)
    with pytest.raises(ValueError, match=r"pooler\.dense\.weight missing"):
        weights.pretrained(transformers.AutoModel, bert)  # its random values could be read

    def cut(found: dict[str, torch.Tensor]) -> None:
        del found["bert.encoder.layer.1.output.dense.weight"]

    tensors(bert / "model.safetensors", cut)
    for use in (lambda: load_encoder(bert), lambda: sentence_cosine(bert, [("a", "b")])):
        with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.dense\.weight missing"):
            use()


def test_settings_of_others_may_hold_anything(bert: Path) -> None:
    """Such as the list of corpora that sentence encoders come with."""
    (bert / "data_config.json").write_text('[{"name": "a corpus", "weight": 1}]')
    load_encoder(bert)


def test_what_no_head_explains_is_refused(bert: Path) -> None:
    BertModel.from_pretrained(bert).save_pretrained(bert)
    tensors(bert / "model.safetensors", lambda found: found.update(junk=torch.ones(2)))
    with pytest.raises(ValueError, match="junk unexpected"):
        load_encoder(bert)


def test_a_tokenizer_without_vocabulary_is_refused(bert: Path) -> None:
    (bert / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="holds no vocabulary|cannot be read"):
        load_encoder(bert)


# -- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["banana", "int64", torch.int64, float, None, 16, "torch.bool"])
def test_a_dtype_that_is_none(dtype: Any) -> None:
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16"):
        cj.load(device="cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_a_dtype_by_its_name(folder: Path, dtype: Any) -> None:
    assert cj.load(folder, device="cpu", dtype=dtype).dtype == "bfloat16"


def test_a_folder_has_no_revision(folder: Path) -> None:
    for model in (folder, "emoji-diffusion"):
        with pytest.raises(ValueError, match="is a folder: leave out revision='abc'"):
            cj.load(model, device="cpu", revision="abc")


def test_what_is_no_name_and_no_folder(model: Model, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a folder or a pipeline of diffusers, not list"):
        cj.load([model.pipeline])
    with pytest.raises(ValueError, match="set them on the pipeline itself"):
        cj.load(model.pipeline, device="cpu")
    with pytest.raises(TypeError, match="StableDiffusionPipeline has no option heigth"):
        cj.load(device="cpu", heigth=64)
    with pytest.raises(ValueError, match="config is of a single file of weights, and .* is none"):
        cj.load(tmp_path, config=tmp_path)
    with pytest.raises(ValueError, match="device and device_map both say where"):
        cj.load(tmp_path, device="cpu", device_map="auto")


@pytest.mark.parametrize(
    ("there", "asked", "expected"),
    [
        (0, None, "cpu"),
        (0, "cpu:0", "cpu:0"),
        (0, "cuda", "'cuda' is not there; this machine has: cpu$"),
        (0, "cpu:1", "'cpu:1' is not there"),
        (0, "tpu", "'tpu' is not a torch device"),
        (2, None, "cuda"),
        (2, "cuda:1", "cuda:1"),
        (2, "cuda:2", "'cuda:2' is not there; this machine has: cpu, cuda$"),
        (2, "mps", "'mps' is not there"),
    ],
)
def test_the_device_is_one_that_is_there(
    monkeypatch: pytest.MonkeyPatch, there: int, asked: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: there)
    if "not" not in expected:
        assert str(pick_device(asked)) == expected
        return
    with pytest.raises(ValueError, match=expected):
        pick_device(asked)


# -- processes ---------------------------------------------------------------------------------


def test_a_copy_shares_no_network(folder: Path) -> None:
    process = cj.load(folder, device="cpu")
    before = cj.distance(process, "cat", "dog", steps=2, draws=2)
    twin = copy.deepcopy(process)
    assert (twin.name, twin.evaluations) == (process.name, process.evaluations)
    assert cj.distance(twin, "cat", "dog", steps=2, draws=2).value == before.value
    for module in twin.modules.values():
        for weight in module.parameters():
            weight.data.mul_(1.5)
    assert cj.distance(process, "cat", "dog", steps=2, draws=2).value == before.value
    assert cj.distance(twin, "cat", "dog", steps=2, draws=2).value != before.value


def test_what_cannot_be_copied_says_so(folder: Path) -> None:
    process = cj.load(folder, device="cpu")
    process.predict = lambda x, t, condition: x
    with pytest.raises(TypeError, match="model was not .* or a function of it was replaced"):
        copy.deepcopy(process)
    own = cj.GenerativeProcess(
        process.predict, process.encode, process.scheduler, process.latent_shape, name="own"
    )
    with pytest.raises(TypeError, match="own was not made by from_pipeline"):
        copy.deepcopy(own)


def test_a_callers_pipeline_stays_as_it_is(random_folder: Path) -> None:
    """In the middle of training too: dropout has no part in a distance, and goes on after it."""
    pipeline = open_pipeline(random_folder)
    pipeline.unet = random_unet(dropout=0.5)
    pipeline.text_encoder.config.attention_dropout = 0.5
    quietly = cj.from_pipeline(pipeline)
    expected = cj.distance(quietly, "cat", "dog", steps=2, draws=2).value
    networks = [pipeline.unet, pipeline.text_encoder, pipeline.vae]
    for network in networks:
        network.requires_grad_(True).train()
    pipeline.unet.mid_block.eval()  # as somebody may have frozen a block
    training = [m.training for network in networks for m in network.modules()]
    process = cj.from_pipeline(pipeline)
    assert cj.distance(process, "cat", "dog", steps=2, draws=2).value == expected
    process.generate(["cat"], steps=1)
    assert training == [m.training for network in networks for m in network.modules()]
    assert all(p.requires_grad for network in networks for p in network.parameters())


def test_a_safety_checker_is_not_part_of_a_process(model: Model) -> None:
    pipeline = copy.copy(model.pipeline)
    pipeline.safety_checker = random_vae()
    found = cj.from_pipeline(pipeline)
    assert "safety_checker" not in found.modules
    assert weights_hash(found) == weights_hash(cj.from_pipeline(model.pipeline))


@pytest.mark.filterwarnings("error")
def test_threads_read_the_same_texts(process: cj.GenerativeProcess) -> None:
    """Long and short ones, whose cutting and filling differ; some a thread, many times over."""
    texts = [[" ".join(["cat"] * n), "a snow leopard"] for n in (1, 7, 20, 29)]
    alone = [process.encode(pair) for pair in texts]
    verbosity = [lib.utils.logging.get_verbosity() for lib in (diffusers, transformers)]

    def read(k: int) -> bool:
        lengths(process, texts[k % 4])
        return torch.equal(process.encode(texts[k % 4]), alone[k % 4])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))
    assert verbosity == [lib.utils.logging.get_verbosity() for lib in (diffusers, transformers)]


def test_the_last_thread_to_leave_brings_the_logs_back() -> None:
    logging = transformers.utils.logging
    before, inside = logging.get_verbosity(), []
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with quiet():
            entered.set()
            leave.wait(60)
            inside.append(logging.get_verbosity())

    with quiet():
        thread = threading.Thread(target=stay)
        thread.start()
        entered.wait(60)
    assert logging.get_verbosity() == logging.CRITICAL  # one is inside still
    leave.set()
    thread.join()
    assert inside == [logging.CRITICAL] and logging.get_verbosity() == before


# -- the Hub -----------------------------------------------------------------------------------


@pytest.fixture
def deaf_hub() -> Iterator[tuple[str, list[float]]]:
    """A server that takes connections and never answers; its address, and when it was asked."""
    asked: list[float] = []
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return
                asked.append(time.monotonic())

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
    for connection in kept:
        connection.close()


ASK = """
import conjure_lib as cj
from conjure_tools.encoders import encoder_folder
from conjure_tools.benchmarks import load_pairs
from conjure_tools.fingerprints import weights_hash
for use in (
    lambda: cj.load("somebody/something", device="cpu"),
    lambda: encoder_folder("sentence-transformers/all-MiniLM-L6-v2"),
    *(lambda name=name: load_pairs(name) for name in ("sts12", "sts13", "stsb", "sickr")),
):
    try:
        use()
    except FileNotFoundError as error:
        print(error)
process = cj.load("CompVis/stable-diffusion-v1-4", device="cpu")
print(process.name, process.revision, weights_hash(process))
"""


def ask(home: Path, **environment: str) -> list[str]:
    """The lines that a fresh interpreter prints; its caches are empty."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CONJURE_"))}
    own = {"HF_HOME": str(home / "hf"), "CONJURE_CACHE": str(home / "cache"), "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=kept | own | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("offline", ["0", "1"])
def test_the_hub_is_asked_once_or_never(
    deaf_hub: tuple[str, list[float]], random_folder: Path, tmp_path: Path, offline: str
) -> None:
    """And what is in the cache, at the commit that is pinned, comes from there."""
    address, asked = deaf_hub
    name = "CompVis/stable-diffusion-v1-4"
    cache = tmp_path / "hf/hub/models--CompVis--stable-diffusion-v1-4/snapshots"
    shutil.copytree(random_folder, cache / REVISIONS[name])
    *messages, found = ask(tmp_path, HF_ENDPOINT=address, HF_HUB_OFFLINE=offline)
    expected = weights_hash(cj.load(random_folder, device="cpu"))
    assert found == f"{name} {REVISIONS[name]} {expected}"
    assert len(asked) == (offline == "0")
    first, *others = messages
    assert len(others) == 5
    assert ("the Hub does not answer" if offline == "0" else "HF_HUB_OFFLINE is set") in first
    assert "'hf download somebody/something' fetches it once" in first
    assert "emoji-diffusion" in first
    again = "did not answer a moment ago" if offline == "0" else "HF_HUB_OFFLINE is set"
    assert all(again in message for message in others)
    assert f"--revision {REVISIONS['sentence-transformers/all-MiniLM-L6-v2']}" in others[0]


@pytest.mark.parametrize("revision", ["", " ", 5, False])
def test_a_revision_that_is_none_is_not_taken_for_the_pinned_one(revision: Any) -> None:
    with pytest.raises(
        ValueError, match=f"revision must be a commit, or not be given, not {revision!r}"
    ):
        cj.load("CompVis/stable-diffusion-v1-4", device="cpu", revision=revision)


def test_pins_are_commits() -> None:
    assert REVISIONS["openai/clip-vit-base-patch32"].startswith("c237dc49")
    pins = REVISIONS.values()
    assert all(len(c) == 40 and set(c) <= set("0123456789abcdef") for c in pins)


# -- nothing is unpickled ----------------------------------------------------------------------


def test_no_pickle_is_loaded(folder: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with pickles beside the weights either: each would say so by running."""

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (os.mkdir, (str(folder / "sprung"),))

    for place in (folder / "unet/diffusion_pytorch_model", bert / "pytorch_model"):
        place.with_suffix(".bin").write_bytes(pickle.dumps(Trap()))

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("something is unpickled")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")]:
        monkeypatch.setattr(module, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    cj.distance(cj.load(device="cpu"), "cat", "dog", steps=2, draws=1)
    cj.load(folder, device="cpu")
    load_encoder()
    load_encoder(bert)
    sentence_cosine(bert, [("a cat", "a dog")])
    assert not (folder / "sprung").exists()


def sources() -> list[tuple[str, str]]:
    """Name and code of every module and notebook outside the tests."""
    found = [
        (str(file.relative_to(ROOT)), file.read_text(encoding="utf-8"))
        for top in ("conjure_lib", "conjure_tools", "notebooks", "book", "bench", "training")
        for file in sorted((ROOT / top).rglob("*.py"))
    ]
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        lines = [line for cell in code for line in cell.split("\n")]
        kept = ["pass" if line.lstrip().startswith(("%", "!")) else line for line in lines]
        found.append((file.name, "\n".join(kept)))
    return found


def faults(code: str) -> set[str]:
    """What could unpickle, or run what a checkpoint brings, in a piece of code."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            bad = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
            found |= {name for name in names if name.split(".")[0] in bad}
        if isinstance(node, ast.Attribute):
            called = f"{getattr(node.value, 'id', '')}.{node.attr}"
            if called == "torch.load" or node.attr in ("read_pickle", "hub_load"):
                found.add(called)
            if node.attr in ("from_pretrained", "from_single_file"):
                found.add(node.attr)
        if isinstance(node, ast.keyword):
            value = getattr(node.value, "value", True)
            wrong = {"trust_remote_code": True, "allow_pickle": True, "use_safetensors": False}
            if node.arg in wrong and value == wrong[node.arg]:
                found.add(f"{node.arg}={value}")
    return found


def test_the_check_of_sources_finds_what_it_is_for() -> None:
    for code in (
        "import pickle", "from joblib import load", "torch.load(f)", "pd.read_pickle(f)",
        "AutoModel.from_pretrained(f)", "f(trust_remote_code=True)", "f(use_safetensors=False)",
    ):  # fmt: skip
        assert faults(code), code
    assert not faults("json.load(f); f(use_safetensors=True)")


ALLOWED = {f"conjure_tools/{name}.py": {"from_pretrained"} for name in ("weights", "loading")}
ALLOWED["conjure_tools/single_file.py"] = {"from_single_file"}  # of .safetensors alone


@pytest.mark.parametrize(("name", "code"), sources(), ids=lambda x: x if len(x) < 60 else "")
def test_no_source_unpickles_or_loads_past_the_checks(name: str, code: str) -> None:
    assert faults(code) <= ALLOWED.get(name, set())


# -- releases ----------------------------------------------------------------------------------

OTHERS = [python for python in os.environ.get("CONJURE_PYTHONS", "").split(":") if python]


@pytest.mark.skipif(not OTHERS, reason="CONJURE_PYTHONS names no interpreter with other releases")
@pytest.mark.parametrize("python", OTHERS)
def test_other_releases_give_the_same_number_or_none(
    process: cj.GenerativeProcess, python: str
) -> None:
    """transformers 5.0 to 5.5 made up a text encoder: refused by name, or right."""
    expected = cj.distance(process, "snow leopard", "bengal tiger", steps=3, draws=2).value
    code = """
import conjure_lib as cj
process = cj.load(device="cpu")
print(cj.distance(process, "snow leopard", "bengal tiger", steps=3, draws=2).value)
"""
    done = subprocess.run(
        [python, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode == 0:
        assert float(done.stdout.splitlines()[-1]) == pytest.approx(expected, rel=1e-4)
    else:
        assert "text_encoder is no complete CLIPTextModel for diffusers" in done.stderr
        assert "missing; " in done.stderr and "transformers" in done.stderr


# -- options and parts that would do harm ----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"height": 0, "width": 0}, ValueError, "height must be at least 1, not 0"),
        ({"height": 64.0, "width": 64}, TypeError, "height must be a whole number, not 64.0"),
        ({"height": 64, "width": "64"}, TypeError, "width must be a whole number, not '64'"),
        ({"height": 10**6, "width": 10**6}, MemoryError, "a picture of 1000000×1000000 pixels"),
        ({"sigmas": [1.0, 0.5]}, TypeError, "has no option sigmas that could be set"),
        ({"guidance_rescale": 0.7}, TypeError, "has no option guidance_rescale"),
    ],
)
def test_options_that_no_picture_can_have(
    options: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        cj.load(device="cpu", **options)


def test_a_dtype_by_its_name_is_that_dtype(random_folder: Path) -> None:
    pipeline = open_pipeline(random_folder)
    for dtype in (torch.float32, "float32", "torch.float32"):
        assert cj.load(pipeline, dtype=dtype).dtype == "float32"
    with pytest.raises(ValueError, match="set them on the pipeline itself"):
        cj.load(pipeline, dtype="float16")


def test_guidance_of_a_pipelines_own_is_refused() -> None:
    from conjure_lib.pipelines import check_options

    kind = diffusers.Lumina2Pipeline
    for option in ({"cfg_trunc_ratio": 0.25}, {"guidance_scale": 2.0, "cfg_trunc_ratio": 0.5}):
        with pytest.raises(ValueError, match=r"cfg_trunc_ratio=0\.\d+ changes no distance"):
            check_options(kind, option)
    check_options(kind, {"cfg_trunc_ratio": 1.0, "cfg_normalization": False})  # as if not said
    with pytest.raises(ValueError, match="skip_guidance_layers=.* changes no distance"):
        check_options(diffusers.StableDiffusion3Pipeline, {"skip_guidance_layers": [1]})


@pytest.mark.parametrize(
    "name",
    ["StableDiffusionInpaintPipeline", "StableDiffusionImg2ImgPipeline", "FluxFillPipeline",
     "StableDiffusionInstructPix2PixPipeline", "StableDiffusionUpscalePipeline"],
)  # fmt: skip
def test_what_needs_a_picture_is_refused_by_its_class(name: str) -> None:
    from conjure_lib.pipelines import check_family

    with pytest.raises(ValueError, match="beside a text; load the model's pipeline for texts"):
        check_family(getattr(diffusers, name))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_damaged_weights_of_the_other_networks_are_said(folder: Path, number: float) -> None:
    def spoil(found: dict[str, torch.Tensor]) -> None:
        found[next(k for k in found if k.endswith(ends))].fill_(number)

    process = cj.load(folder, device="cpu")
    latents = process.noise([0], 0)
    kept = {part: (folder / part / file).read_bytes() for part, file in FILES.items()}
    ends = "decoder.conv_in.weight"
    tensors(folder / "vae" / FILES["vae"], spoil)
    broken = cj.load(folder, device="cpu")
    assert cj.distance(broken, "cat", "dog", steps=2, draws=1).value > 0  # which needs no picture
    for paint in (lambda: broken.decode(latents), lambda: broken.generate(["cat"], steps=2)):
        with pytest.raises(ValueError, match="a picture is not finite"):
            paint()
    (folder / "vae" / FILES["vae"]).write_bytes(kept["vae"])
    ends = "final_layer_norm.weight"
    tensors(folder / "text_encoder" / FILES["text_encoder"], spoil)
    with pytest.raises(ValueError, match=r"tells its network is not finite: .* damaged"):
        cj.load(folder, device="cpu")


def test_pndm_that_begins_with_runge_and_kutta_is_asked_all_the_same(random_folder: Path) -> None:
    pipeline = open_pipeline(random_folder)
    before = cj.distance(cj.from_pipeline(pipeline), "cat", "dog", steps=3, draws=1)
    pipeline.scheduler = diffusers.PNDMScheduler.from_config(
        pipeline.scheduler.config, skip_prk_steps=False
    )
    found = cj.distance(cj.from_pipeline(pipeline), "cat", "dog", steps=3, draws=1)
    assert found.value == before.value
