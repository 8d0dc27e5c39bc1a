"""What is done to a model before it is measured: files, precisions, places, copies, prompts."""

from __future__ import annotations

import copy
import json
import pickle
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from conftest import open_pipeline, random_unet, random_vae
from peft import LoraConfig
from pipelines import make
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModelWithProjection

import conjure_lib as cj
from conjure_lib.integrity import raw
from conjure_lib.pipelines import pieces
from conjure_lib.reading import UnreadWarning
from conjure_tools import loading
from conjure_tools.fingerprints import fingerprint

PROMPTS = ("a red fox", "two boats on the sea")
FEW: dict[str, Any] = {"steps": 2, "draws": 1}
PAGE = Path(__file__).resolve().parents[1] / "book" / "your_model.md"


def measured(process: cj.GenerativeProcess, **settings: Any) -> float:
    return cj.distance(process, *PROMPTS, **(FEW | settings)).value


# -- single files -------------------------------------------------------------------------------

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "up_blocks.0.upsamplers.0": "output_blocks.2.1",
}  # fmt: skip
UNET |= {f"add_embedding.linear_{k}": f"label_emb.0.{2 * k - 2}" for k in (1, 2)}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.": "", "final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks",
    "layer_norm": "ln_", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn",
}  # fmt: skip
VAE = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "group_norm": "norm"}
VAE |= {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def of_unet(name: str) -> str:
    """A weight of the small U-Net as Stable Diffusion's first files called it."""
    for ours, theirs in UNET.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    side, *rest = name.split(".", 1)
    if side == "mid_block":
        kind, k, end = rest[0].split(".", 2)
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(k)}"
    else:
        i, kind, k, end = rest[0].split(".", 3)
        at = 3 * int(i) + int(k) + (side == "down_blocks")
        blocks = "input_blocks" if side == "down_blocks" else "output_blocks"
        place = f"{blocks}.{at}.{int(kind == 'attentions')}"
    if kind == "resnets":
        own, end = end.split(".", 1)
        end = f"{RESNET[own]}.{end}"
    return f"{place}.{end}"


def of_vae(name: str, blocks: int = 2) -> str:
    """The same of the autoencoder."""
    for ours, theirs in VAE.items():
        name = re.sub(rf"\b{re.escape(ours)}\b", theirs, name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    up = [(r"resnets", "block"), (r"upsamplers\.0", "upsample")]
    for ours, theirs in up:
        pattern = rf"up_blocks\.(\d)\.{ours}"
        name = re.sub(pattern, lambda m, t=theirs: f"up.{blocks - 1 - int(m[1])}.{t}", name)  # type: ignore[misc]
    return name


def of_open_clip(encoder: Any) -> dict[str, Tensor]:
    """All weights of SDXL's second text encoder, whose queries, keys and values are one there."""
    found: dict[str, Any] = {}
    for name, weight in encoder.state_dict().items():
        own = name.removeprefix("text_model.")
        for ours, theirs in OPEN_CLIP.items():
            own = own.replace(ours, theirs)
        if match := re.fullmatch(r"(.+)\.([qkv])_proj\.(weight|bias)", own):
            found.setdefault(f"{match[1]}.in_proj_{match[3]}", {})[match[2]] = weight
        elif own == "text_projection.weight":
            found["text_projection"] = weight.T
        else:
            found[own] = weight
    three = {k: torch.cat([v[c] for c in "qkv"]) for k, v in found.items() if isinstance(v, dict)}
    return found | three


def as_single_file(pipeline: Any, file: Path) -> None:
    """All weights of a pipeline of the Stable Diffusion architecture under their first names."""
    second = getattr(pipeline, "text_encoder_2", None)
    texts = "cond_stage_model" if second is None else "conditioner.embedders.0"
    found: dict[str, Tensor] = {}
    for name, weight in pipeline.unet.state_dict().items():
        found[f"model.diffusion_model.{of_unet(name)}"] = weight
    for name, weight in pipeline.vae.state_dict().items():
        is_linear = ".attn_1." in of_vae(name) and weight.ndim == 2
        found[f"first_stage_model.{of_vae(name)}"] = (
            weight[..., None, None] if is_linear else weight
        )
    for name, weight in pipeline.text_encoder.state_dict().items():
        own = name.removeprefix("text_model.")
        found[f"{texts}.transformer.text_model.{own}"] = weight
    for name, weight in {} if second is None else of_open_clip(second).items():
        found[f"conditioner.embedders.1.model.{name}"] = weight
    save_file({name: weight.clone().contiguous() for name, weight in found.items()}, file)


def test_a_single_file_is_the_folder_that_it_was_made_of(
    random_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "small.safetensors"
    as_single_file(open_pipeline(random_folder), file)
    whole = cj.load(random_folder, device="cpu")
    alone = cj.load(file, device="cpu", config=random_folder)
    assert alone.name == "small.safetensors" and measured(alone) == measured(whole)
    half = cj.load(file, device="cpu", config=random_folder, dtype="bfloat16")
    assert half.dtype == "bfloat16"
    assert next(half.modules["text_encoder"].parameters()).dtype == torch.float32
    pipeline = open_pipeline(random_folder)
    pipeline.text_encoder.half()
    as_single_file(pipeline, file)
    for text_dtype, expected in (("auto", torch.float16), ("float32", torch.float32)):
        alone = cj.load(file, device="cpu", config=random_folder, text_dtype=text_dtype)
        found = {name: next(m.parameters()).dtype for name, m in alone.modules.items()}
        single = dict.fromkeys(found, torch.float32)
        assert found == single | {"text_encoder": expected}


def test_a_single_file_of_sdxl(tmp_path: Path) -> None:
    """Whose two text encoders are of two widths, and of two libraries."""
    pipeline, added = make("StableDiffusionXLPipeline"), 8
    config = copy.deepcopy(pipeline.text_encoder_2.config)
    config.hidden_size = 48
    pipeline.text_encoder_2 = CLIPTextModelWithProjection(config)
    pipeline.unet = random_unet(
        cross_attention_dim=32 + 48,
        addition_embed_type="text_time",
        addition_time_embed_dim=added,
        projection_class_embeddings_input_dim=6 * added + config.projection_dim,
    )
    pipeline.save_pretrained(tmp_path / "xl")
    as_single_file(pipeline, tmp_path / "xl.safetensors")
    whole = cj.load(tmp_path / "xl", device="cpu")
    alone = cj.load(tmp_path / "xl.safetensors", device="cpu", config=tmp_path / "xl")
    assert measured(alone, sampler="own") == measured(whole, sampler="own") > 0


def test_a_single_file_that_cannot_be_read_says_so(random_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    as_single_file(open_pipeline(random_folder), file)
    with pytest.raises(FileNotFoundError, match=r"name a folder of its family, as config="):
        cj.load(file, device="cpu")  # there is no network to fetch settings from
    with pytest.raises(ValueError, match="a single file has no variant: leave that out"):
        cj.load(file, device="cpu", config=random_folder, variant="fp16")
    pickled = tmp_path / "small.ckpt"
    pickled.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"small\.ckpt is no \.safetensors file"):
        cj.load(pickled, device="cpu", config=random_folder)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"small\.safetensors cannot be read"):
        cj.load(file, device="cpu", config=random_folder)


# -- precisions and places ----------------------------------------------------------------------


def test_the_text_encoders_own_precision(tmp_path: Path) -> None:
    pipeline = make("StableDiffusionXLPipeline")
    pipeline.text_encoder.half(), pipeline.text_encoder_2.half()
    pipeline.save_pretrained(tmp_path / "xl")

    def dtypes(**given: Any) -> list[torch.dtype]:
        modules = cj.load(tmp_path / "xl", device="cpu", **given).modules
        names = ("unet", "text_encoder", "text_encoder_2", "vae")
        return [next(modules[name].parameters()).dtype for name in names]

    single, half, brain = torch.float32, torch.float16, torch.bfloat16
    assert dtypes() == [single] * 4
    assert dtypes(text_dtype="auto") == [single, half, half, single]
    assert dtypes(text_dtype="bfloat16", dtype=half) == [half, brain, brain, single]
    with pytest.raises(ValueError, match="dtype must be one of .*, not 'banana'"):
        cj.load(tmp_path / "xl", device="cpu", text_dtype="banana")


def test_a_device_map_in_place_of_a_device(random_folder: Path) -> None:
    mapped = cj.load(random_folder, device_map="cpu")
    assert measured(mapped) == measured(cj.load(random_folder, device="cpu"))
    assert str(mapped.device) == "cpu"


@pytest.mark.parametrize("shipped", [False, True])
def test_a_quantization_reaches_the_network_alone(
    shipped: bool, random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights with a known hash are compared with it first, and then read as they are asked for."""
    asked: list[tuple[str, Any]] = []
    for kind in (diffusers.UNet2DConditionModel, diffusers.AutoencoderKL):
        own = kind.from_pretrained

        def hear(*given: Any, _own: Any = own, _name: str = kind.__name__, **named: Any) -> Any:
            asked.append((_name, named.pop("quantization_config", None)))
            return _own(*given, **named)

        monkeypatch.setattr(kind, "from_pretrained", hear)
    monkeypatch.setattr(loading, "quantiser", lambda config, *_: config)
    model = cj.EMBEDDED if shipped else random_folder
    cj.load(model, device="cpu", quantization_config="mine")
    of_network = [config for name, config in asked if name == "UNet2DConditionModel"]
    assert of_network == ([None, "mine"] if shipped else ["mine"])
    assert [config for name, config in asked if name == "AutoencoderKL"] == [None]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("int8", "cannot be used here"),
        ({"weights_dtype": "int8"}, "no `quant_method`"),
        ({"quant_method": "wishes"}, "Unknown quantization type, got wishes"),
        (json.loads(loading.QUANTISER), "GPU|bitsandbytes"),
        (diffusers.BitsAndBytesConfig(load_in_8bit=True), "GPU|bitsandbytes"),
    ],
)
def test_a_quantizer_that_cannot_run_is_refused_before_a_weight_is_read(
    config: Any, told: str, random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "open_pipeline", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(ValueError, match=f"quantization_config .*({told}).* such as"):
        cj.load(random_folder, device="cpu", quantization_config=config)


class Quantised(torch.Tensor):
    """As quantisers have it: a tensor without storage of its own, of whole numbers and a scale."""

    @staticmethod
    def __new__(cls, whole: Tensor, scale: Tensor) -> Any:
        made: Any = torch.Tensor._make_wrapper_subclass(cls, whole.shape, dtype=scale.dtype)
        made.whole, made.scale = whole, scale
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["whole", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(func)  # as theirs say of most that can be asked of a tensor


def test_the_bytes_of_a_quantised_tensor_are_those_of_its_parts() -> None:
    whole, scale = torch.tensor([1, -2], dtype=torch.int8), torch.tensor([0.5])
    found = raw(Quantised(whole, scale))
    assert found == whole.numpy().tobytes() + scale.numpy().tobytes()
    assert raw(Quantised(whole, 2 * scale)) != found != raw(Quantised(-whole, scale))


def test_an_offloaded_pipeline_runs_where_it_executes(random_folder: Path) -> None:
    """Accelerate moves the network when it is called; a device without numbers stands for rest."""
    from accelerate import cpu_offload

    pipeline = open_pipeline(random_folder)
    expected = measured(cj.load(pipeline))
    offloaded = open_pipeline(random_folder)
    cpu_offload(offloaded.unet, torch.device("cpu"))  # its weights are on "meta" till they are used
    assert next(offloaded.unet.parameters()).device.type == "meta"
    process = cj.load(offloaded)
    assert process.device.type == "cpu" and measured(process) == pytest.approx(expected, rel=1e-6)


def test_an_offloaded_pipeline_is_the_same_model(random_folder: Path) -> None:
    """Where weights wait changes no number; what else runs in place of a network's forward may."""
    from accelerate import cpu_offload, cpu_offload_with_hook

    def told(change: Callable[[Any], Any]) -> dict[str, Any]:
        pipeline = open_pipeline(random_folder)
        change(pipeline.unet)
        return fingerprint(cj.load(pipeline))

    def patched(unet: Any) -> None:
        unet.forward = partial(diffusers.UNet2DConditionModel.forward, unet)

    where: dict[str, Any] = dict.fromkeys(("onload_device", "offload_device"), torch.device("cpu"))
    plain = told(lambda _: None)
    assert told(lambda unet: cpu_offload(unet, torch.device("cpu"))) == plain
    assert told(lambda unet: cpu_offload_with_hook(unet, "cpu")) == plain
    assert told(lambda unet: unet.enable_group_offload(**where, offload_type="leaf_level")) == plain
    assert told(patched) != plain
    eight = told(lambda unet: unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32))
    assert eight["weights"] != plain["weights"] and eight["state"] != plain["state"]


def test_a_network_that_reuses_other_steps_is_refused() -> None:
    """Its output depends on the calls before, of other prompts and steps."""
    pipeline = make("FluxPipeline")
    size: dict[str, Any] = {"height": 16, "width": 16}
    process = cj.load(pipeline, **size)
    expected = measured(process)
    settings: dict[str, Any] = {"current_timestep_callback": lambda: 500}
    settings["spatial_attention_timestep_skip_range"] = (-1, 1001)
    blocks = ("transformer_blocks", "single_transformer_blocks")
    pipeline.transformer.enable_cache(
        diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_block_identifiers=blocks,
            **settings,
        )
    )
    for ask in (lambda: cj.load(pipeline, **size), lambda: measured(process)):
        with pytest.raises(ValueError, match=r"reuses what it said at other .*disable_cache\(\)"):
            ask()
    pipeline.transformer.disable_cache()
    assert measured(process) == expected == measured(cj.load(pipeline, **size))


# -- copies -------------------------------------------------------------------------------------


class Pipeline(diffusers.StableDiffusionPipeline):
    """Somebody's own class, which diffusers has not."""


def test_a_pipeline_of_somebodys_own_class(random_folder: Path) -> None:
    own = Pipeline(**open_pipeline(random_folder).components, requires_safety_checker=False)
    process = cj.load(own, negative_prompt="a dog")
    assert process.name == "Pipeline"
    whole = cj.load(open_pipeline(random_folder), negative_prompt="a dog")
    numbers = [measured(p, guidance=3.0) for p in (whole, process, copy.deepcopy(process))]
    assert numbers == numbers[:1] * 3
    with pytest.raises(TypeError, match="Pipeline has no option heigth that could be set"):
        cj.load(own, heigth=32)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("change", ["layerwise_casting", "group_offload"])
def test_hooks_that_would_stay_with_the_original_are_not_copied(
    change: str, copied: Callable[[Any], Any], random_folder: Path
) -> None:
    pipeline = open_pipeline(random_folder)
    if change == "group_offload":
        here = torch.device("cpu")
        pipeline.unet.enable_group_offload(here, here, offload_type="leaf_level")
    else:
        pipeline.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    with pytest.raises(TypeError, match=r"its network has hooks of diffusers.* cannot be copied"):
        copied(cj.load(pipeline))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copied_or_pickled_process_is_independent(
    random_folder: Path, copied: Callable[[Any], cj.GenerativeProcess]
) -> None:
    process = cj.load(random_folder, device="cpu", negative_prompt="a dog")
    before = measured(process, guidance=3.0)
    other = copied(process)
    assert other.name == process.name and other.evaluations == process.evaluations
    assert fingerprint(other) == fingerprint(process)
    assert measured(other, guidance=3.0) == before
    with torch.no_grad():
        for weight in other.modules["unet"].parameters():
            weight.mul_(1.5)
    assert measured(process, guidance=3.0) == before != measured(other, guidance=3.0)
    scorer = copied(cj.Scorer(process, guidance=3.0, **FEW))  # type: ignore[arg-type]
    assert scorer.predict([PROMPTS])[0] == pytest.approx(-measured(process, guidance=3.0))  # type: ignore[attr-defined]


# -- what a record tells models apart by --------------------------------------------------------


def test_the_fingerprint_sees_what_changes_a_prediction_and_nothing_else(
    random_folder: Path,
) -> None:
    pipeline = open_pipeline(random_folder)
    process = cj.load(pipeline)

    def state() -> tuple[str, float]:
        return repr(fingerprint(process)), measured(process)

    plain = state()
    pipeline.safety_checker = random_vae()
    assert repr(fingerprint(cj.load(pipeline))) == plain[0]
    pipeline.unet.compile(backend="eager")
    assert state()[0] == plain[0]
    pipeline.unet._compiled_call_impl = None

    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    freed = state()
    pipeline.disable_freeu()
    assert freed[0] != plain[0] and freed[1] != plain[1] and state() == plain

    targets = ["to_q", "to_k", "to_v"]
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), "a")
    adapted = state()
    assert adapted[0] != plain[0] and adapted[1] != plain[1]
    pipeline.set_adapters(["a"], [0.5])
    scaled = state()
    assert scaled[0] not in (plain[0], adapted[0]) and scaled[1] not in (plain[1], adapted[1])
    pipeline.disable_lora()
    off = state()
    assert off[0] not in (adapted[0], scaled[0]) and off[1] == pytest.approx(plain[1], rel=1e-5)
    pipeline.enable_lora()
    assert state()[0] == scaled[0]

    pipeline.unet.disable_adapters()
    eight = open_pipeline(random_folder)
    eight.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert repr(fingerprint(cj.load(eight))) != plain[0]


def test_the_fingerprint_sees_the_options_of_the_call(random_folder: Path) -> None:
    pipeline = open_pipeline(random_folder)
    plain = fingerprint(cj.load(pipeline))
    assert "options" not in plain
    for options in (
        {"negative_prompt": "a dog"},
        {"long_prompts": True},
        {"height": 32, "width": 16},
    ):
        assert fingerprint(cj.load(pipeline, **options)) != plain  # type: ignore[arg-type]


# -- prompts ------------------------------------------------------------------------------------

LONG = " ".join(["a red fox and a cat"] * 8)  # spelt in letters: some hundred tokens


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_long_prompts_are_read_in_pieces_on_request(name: str) -> None:
    pipeline = make(name)
    cut, whole = cj.load(pipeline), cj.load(pipeline, long_prompts=True)
    (reader,) = {r.name: r for r in cut.readers if r.name == "tokenizer"}.values()
    parts = pieces(reader, LONG)
    assert " ".join(parts) == LONG and len(parts) > 1
    assert all(len(reader([part])[0]) <= reader.room for part in parts)

    def hidden(condition: Any) -> Tensor:
        if isinstance(condition, Tensor):
            return condition
        return torch.cat([row.parts["encoder_hidden_states"] for row in condition.rows])

    told = hidden(whole.encode([LONG]))
    expected = torch.cat([hidden(cut.encode([part])) for part in parts], dim=1)
    torch.testing.assert_close(told, expected)
    short = whole.encode(["a fox"])
    torch.testing.assert_close(hidden(short), hidden(cut.encode(["a fox"])))

    few = FEW | {"sampler": "own" if "XL" in name else "ddim"}
    other = LONG + " in the snow"  # the same to a model that cuts it
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert cj.distance(cut, LONG, other, **few).same_tokens
    told_of = [str(one.message) for one in said if issubclass(one.category, UnreadWarning)]
    assert any("are the same tokens" in one for one in told_of)
    assert any("are cut" in one for one in told_of)
    found = cj.distances(whole, [(LONG, other), (LONG, "a fox"), ("a fox", "a cat")], **few)
    assert all(one.value > 0 and not one.same_tokens for one in found)
    alone = cj.distance(whole, "a fox", "a cat", **few)
    assert found[2].value == pytest.approx(alone.value, rel=1e-4)
    assert cj.distance(whole, LONG, "a fox", guidance=3.0, **few).value > 0
    plain = cj.distance(cut, "a fox", "a cat", **few)
    assert alone.value == pytest.approx(plain.value, rel=1e-4)


def test_a_word_that_is_longer_than_the_window_is_cut_in_itself(random_folder: Path) -> None:
    reader = cj.load(random_folder, device="cpu").readers[0]
    parts = pieces(reader, "x" * 200)
    assert "".join(parts) == "x" * 200 and len(parts) == 3
    assert pieces(reader, "") == [""] and pieces(reader, "a fox") == ["a fox"]


@pytest.mark.parametrize("wanted", ["no", 1, "True"])
def test_long_prompts_are_wanted_or_not(wanted: Any) -> None:
    with pytest.raises(TypeError, match=f"long_prompts must be True or False, not {wanted!r}"):
        cj.load(make("StableDiffusionPipeline"), long_prompts=wanted)


def test_long_prompts_are_refused_where_a_network_is_told_more() -> None:
    with pytest.raises(ValueError, match="FluxPipeline reads no long prompts: its network is told"):
        cj.load(make("FluxPipeline"), height=16, width=16, long_prompts=True)


# -- the page -----------------------------------------------------------------------------------


def test_the_page_runs(random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code from top to bottom, with a small pipeline in the place of the one it names."""
    small = open_pipeline(random_folder)
    monkeypatch.setattr(small, "to", lambda *_: small, raising=False)
    monkeypatch.setattr(
        diffusers.DiffusionPipeline, "from_pretrained", lambda *_, **__: small, raising=True
    )
    text = re.sub(r"(height|width)=512", r"\1=16", PAGE.read_text("utf-8"))
    space: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.+?)```", text, re.S):
        exec(block, space)
    assert space["cat"].grad is not None
