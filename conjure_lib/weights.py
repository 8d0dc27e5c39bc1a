"""Models, tokenizers and their like, from a folder or the Hub: complete, or refused.

Only safetensors are read: nothing is unpickled, and no code that a checkpoint brings is run. This
is the only file that calls ``from_pretrained``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from conjure_lib.adapters import quiet

REVISIONS = {  # of repositories on the Hub, each a commit with safetensors
    "CompVis/stable-diffusion-v1-4": "133a221b8aa7292a167afc5127cb63fb5005638b",
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "microsoft/resnet-50": "34c2154c194f829b11125337b98c8f5f9965ff19",
    "openai/clip-vit-base-patch32": "c237dc49a33fc61debc9276459120b7eac67e7ef",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "sentence-transformers/all-MiniLM-L6-v2": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
}
LOADED = "LOADED_SHA256"  # a file beside a model: the hash that its weights have once loaded
FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*-of-*.safetensors")
HUB_SECONDS = 5.0  # for its one answer
HUB_REST = 60.0  # until a Hub that gave none is asked again
_rest = {"until": 0.0}


def pretrained(
    kind: Any,
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    variant: str | None = None,
    unread: Sequence[str] = (),
) -> Any:
    """A model of class ``kind``, of diffusers or transformers, that is complete: in eval mode.

    Args:
        source: a folder, or a repository of the Hub with a transformers model.
        revision: a commit of the repository; pinned in ``REVISIONS`` for known ones.
        variant: of the weights' files, such as "fp16", where there are several.
        unread: parts of the model that the caller does not use, and that a checkpoint of another
            class need not have: ("pooler",).

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: weights are damaged, missing, unexpected or of another shape; or pickled.
    """
    folder = model_folder(source, revision)
    there = _variants(folder)
    if variant not in there and None not in there:
        names = " or ".join(f"variant={name!r}" for name in sorted(map(str, there)))
        raise ValueError(f"{folder} holds a variant of its weights alone: say {names}")
    module = kind.__module__.split(".")[0]
    options = {"dtype" if module == "transformers" else "torch_dtype": dtype}
    with reading(folder, kind):
        model, found = kind.from_pretrained(
            str(folder),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            variant=variant if variant in there else None,
            **options,
        )
    _check_complete(model, found, folder, unread)
    return model.eval()


def reader(kind: Any, source: str | Path, *, revision: str | None = None) -> Any:
    """What has no weights: a tokenizer, a processor of images or a scheduler of class ``kind``.

    Raises:
        FileNotFoundError: there is no such folder or repository.
        ValueError: its files are missing or cannot be read.
    """
    folder = model_folder(source, revision)
    with reading(folder, kind):
        found = kind.from_pretrained(str(folder), local_files_only=True)
    special = getattr(found, "all_special_ids", None)
    if special is not None and len(found) <= len(set(special)) + 1:  # T5 makes one up
        raise ValueError(f"{folder} holds no vocabulary for {kind.__name__}: fetch it again")
    return found


def model_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a transformers model, fetched from the Hub if it is a repository.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: a revision of a folder.
    """
    folder = Path(source)
    if folder.is_dir():
        no_revision(folder, revision)
        return folder

    def fetch(commit: str | None, local: bool) -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(
            str(source),
            revision=commit,
            local_files_only=local,
            allow_patterns=list(FILES),
            ignore_patterns=["*/*"],
        )

    return from_hub(str(source), revision, fetch)


def no_revision(folder: Path, revision: str | None) -> None:
    """Raises ValueError: a folder has no revisions to choose from."""
    if revision is not None:
        raise ValueError(
            f"revision is of repositories on the Hub, and {folder} is a folder: leave out "
            f"revision={revision!r}"
        )


def from_hub(
    name: str,
    revision: str | None,
    fetch: Callable[[str | None, bool], str],
    kind: str = "model",
) -> Path:
    """The folder that ``fetch(commit, only_from_the_cache)`` gives of a repository of the Hub.

    The Hub is asked once, and not for long. If it does not answer, or ``HF_HUB_OFFLINE`` is set,
    the cache of this machine is looked at.

    Raises:
        FileNotFoundError: neither has it.
    """
    from huggingface_hub.errors import HFValidationError

    commit = revision or REVISIONS.get(name)
    silence = _silence(name, commit, kind)
    try:
        with quiet():
            return Path(fetch(commit, silence is not None))
    except (OSError, HFValidationError) as error:
        at = f" --revision {commit}" if commit else ""
        raise FileNotFoundError(
            f"cannot load {name!r}: there is no such folder here, it is not in this machine's "
            f"cache of the Hugging Face Hub, and {silence or _first_line(error)}. Where there is a "
            f"network, 'hf download {name}{at}' fetches it once. The embedded model, "
            "'emoji-diffusion', needs none."
        ) from error


def _silence(name: str, commit: str | None, kind: str) -> str | None:
    """Why the Hub does not give a repository; None where it does."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    if time.monotonic() < _rest["until"]:
        return "the Hub did not answer a moment ago"
    try:
        HfApi().repo_info(name, revision=commit, repo_type=kind, timeout=HUB_SECONDS)
    except HFValidationError:
        return "it is no name of a repository"
    except HfHubHTTPError as error:  # it did answer
        return f"the Hub says: {_first_line(error)}"
    except Exception as error:  # of the client of the day: requests, httpx
        _rest["until"] = time.monotonic() + HUB_REST
        return f"the Hub does not answer ({type(error).__name__}: {_first_line(error)})"
    return None


def check_sums(folder: Path) -> None:
    """Compare a folder's files with its SHA256SUMS, where it has one.

    Raises:
        FileNotFoundError: a file of the list is missing.
        ValueError: a file differs, or a line is no checksum.
    """
    sums = folder / "SHA256SUMS"
    lines = sums.read_text("utf-8", "replace").splitlines() if sums.is_file() else []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parsed = re.fullmatch(r"([0-9a-fA-F]{64})[ \t]+\*?(.+?)\s*", line)
        if parsed is None:
            raise ValueError(f"{sums}, line {number}: no SHA-256 and a file, but {line!r}")
        file = folder / parsed[2]
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: fetch the model's folder again")
        if hashlib.sha256(file.read_bytes()).hexdigest() != parsed[1].lower():
            raise ValueError(f"{file} is damaged (its SHA-256 differs): fetch it again")


def loaded_hash(parts: Mapping[str, Any]) -> str:
    """SHA-256 over the weights of the networks among ``parts`` in float32, by name."""
    digest = hashlib.sha256()
    networks = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
    for name, network in sorted(networks.items()):
        for key, weight in sorted(network.state_dict().items()):
            digest.update(f"{name}/{key}/{tuple(weight.shape)}".encode())
            digest.update(weight.detach().float().cpu().flatten().numpy())
    return digest.hexdigest()


def check_loaded(folder: Path, parts: Mapping[str, Any]) -> None:
    """Compare what was loaded in float32 with the hash that the folder names, where it does.

    Raises:
        ValueError: they differ.
    """
    file = folder / LOADED
    if file.is_file() and file.read_text("utf-8", "replace").strip() != loaded_hash(parts):
        raise ValueError(
            f"the weights of {folder} are not those that were trained, once they are loaded with "
            f"{releases()}: its files were changed, or these releases misread them"
        )


def releases() -> str:
    """What is installed: "diffusers 0.42.1, torch 2.13.0, transformers 5.23.0"."""
    names = ("diffusers", "torch", "transformers")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _variants(folder: Path) -> set[str | None]:
    """The variants of a folder's weights, such as "fp16"; None for the plain ones."""
    names = sorted(file.name for file in folder.iterdir())
    name = re.compile(r"[^.]+?(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")
    found = {parsed[1] for parsed in map(name.fullmatch, names) if parsed}
    if not found:
        pickled = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
        if pickled:
            raise ValueError(
                f"{folder} holds pickled weights alone ({pickled[0]}), which could run anything "
                "and are not read: take a revision or a copy of the model with safetensors"
            )
        raise FileNotFoundError(f"{folder} holds no weights (safetensors): fetch it again")
    return found


@contextmanager
def reading(folder: Path, kind: Any) -> Iterator[Any]:
    """Silent; what goes wrong inside becomes a ValueError that names the folder."""
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that releases change
            yield kind
    except MemoryError:
        raise
    except Exception as error:  # whatever the libraries raise at a file that they did not write
        raise ValueError(
            f"{folder} cannot be read as {kind.__name__}, fetch it again: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error


def _check_complete(
    model: Any, found: Mapping[str, Any], folder: Path, unread: Sequence[str]
) -> None:
    """Refuse what the libraries' own reports of loading tell of, and they at most log."""
    own = {name.split(".")[0] for name in [*model.state_dict(), *dict(model.named_buffers())]}
    classes = getattr(model.config, "architectures", None) or [type(model).__name__]
    lacking, beyond = set(found["missing_keys"]), set(found["unexpected_keys"])
    if type(model).__name__ not in classes:  # BertModel of a BertForMaskedLM: heads stay behind
        lacking = {key for key in lacking if key.split(".")[0] not in unread}
        beyond = {key for key in beyond if key.split(".")[0] in own}
    other = {key for key, *_ in found["mismatched_keys"]}
    faults = {"missing": lacking, "unexpected": beyond, "of another shape": other}
    told = "; ".join(f"{_some(keys)} {fault}" for fault, keys in faults.items() if keys)
    told += "; ".join(map(str, found.get("error_msgs") or ()))
    if told:
        raise ValueError(
            f"{folder} is no complete {type(model).__name__} for {releases()}: {told}. Fetch it "
            "again, or install the releases that its weights were saved with"
        )


def _some(keys: set[str]) -> str:
    listed = sorted(keys)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
