"""Every argument of every verb: a value that cannot be is one sentence, before any work begins."""

import inspect
import os
import random
import signal
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from pydantic.fields import FieldInfo

from difftalk.cli import PLAIN_TYPES, _kind, _plain, functions, main
from difftalk.config import workflow as configuration
from difftalk.datasets.frozen import read_checksums
from difftalk.face.quality import QUALITY_COLUMNS, read_quality
from difftalk.face.sync_table import read_sync
from difftalk.runtime.arguments import (
    CACHE_FOLDER,
    INPUT_FILE,
    INPUT_FOLDER,
    KEPT_FOLDER,
    KINDS,
    OUTPUT_FILE,
    OUTPUT_FOLDER,
    path_kind,
)
from difftalk.runtime.errors import UserError
from difftalk.runtime.rejects import read_rejects
from difftalk.stages import STAGES

Verb = tuple[str, str]
VERBS: list[Verb] = [(stage, action) for stage in STAGES for action in functions(stage)]
JSON = {
    "dataset": '{"name": "demo"}',
    "shards": '{"train": 1, "test": 1}',
    "crops": '{"size": 64}',
    "entry": '{"videos": "folder"}',
}


def arguments(verb: Verb) -> dict[str, tuple[str, bool]]:
    """What each argument of a verb is, and whether it takes several values.

    That is the kind of a path, `number` where there are bounds, `text`, or `json`.
    """
    hints = typing.get_type_hints(functions(verb[0])[verb[1]], include_extras=True)
    found = {}
    for name, hint in hints.items():
        if name == "return":
            continue
        one, many = _kind(hint)
        plain = "number" if any(isinstance(m, FieldInfo) for m in typing.get_args(one)) else "text"
        kind = path_kind(one) or (plain if _plain(one) in PLAIN_TYPES else "json")
        found[name] = kind, many
    return found


def those(*kinds: str) -> list[tuple[Verb, str, str]]:
    """The arguments of some kinds, of all verbs."""
    return [
        (verb, name, kind) for verb in VERBS for name, (kind, _) in arguments(verb).items() if kind in kinds
    ]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What the command line does with signals ends with the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Verb, str, object], str]:
    """Call a verb with one value that cannot be, and others that can: what it says after its name."""
    folder, file = tmp_path / "folder", tmp_path / "folder" / "file"
    folder.mkdir()
    file.write_text("something")
    fine: dict[str, object] = {
        INPUT_FILE: file,
        INPUT_FOLDER: folder,
        OUTPUT_FILE: tmp_path / "new" / "file",
        OUTPUT_FOLDER: tmp_path / "new" / "folder",
        KEPT_FOLDER: folder,
        CACHE_FOLDER: folder,
        "number": 1,
        "text": "text",
    }

    def call(verb: Verb, spoilt: str, value: object) -> str:
        parameters = inspect.signature(functions(verb[0])[verb[1]]).parameters
        words = [word for word in verb if word]
        for name, (kind, _) in arguments(verb).items():
            given = value if name == spoilt else fine.get(kind, JSON.get(name, "{}"))
            if parameters[name].kind is parameters[name].KEYWORD_ONLY:
                words.append(f"--{name.replace('_', '-')}")
            words.append(str(given))
        assert main(words) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(f"difftalk {' '.join(filter(None, verb))}: ")
        assert printed.count("\n") == 1
        return printed.partition(": ")[2]

    return call


def flag_of(verb: Verb, name: str) -> str:
    parameter = inspect.signature(functions(verb[0])[verb[1]]).parameters[name]
    is_flag = parameter.kind is parameter.KEYWORD_ONLY
    return f"--{name.replace('_', '-')}" if is_flag else name.upper()


def test_every_path_says_whether_it_is_read_or_written_and_a_file_or_a_folder() -> None:
    hints = [typing.get_type_hints(functions(stage)[action], include_extras=True) for stage, action in VERBS]
    assert not [name for found in hints for name, hint in found.items() if _kind(hint)[0] is Path]
    assert len(those(*KINDS)) > 100


@pytest.mark.parametrize("kind", [INPUT_FILE, INPUT_FOLDER])
def test_what_is_read_is_there_and_of_its_kind(kind: str, said: Callable[..., str], tmp_path: Path) -> None:
    folder, empty, gone = tmp_path / "other", tmp_path / "empty", tmp_path / "gone"
    folder.mkdir()
    empty.touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to(gone)
    spoilt = {
        gone: "no such ",
        empty / "x": "a part of its path is a file",
        tmp_path / "loop": "Too many levels of symbolic links",
        tmp_path / "dangling": "a link to something that is gone",
        tmp_path / ("x" * 300): "File name too long",
        **({folder: "a folder; a file"} if kind == INPUT_FILE else {empty: "a file; a folder"}),
        **({empty: "an empty file: delete it"} if kind == INPUT_FILE else {}),
    }
    for verb, name, _ in those(kind):
        for path, problem in spoilt.items():
            assert said(verb, name, path).startswith(f"{flag_of(verb, name)}: {path}: {problem}")


@pytest.mark.parametrize("kind", [OUTPUT_FILE, OUTPUT_FOLDER, KEPT_FOLDER, CACHE_FOLDER])
def test_what_is_written_can_be(kind: str, said: Callable[..., str], tmp_path: Path) -> None:
    file, folder = tmp_path / "other", tmp_path / "folder"
    file.touch()
    spoilt = {
        file / "x" / "y": f"{file} is a file, not a folder",
        **({folder: "a folder; a file"} if kind == OUTPUT_FILE else {file: "a file; a folder"}),
        # Such as the home of a person, which would be replaced.
        **({folder: "a folder with files that no command wrote"} if kind == OUTPUT_FOLDER else {}),
    }
    for verb, name, _ in those(kind):
        for path, problem in spoilt.items():
            assert said(verb, name, path).startswith(f"{flag_of(verb, name)}: {path}: {problem}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions_are_checked_first(said: Callable[..., str], tmp_path: Path) -> None:
    locked, secret = tmp_path / "locked", tmp_path / "secret"
    locked.mkdir(mode=0o500)
    secret.write_text("x")
    secret.chmod(0)
    assert said(("freeze", ""), "out", locked / "x").endswith(f"no permission to write in {locked}\n")
    assert said(("fetch", ""), "store", locked).endswith(f"no permission to write in {locked}\n")
    assert said(("freeze", ""), "plan", secret).endswith("no permission to read it\n")


def test_numbers_have_the_bounds_of_the_configuration(said: Callable[..., str]) -> None:
    for verb, name, _ in those("number"):
        for value in ("-1", "100000"):
            assert said(verb, name, value).startswith(f"{flag_of(verb, name)}: is {value}")
        if name == "max_reject_fraction":
            for value, problem in (("nan", "not a finite number"), ("inf", "not a finite number")):
                assert problem in said(verb, name, value)
        elif name in ("workers", "processes"):
            assert "has to be at least 1" in said(verb, name, "0")


@pytest.mark.parametrize(
    ("key", "verb", "value"),
    [
        ("max_reject_fraction", ("gates", ""), 1.5),
        ("training_processes", ("train", ""), 65),
        ("training_workers", ("train", ""), -1),
    ],
)
def test_the_words_are_those_of_the_configuration(
    key: str, verb: Verb, value: float, said: Callable[..., str]
) -> None:
    whole = configuration.read_yaml(ROOT / "config.yaml")
    with pytest.raises(UserError) as refused:
        configuration.load(whole | {key: value})
    name = {"training_processes": "processes", "training_workers": "data_workers"}.get(key, key)
    assert said(verb, name, value).partition(": ")[2].strip() == str(refused.value).partition(f"{key} ")[2]


@pytest.mark.parametrize("text", ["[]", "3", "null", "", "{", '{"x": NaN}', '{"x": 1}', "[" * 100_000])
def test_settings_that_are_none(text: str, said: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text)
    for verb, name, _ in those("json"):
        assert said(verb, name, file).startswith(str(file))
        if len(text) < 100:
            assert said(verb, name, text).startswith(flag_of(verb, name))


def test_a_settings_file_that_cannot_be_read(said: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(random.Random(0).randbytes(1000))
    assert said(("gates", ""), "settings", file).startswith(f"{file}: cannot be read")


# The log


@pytest.mark.parametrize("where", ["folder", "file/x.log"])
def test_a_log_that_cannot_be_written_is_said_in_the_terminal(where: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    done = freeze_with_log(tmp_path / where)
    assert done.returncode == 2
    assert (
        done.stderr.startswith(f"difftalk freeze: --log: {tmp_path / where}: ")
        and done.stderr.count("\n") == 1
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, of Linux")
def test_a_log_on_a_full_disk_hides_no_message() -> None:
    done = freeze_with_log(Path("/dev/full"))
    assert (done.returncode, done.stderr) == (2, "difftalk freeze: --plan: nowhere: no such file\n")


def freeze_with_log(log: Path) -> "subprocess.CompletedProcess[str]":
    words = ["freeze", "--plan", "nowhere", "--out", "x", "--log", str(log)]
    return subprocess.run(
        [sys.executable, "-m", "difftalk", *words], capture_output=True, text=True, check=False
    )


# CSV and JSON that is read


READERS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "quality": (",".join(QUALITY_COLUMNS), "a,50,50,0.1", lambda path: read_quality([path])),
    "sync": ("clip_id,sync_offset,sync_confidence", "a,1,2.5", lambda path: read_sync([path])),
    "rejects": ("clip_id,stage,reason,detail", "a,speech,silent,", read_rejects),
    "manifest": ("source_id,file,bytes,sha256", f"a,a.mp4,1,{'0' * 64}", lambda path: read_checksums([path])),
}


@pytest.mark.parametrize("name", READERS)
def test_tables_that_are_none(name: str, tmp_path: Path) -> None:
    header, row, read = READERS[name]
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\n{row}\n")
    assert read(path)
    spoilt = {
        "": f"{path}:1: the columns are not {header}",
        header.partition(",")[2]: "the columns are not",
        f"{header}\n{row}\nb": f"{path}:3: not the {header.count(',') + 1} fields of the header",
        f"{header}\n{row},more": f"{path}:2: not the ",
    }
    for text, problem in spoilt.items():
        path.write_text(text)
        with pytest.raises(UserError) as refused:
            read(path)
        assert problem in str(refused.value)
    path.write_bytes(random.Random(0).randbytes(1000))
    with pytest.raises(UserError, match=f"{path}: cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("name", "row", "problem"),
    [
        ("quality", "a,50,50,nan", "row 1 is none of such a file .'nan' is not a finite number"),
        ("quality", "a,many,50,", "row 1 is none of such a file .*'many'"),
        ("sync", "a,1,inf", "row 1 is none of such a file .'inf' is not a finite number"),
        ("manifest", "a,a.mp4,1,12ab", "row 1 is none of such a file .'12ab' is no sha256"),
        ("rejects", "a,speech,mumbling,", "unknown reject reason 'mumbling'"),
    ],
)
def test_fields_that_are_none(name: str, row: str, problem: str, tmp_path: Path) -> None:
    header, _, read = READERS[name]
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(UserError, match=f"{path}.*{problem}"):
        read(path)
