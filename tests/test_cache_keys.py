"""What entries of the cache and remembered hashes are found by: all that decides a result."""

import ast
import hashlib
import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from difftalk.config.backends import LANDMARK_MODULES, SPEECH_MODULES, unused_modules
from difftalk.datasets import features_cache
from difftalk.evaluation import scorer
from difftalk.face import kept_crops, kept_tracks
from difftalk.models import kept_latents
from difftalk.runtime import remembered
from difftalk.runtime.cache import Cache
from difftalk.runtime.fingerprint import PACKAGE, fingerprint_files, imported_modules
from difftalk.speech import kept_features

# They carry numbers between files and memory, and decide none.
CARRIERS = {"pyarrow", "safetensors", "google", "tensorboard"}
# Modules whose package is named otherwise, or is not installed everywhere.
NAMES = {"dlib": "dlib-bin", "cv2": "opencv-python", "face_alignment": "face-alignment"}


def imported_packages(module: str, without: list[str]) -> set[str]:
    installed = importlib.metadata.packages_distributions()
    found = set()
    for name in imported_modules(module, without=without):
        base = PACKAGE.joinpath(*name.split(".")[1:])
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    others = found - sys.stdlib_module_names - CARRIERS - {PACKAGE.name}
    return {NAMES.get(name, installed.get(name, [name])[0]).lower() for name in others}


@pytest.mark.parametrize(
    ("libraries", "module", "without"),
    [
        *(
            (packages, kept_tracks.__name__, [*unused_modules(LANDMARK_MODULES, name), *kept_tracks.UNUSED])
            for name, packages in kept_tracks.LIBRARIES.items()
        ),
        *(
            (packages, "difftalk.speech.features", unused_modules(SPEECH_MODULES, name))
            for name, packages in kept_features.LIBRARIES.items()
        ),
        (kept_crops.LIBRARIES, "difftalk.face.crops", ["difftalk.face.sync_gate"]),
        (kept_latents.LIBRARIES, "difftalk.models.encoding", []),
        (features_cache.LIBRARIES, "difftalk.datasets.file_features", []),
        (scorer.LIBRARIES, "difftalk.evaluation.instruments", []),
    ],
)
def test_an_entry_is_found_by_the_version_of_each_library_that_its_code_imports(
    libraries: tuple[str, ...], module: str, without: list[str]
) -> None:
    assert imported_packages(module, without) <= set(libraries)


def test_a_file_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    """As weights are that were unpacked over others, from an archive that sets all times to one."""
    weights = tmp_path / "weights.bin"
    remembered.use_file(tmp_path / "remembered.json")
    try:
        weights.write_bytes(b"one")
        os.utime(weights, (1, 1))
        one = fingerprint_files(weights)
        weights.write_bytes(b"two")
        os.utime(weights, (1, 1))
        assert fingerprint_files(weights) != one
    finally:
        remembered.use_file(None)


def test_remembered_values_that_were_edited_or_cut_off_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "remembered.json"
    try:
        remembered.use_file(file)
        remembered.keep("key", "[1]")
        remembered.save()
        whole = file.read_text()
        remembered.use_file(file)
        assert remembered.recall("key") == "[1]"
        for text in (whole.replace("[1]", "[2]"), whole[:-3], "", "[]", '{"key": "[2]"}', "[" * 100_000):
            file.write_text(text)
            remembered.use_file(file)
            assert remembered.recall("key") is None
    finally:
        remembered.use_file(None)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn"])
def test_an_entry_that_was_written_damaged_is_made_again(tmp_path: Path, content: bytes) -> None:
    cache = Cache(tmp_path, "score")
    entry = cache.entry({})
    assert entry is not None
    entry.parent.mkdir(parents=True)
    entry.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    assert cache.read(entry) is None
