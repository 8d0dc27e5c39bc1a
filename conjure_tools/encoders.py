"""Models of transformers beside the pipelines: of texts and pictures, from a folder or the Hub."""

from __future__ import annotations

from pathlib import Path

from conjure_lib.integrity import quiet
from conjure_tools.hub import from_hub, no_revision

FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*-of-*.safetensors")
COMMITS = {  # of repositories, each with safetensors
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "microsoft/resnet-50": "34c2154c194f829b11125337b98c8f5f9965ff19",
    "openai/clip-vit-base-patch32": "c237dc49a33fc61debc9276459120b7eac67e7ef",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "sentence-transformers/all-MiniLM-L6-v2": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
}


def encoder_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a transformers model, fetched from the Hub if it is a repository.

    Args:
        revision: a commit of the repository; pinned in ``COMMITS`` for known ones.

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

    with quiet():
        return from_hub(str(source), revision or COMMITS.get(str(source)), fetch)
