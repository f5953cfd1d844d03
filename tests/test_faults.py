"""What the machine refuses is a sentence: the file, the reason, the room; reads are never told as writes."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import files_no_larger_than
from safetensors.numpy import save_file

from difftalk.runtime.errors import UserError, is_machine_fault
from difftalk.runtime.faults import readable, sentence, writing
from difftalk.runtime.files import atomic_file, atomic_folder, write_csv

BIG = np.random.default_rng(0).random(20_000)


def save(tensor: torch.Tensor, path: Path) -> None:
    with path.open("wb") as file:  # as checkpoints are written: torch itself keeps the reason for itself
        torch.save(tensor, file)


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(BIG.tobytes()),
    "parquet": lambda path: pq.write_table(pa.table({"x": BIG}), path),
    "safetensors": lambda path: save_file({"x": BIG}, path),
    "torch": lambda path: save(torch.from_numpy(BIG), path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_that_fails_names_the_file_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "a.bin", tmp_path / "a"
    why = "could not be written: the file is larger than the system allows"
    with files_no_larger_than(10_000):
        with pytest.raises(UserError, match=f"^{file} {why}"), atomic_file(file) as tmp:
            WRITERS[kind](tmp)
        with pytest.raises(UserError, match=f"^{folder} {why}"), atomic_folder(folder) as tmp:
            WRITERS[kind](tmp / "inside.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, of Linux")
def test_a_full_disk_says_how_much_room_there_was_and_that_nothing_is_lost() -> None:
    full, intact = Path("/dev/full"), "the checkpoints before it are intact"
    with pytest.raises(UserError) as refused, writing(full, intact, needs=8_390_000_000):
        full.write_bytes(b"x")
    room = r"\([\d.e+]+ (bytes|kB|MB|GB|TB) for it in /dev, it needs 8.39 GB\)"
    said = rf"/dev/full could not be written: the disk is full {room}. Free some; {intact}"
    assert re.fullmatch(said, str(refused.value))


def test_what_was_read_meanwhile_is_not_told_as_a_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out") as tmp:
        tmp.write_bytes((tmp_path / "input").read_bytes())
    failing = OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), atomic_file(tmp_path / "out"):
        raise failing
    # Another file that is full is named by its own name.
    elsewhere = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/elsewhere/x")
    with pytest.raises(OSError, match="/elsewhere"), atomic_file(tmp_path / "out"):
        raise elsewhere
    assert (sentence(elsewhere) or "").startswith("/elsewhere/x could not be written: the disk is full")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(UserError, match=f"{locked}/a.csv could not be written: no permission"):
        write_csv(locked / "a.csv", ("x",), [])


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/a.csv could not be written: "):
        write_csv(tmp_path / "file" / "a.csv", ("x",), [])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_memory_that_is_not_enough_is_no_clips_fault(error: Exception) -> None:
    assert is_machine_fault(error)
    error.add_note("at clip-7")
    said = sentence(error) or ""
    assert said.startswith("the memory is not enough, at clip-7") and said.endswith(
        "the same command continues"
    )


def test_a_bug_is_no_fault_of_the_machine() -> None:
    try:
        try:
            Path("/nowhere").read_text()
        except OSError:
            dict[str, int]()["key"]
    except KeyError as error:
        assert sentence(error) is None and not is_machine_fault(error)
    assert sentence(RuntimeError("shapes do not fit")) is None


def test_sizes() -> None:
    assert [readable(size) for size in (0, 999, 1000, 52_300, 8.39e9, 4e15)] == [
        *("0 bytes", "999 bytes", "1 kB", "52.3 kB", "8.39 GB", "4e+03 TB")
    ]


def test_a_folder_that_no_command_wrote_is_not_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "home" / "thesis.tex"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    with pytest.raises(UserError, match="files that no command wrote"), atomic_folder(theirs.parent):
        pass
    assert theirs.read_text() == "years of work"
    for _ in range(2):
        with atomic_folder(tmp_path / "ours") as tmp:
            (tmp / "file").write_text("x")


def test_a_killed_worker_is_told_even_where_it_breaks_the_writing_of_a_checkpoint() -> None:
    try:
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 9 vs 8")  # noqa: B012
    except RuntimeError as e:
        said = sentence(e)
    assert said is not None and "a process that prepares batches was killed" in said
