"""Published model files for tests, fetched once from the Python package index and kept in a cache.

The cache is the directory that RNNCORE_TEST_CACHE names, or .cache/packages in the repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from paths import ROOT

__all__ = ["real_file", "real_folders", "real_source_file"]


def cache() -> Path:
    """The cache directory, made if it is not there."""
    directory = Path(os.environ.get("RNNCORE_TEST_CACHE") or ROOT / ".cache" / "packages")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def real_file(requirement: str, member: str) -> Path:
    """Path of one file of a wheel: ``real_file("Resemblyzer==0.1.4", "resemblyzer/pretrained.pt")``.

    Downloads the wheel on first use (without its dependencies, and nothing of it is run). Several processes may ask
    at once: each works in a directory of its own, and the rename at the end is atomic. Raises RuntimeError where pip
    fails.
    """
    path = cache() / requirement.replace("==", "-") / member
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        wheel = _wheel(requirement, Path(work))
        part = Path(work) / "part"
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
    return path


def real_folders(requirement: str, folders: Iterable[str]) -> list[Path]:
    """Paths of whole folders of a wheel, with everything below them, by one download. Otherwise as real_file."""
    paths = {folder: cache() / requirement.replace("==", "-") / folder for folder in folders}
    missing = {folder: path for folder, path in paths.items() if not path.exists()}
    if missing:
        with (
            tempfile.TemporaryDirectory(dir=cache()) as work,
            zipfile.ZipFile(_wheel(requirement, Path(work))) as archive,
        ):
            for folder, path in missing.items():
                members = [name for name in archive.namelist() if name.startswith(f"{folder}/")]
                if not members:
                    raise RuntimeError(f"{requirement}: no folder {folder!r} in {archive.filename}")
                archive.extractall(work, members)
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    (Path(work) / folder).rename(path)
                except OSError:
                    if not path.exists():  # else another process was first
                        raise
    return list(paths.values())


def real_source_file(requirement: str, member: str) -> Path:
    """Path of one file of a source archive: ``member`` is below its top folder. Otherwise as real_file."""
    path = cache() / requirement.replace("==", "-") / member
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        source = _downloaded(requirement, Path(work), "--no-binary", "*.tar.gz")
        part = Path(work) / "part"
        with tarfile.open(source) as archive:
            top = archive.getnames()[0].split("/")[0]
            with archive.extractfile(f"{top}/{member}") as source_file, part.open("wb") as target:
                shutil.copyfileobj(source_file, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
    return path


def _wheel(requirement: str, work: Path) -> Path:
    # For any interpreter the wheel of this one: one without a GIL finds none of those for the stable ABI.
    return _downloaded(requirement, work, "--only-binary", "*.whl", "--python-version", "3.11")


def _downloaded(requirement: str, work: Path, kind: str, pattern: str, *options: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", kind, ":all:"]
    command += [*options, "-d", str(work), requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    files = list(work.glob(pattern))
    if done.returncode or len(files) != 1:
        raise RuntimeError(f"pip download {requirement}: {done.stderr.strip()[-500:]}")
    return files[0]
