"""The Hugging Face Hub: asked once, and not for long; else this machine's cache is looked at."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from conjure_lib.integrity import first_line

REVISIONS = {  # of known repositories, each a commit with safetensors
    "CompVis/stable-diffusion-v1-4": "133a221b8aa7292a167afc5127cb63fb5005638b",
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "microsoft/resnet-50": "34c2154c194f829b11125337b98c8f5f9965ff19",
    "openai/clip-vit-base-patch32": "c237dc49a33fc61debc9276459120b7eac67e7ef",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "sentence-transformers/all-MiniLM-L6-v2": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
}
SECONDS = 5.0  # for the one answer
REST = 60.0  # seconds until a Hub that gave none is asked again
_rest = {"until": 0.0}
_alone = threading.Lock()


def from_hub(
    name: str,
    revision: str | None,
    fetch: Callable[[str | None, bool], str],
    kind: str = "model",
) -> Path:
    """The folder that ``fetch(commit, only_from_the_cache)`` gives of a repository.

    Args:
        revision: a commit; by default the one in ``REVISIONS``, or the newest.
        kind: "model" or "dataset".

    Raises:
        FileNotFoundError: neither the Hub nor the cache has it; says what to do.
        ValueError: the revision is none.
    """
    from huggingface_hub.errors import HFValidationError

    if revision is not None and not (isinstance(revision, str) and revision.strip()):
        raise ValueError(f"revision must be a commit, or not be given, not {revision!r}")
    commit = REVISIONS.get(name) if revision is None else revision
    silence = _silence(name, kind)
    try:
        with nullcontext() if silence is None else _offline():
            return Path(fetch(commit, silence is not None))
    except (OSError, HFValidationError) as error:
        choice = f"{name} --revision {commit}" if commit else name
        choice += " --repo-type dataset" if kind == "dataset" else ""
        raise FileNotFoundError(
            f"cannot load {name!r}: there is no such folder here, it is not in this machine's "
            f"cache of the Hugging Face Hub, and {silence or _told(error)}. Where there is a "
            f"network, 'hf download {choice}' fetches it once"
            + (". The embedded model, 'emoji-diffusion', needs none." * (kind == "model"))
        ) from error


def _silence(name: str, kind: str) -> str | None:
    """Why there is no use in asking the Hub for a repository; None where it gives any answer."""
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    asked_not_to = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if constants.HF_HUB_OFFLINE or asked_not_to:
        return "HF_HUB_OFFLINE is set"
    if time.monotonic() < _rest["until"]:
        return "the Hub did not answer a moment ago"
    try:
        file = hf_hub_url(name, ".gitattributes", repo_type=kind)  # which every repository has
        get_session().get(file, timeout=SECONDS)
    except HFValidationError:
        return "it is no name of a repository"
    except Exception as error:  # of the client of the day: requests, httpx
        _rest["until"] = time.monotonic() + REST
        return f"the Hub does not answer ({type(error).__name__}: {first_line(error)})"
    return None


@contextmanager
def _offline() -> Iterator[None]:
    """The Hub's client says who it is talking for, even where it is to look at the cache alone."""
    from huggingface_hub import constants

    with _alone:
        kept, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = kept


def _told(error: Exception) -> str:
    return f"the Hub says {type(error).__name__}: {first_line(error)}"
