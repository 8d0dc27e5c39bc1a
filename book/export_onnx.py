"""Export the embedded model for the live page: networks to ONNX, weights in half precision.

    python book/export_onnx.py _build/live/model

A network becomes NAME.onnx, a graph without its weights, and NAME.weights: the half-precision
numbers of the checkpoint, low bytes first and then high bytes, which loses nothing and compresses
well. model.json holds the rest: the schedule, what the tokenizer adds, and one noise prediction to
check a runtime by. All files are compressed with gzip. What was written is read back, run by
onnxruntime and compared with torch.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

import conjure_lib as cj
from conjure_lib.sde import eps_from_output
from conjure_tools.loading import shipped
from conjure_tools.weights import reader

LIMIT = 21_000_000  # bytes over the wire, of everything but the runtime
AGREEMENT = 1e-5  # of onnxruntime with torch, relative to the norm
ROWS = 3  # of the inputs that are traced; any number runs


class TextEncoder(nn.Module):
    """Token ids (n, tokens) to hidden states (n, tokens, width)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(ids)[0]


class UNet(nn.Module):
    """ε(x, t|y): x (n, *latent_shape), t (n,), y (n, tokens, width) to the shape of x."""

    def __init__(self, process: cj.GenerativeProcess) -> None:
        super().__init__()
        self.unet, self.kind = process.modules["unet"], process.kind
        bars = process.scheduler.alphas_cumprod.double()
        self.register_buffer("alpha", bars.sqrt().float())
        self.register_buffer("sigma", (1 - bars).sqrt().float())

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        output, at = self.unet(x, t, y, return_dict=False)[0], t.long()
        alpha, sigma = self.get_buffer("alpha")[at], self.get_buffer("sigma")[at]
        return eps_from_output(output, x, alpha, sigma, self.kind)


class Decoder(nn.Module):
    """Latents (n, *latent_shape) to pictures (n, height, width, 3) in [0, 1]."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        pictures = self.vae.decode(z / self.vae.config.scaling_factor, return_dict=False)[0]
        return (pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def networks(process: cj.GenerativeProcess) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """The three networks and inputs to trace and to check them with, by name."""
    parts: Mapping[str, Any] = process.modules
    x = process.noise(range(ROWS), seed=0)
    ids = torch.arange(ROWS * parts["text_encoder"].config.max_position_embeddings)
    t = torch.tensor([1.0, 501.0, 901.0])
    return {
        "text_encoder": (
            TextEncoder(parts["text_encoder"]),
            {"ids": (1000 + 7 * ids).int().reshape(ROWS, -1)},
        ),
        "unet": (UNet(process), {"x": x, "t": t, "y": process.encode(["cat", "a dog", ""])}),
        "decoder": (Decoder(parts["vae"]), {"z": x}),
    }


def to_onnx(network: nn.Module, inputs: Mapping[str, Tensor]) -> ModelProto:
    """The graph of ``network`` with any number of rows, its output called "output"."""
    rows = torch.export.Dim("rows")
    program = torch.onnx.export(
        network.eval(),
        tuple(inputs.values()),
        dynamo=True,
        input_names=list(inputs),
        output_names=["output"],
        dynamic_shapes={name: {0: rows} for name in inputs},
        external_data=False,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def split_weights(model: ModelProto, place: str) -> np.ndarray:
    """Move the weights out of ``model``, to be found at ``place`` as float32; they are returned.

    Only those that half precision holds exactly, and more than a few numbers, are moved.
    """
    model.graph.ClearField("value_info")
    for node in model.graph.node:
        node.ClearField("metadata_props")  # where in the Python code it comes from
    found: list[np.ndarray] = []
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.dtype != np.float32 or weights.size < 16 or np.abs(weights).max() > 65504:
            continue
        half = weights.astype(np.float16)
        if (half.astype(np.float32) == weights).all():
            offset = 4 * sum(len(one) for one in found)
            found.append(half.ravel())
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": place, "offset": str(offset), "length": str(4 * half.size)}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
    return np.concatenate(found)


def planes(weights: np.ndarray) -> bytes:
    """Half-precision numbers as all their low bytes, and then all their high bytes."""
    return weights.astype("<f2").view(np.uint8).reshape(-1, 2).T.tobytes()


def write(folder: Path, name: str, content: bytes) -> None:
    """One compressed file; the same bytes for the same content."""
    (folder / name).write_bytes(gzip.compress(content, 9, mtime=0))


def read(folder: Path, name: str) -> bytes:
    """What :func:`write` was given."""
    return gzip.decompress((folder / name).read_bytes())


def session(folder: Path, name: str) -> onnxruntime.InferenceSession:
    """A network from the files of the live page, in onnxruntime."""
    raw = np.frombuffer(read(folder, f"{name}.weights"), np.uint8)
    weights = np.ascontiguousarray(raw.reshape(2, -1).T).view("<f2").astype("<f4")
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / f"{name}.onnx").write_bytes(read(folder, f"{name}.onnx"))
        (Path(place) / f"{name}.weights").write_bytes(weights.tobytes())
        return onnxruntime.InferenceSession(Path(place) / f"{name}.onnx")


def disagreement(
    folder: Path, name: str, network: nn.Module, inputs: Mapping[str, Tensor]
) -> float:
    """How far onnxruntime is from torch, relative to the norm; on one row less than was traced."""
    rows = {key: value[1:] for key, value in inputs.items()}
    with torch.no_grad():
        expected = network(**rows).numpy()
    feeds = {key: value.numpy() for key, value in rows.items()}
    (found,) = session(folder, name).run(None, feeds)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def manifest(process: cj.GenerativeProcess, tokenizer: Any) -> dict[str, Any]:
    """What the page needs to know beside the networks.

    Raises:
        ValueError: the checkpoint's scheduler has ways that the page does not know.
    """
    config = process.scheduler.config
    known = {"timestep_spacing": "leading", "clip_sample": False, "thresholding": False}
    known |= {"set_alpha_to_one": False}
    if changed := [key for key, value in known.items() if config[key] != value]:
        raise ValueError(f"web/src/schedule.js does not know these settings: {changed}")
    x, prompt, t = process.noise([0], seed=0), "cat", 501
    eps = process.eps(x, torch.tensor([t]), process.encode([prompt]))
    return {
        "latent_shape": process.latent_shape,
        "offset": config.steps_offset,
        "alphas_cumprod": numbers(process.scheduler.alphas_cumprod),
        "tokens": {
            "length": tokenizer.model_max_length,
            "first": tokenizer.cls_token_id,
            "last": tokenizer.sep_token_id,
            "pad": tokenizer.pad_token_id,
        },
        "check": {"prompt": prompt, "t": t, "x": numbers(x), "eps": numbers(eps)},
    }


def numbers(tensor: Tensor) -> list[float]:
    """All numbers of a float32 tensor, each in as few digits as tell it from its neighbours."""
    return [float(str(value)) for value in tensor.flatten().numpy()]


def export(folder: Path) -> None:
    """Write the files of the live page into ``folder``, and check them.

    Raises:
        ValueError: onnxruntime and torch disagree, or the files are too large.
    """
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    process = cj.load(device="cpu")
    for name, (network, inputs) in networks(process).items():
        model = to_onnx(network, inputs)
        write(folder, f"{name}.weights", planes(split_weights(model, f"{name}.weights")))
        write(folder, f"{name}.onnx", model.SerializeToString())
        error = disagreement(folder, name, network, inputs)
        print(f"{name}: onnxruntime and torch differ by {error:.1e}")
        if not error < AGREEMENT:
            raise ValueError(f"{name} is not what torch computes")
    source = shipped(cj.EMBEDDED) / "tokenizer"
    write(folder, "tokenizer.json", (source / "tokenizer.json").read_bytes())
    content = json.dumps(manifest(process, reader(AutoTokenizer, source)))
    write(folder, "model.json", content.encode())
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{size / 1e6:.1f} MB over the wire")
    if size > LIMIT:
        raise ValueError(f"the limit is {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Export the embedded model for the live page.")
    parser.add_argument("folder", type=Path)
    export(parser.parse_args().folder)
