"""What changes a fingerprint, and what does not."""

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from difftalk.runtime import fingerprint as module
from difftalk.runtime.fingerprint import fingerprint, fingerprint_files, imported_modules

PACKAGE = Path(module.__file__).parents[1]
STAGES_BEFORE_SCORE = (
    "difftalk.stages.plan",
    "difftalk.stages.fetch",
    "difftalk.stages.landmarks",
    "difftalk.stages.crops",
    "difftalk.stages.speech",
    "difftalk.stages.encode",
    "difftalk.stages.train",
    "difftalk.stages.sample",
)

Package = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """`write("a/b.py", text)` writes a module of a package that stands in for this one."""
    package = tmp_path / "difftalk"
    monkeypatch.setattr(module, "PACKAGE", package)

    def write(path: str, text: str) -> None:
        file = package / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        module._read.cache_clear()

    write("__init__.py", '__version__ = "1"\n')
    write("stage.py", "from difftalk.media import audio\n\ndef run():\n    return audio.rate\n")
    write("media/__init__.py", "")
    write("media/audio.py", "rate = 16000\n")
    write("other.py", "value = 1\n")
    yield write
    module._read.cache_clear()


def test_follows_imports_to_submodules_and_their_packages(write: Package) -> None:
    assert imported_modules("difftalk.stage") == [
        "difftalk",
        "difftalk.media",
        "difftalk.media.audio",
        "difftalk.stage",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "import difftalk.other",
        "from difftalk import other",
        "from difftalk.other import value",
        "from . import other",
        "from .other import value",
        "def f():\n    from difftalk import other",
        "class C:\n    def f(self):\n        import difftalk.other as o",
        'module = importlib.import_module("difftalk.other")',
    ],
)
def test_sees_every_form_of_import(write: Package, line: str) -> None:
    write("stage.py", f"{line}\n")
    assert "difftalk.other" in imported_modules("difftalk.stage")


def test_sees_relative_imports_from_inside_a_package(write: Package) -> None:
    write("media/__init__.py", "from .. import other\nfrom .audio import rate\n")
    assert {"difftalk.other", "difftalk.media.audio"} <= set(imported_modules("difftalk.media"))


def test_imports_for_type_checkers_do_not_count(write: Package) -> None:
    write("stage.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import difftalk.other\n")
    assert "difftalk.other" not in imported_modules("difftalk.stage")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("media/audio.py", '"""Audio."""\n\nrate   =   16000  # samples per second\n'),
        ("stage.py", "from difftalk.media import audio\ndef run():\n    'Runs.'\n    return (audio.rate)\n"),
        ("__init__.py", '__version__ = "2"\n'),
        ("other.py", "value = 2\n"),
    ],
)
def test_comments_docstrings_version_and_other_modules_change_nothing(
    write: Package, path: str, text: str
) -> None:
    before = fingerprint("difftalk.stage")
    write(path, text)
    assert fingerprint("difftalk.stage") == before


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("media/audio.py", "rate = 22050\n"),
        ("media/__init__.py", "import os\n"),
        ("stage.py", "from difftalk.media import audio\n\ndef run():\n    return -audio.rate\n"),
    ],
)
def test_code_anywhere_below_changes_it(write: Package, path: str, text: str) -> None:
    before = fingerprint("difftalk.stage")
    write(path, text)
    assert fingerprint("difftalk.stage") != before


def test_a_backend_that_was_not_chosen_does_not_count(write: Package) -> None:
    write("stage.py", 'BACKENDS = {"a": "difftalk.media.audio", "b": "difftalk.other"}\n')
    before = fingerprint("difftalk.stage", without=["difftalk.other"])
    write("other.py", "value = 2\n")
    assert fingerprint("difftalk.stage", without=["difftalk.other"]) == before
    write("media/audio.py", "rate = 1\n")
    assert fingerprint("difftalk.stage", without=["difftalk.other"]) != before


def test_an_unknown_module_is_an_error(write: Package) -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        fingerprint("difftalk.nowhere")


def test_the_hash_of_files_follows_their_content_and_names(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"1")
    before = fingerprint_files(weights)
    copy = tmp_path / "elsewhere"
    shutil.copytree(weights, copy)
    assert fingerprint_files(copy) == before
    (weights / "a.bin").write_bytes(b"2")
    assert fingerprint_files(weights) != before
    (copy / "a.bin").rename(copy / "b.bin")
    assert fingerprint_files(copy) != before


def test_no_stage_before_score_depends_on_the_metrics() -> None:
    gate = "difftalk.face.sync_gate"
    for stage in STAGES_BEFORE_SCORE:
        # As the rules have it: what `landmarks` crops early changes none of its outputs.
        without = {
            "difftalk.stages.crops": [gate],
            "difftalk.stages.landmarks": ["difftalk.face.early_crops"],
        }.get(stage, [])
        found = imported_modules(stage, without=without)
        assert not [m for m in found if m.startswith("difftalk.evaluation")], stage
    assert "difftalk.evaluation.metrics" in imported_modules("difftalk.stages.score")


def test_crops_depend_on_the_sync_expert_through_their_gate_alone() -> None:
    expert, gate = "difftalk.models.syncnet", "difftalk.face.sync_gate"
    assert expert in imported_modules("difftalk.stages.crops")
    assert expert not in imported_modules("difftalk.stages.crops", without=[gate])


def test_every_dynamic_import_names_its_module_where_it_can_be_seen() -> None:
    """A module's name put together at run time would escape the fingerprint.

    The command line alone may do that.
    """
    seen = []
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / "cli.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                assert not isinstance(node.args[0], ast.JoinedStr | ast.BinOp), path
                seen.append(path)
    assert seen, "there are such imports"
