"""Imports point downward.

tools/import_map.py finds upward arrows and circles, and there are none in this checkout.
"""

import subprocess
import sys
from pathlib import Path

import import_map
import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "import_map.py"


def package(root: Path, **files: str) -> Path:
    """A checkout in `root` with a made-up package: `media__video="import x"` is `difftalk/media/video.py`."""
    for name, text in files.items():
        file = root.joinpath("difftalk", *name.split("__")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in [p for p in file.parents if p.is_relative_to(root / "difftalk")]:
            (folder / "__init__.py").touch()
        file.write_text(text)
    return root


def problems(root: Path) -> list[str]:
    return import_map.problems_of(import_map.module_arrows(import_map.read_modules(root)))


def test_no_import_of_this_checkout_points_upward_or_in_a_circle() -> None:
    assert problems(ROOT) == []


def test_an_import_that_points_upward_is_found_inside_a_function_too(tmp_path: Path) -> None:
    root = package(tmp_path, face__gates="", media__video="def f():\n    from difftalk.face import gates\n")
    assert problems(root) == ["upward: difftalk.media.video imports difftalk.face.gates"]


def test_circles_of_rooms_and_of_modules_are_found(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        speech__mfcc="from difftalk.datasets.clips import Clip\n",
        datasets__clips="import difftalk.speech.table\n",
        speech__table="from . import mfcc\n",
    )
    assert problems(root) == [
        "circle of rooms: datasets, speech",
        "circle of modules: difftalk.datasets.clips, difftalk.speech.mfcc, difftalk.speech.table",
    ]


def test_an_import_for_the_type_checker_alone_does_not_count(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from difftalk.face.gates import Gate\n"
    assert problems(package(tmp_path, face__gates="", media__video=text)) == []


def test_a_stage_imports_no_stage(tmp_path: Path) -> None:
    root = package(tmp_path, stages__crops="", stages__speech="from difftalk.stages.crops import run\n")
    assert problems(root) == ["stage imports stage: difftalk.stages.speech imports difftalk.stages.crops"]


def test_a_room_without_a_floor_is_named(tmp_path: Path) -> None:
    assert problems(package(tmp_path, attic__trunk="")) == ["no floor in FLOORS: attic"]


def test_the_exit_status_tells_whether_there_are_problems(tmp_path: Path) -> None:
    good = package(tmp_path / "good", face__gates="from difftalk.media import video\n", media__video="")
    bad = package(tmp_path / "bad", face__gates="", media__video="from difftalk.face import gates\n")
    for root, status in ((good, 0), (bad, 1)):
        done = subprocess.run(
            [sys.executable, TOOL, "--root", root], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "face" in done.stdout


@pytest.mark.parametrize("stage", ["landmarks", "train", "tables"])
def test_a_walk_goes_from_the_rule_to_what_the_stage_imports(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = import_map.read_modules(ROOT)
    import_map.walk(ROOT, stage, modules, import_map.module_arrows(modules))
    files = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert files[0].startswith("workflow/rules/")
    assert files[1] == f"difftalk/stages/{stage}.py"
    assert all((ROOT / file).is_file() for file in files[:-1])
