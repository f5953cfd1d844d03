"""The files in a shard, and the list of their checksums that follows them.

A shard is a tar. Behind its end, where readers of tars stop, is a second one with a single member, the list:
a line `crc32 size name` for each file. So no reader takes the list for a clip, `tar --ignore-zeros -x`
unpacks it, and a shard that was copied elsewhere still has it. The record beside a shard has the sha256 of
its list: a shard that was put in the place of another is found, too.
"""

import io
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import IO, NamedTuple

from difftalk.runtime.checksums import line_of, read_record, remedy_of
from difftalk.runtime.errors import UserError
from difftalk.runtime.progress import say

# WebDataset skips members whose names begin and end so, should it be told to read on.
LIST = "__checksums__"
BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
READ_AT_ONCE = 1 << 24

# Shards of which every file was found whole in this process: path, and what changes when one is written.
_whole: set[tuple[str, int, int, int]] = set()


@dataclass(frozen=True)
class Member:
    """One file in a shard.

    Args:
        name: `{clip}.{extension}`.
        offset: of its first byte in the shard.
        size: in bytes.
        crc32: of its content; None where the shard has no list.
    """

    name: str
    offset: int
    size: int
    crc32: int | None = None

    @property
    def clip_id(self) -> str:
        """What comes before the first dot."""
        return self.name.split(".", 1)[0]

    @property
    def extension(self) -> str:
        """What comes after the first dot."""
        return self.name.split(".", 1)[1]

    def read(self, shard: Path, file: IO[bytes]) -> bytes:
        """Read the content from the open shard, and compare it with its checksum.

        Raises:
            UserError: if it differs.
        """
        try:
            file.seek(self.offset)
            data = file.read(self.size)
        except OSError as e:
            raise UserError(f"{shard} cannot be read ({e.strerror})") from None
        if len(data) < self.size or (self.crc32 is not None and zlib.crc32(data) != self.crc32):
            raise damaged(shard, f"{self.name} is not what was written")
        return data


def damaged(shard: Path, what: str) -> UserError:
    """Return the error of a shard that is not whole."""
    return UserError(f"{shard} is damaged: {what}. Delete it, and snakemake writes it again")


class ShardWriter:
    """Write the files of a shard in order, and then the list."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Take files by `add` until the block ends; then write the end of the tar, and the list behind it."""
        with path.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as self._tar:
                yield
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                _append(tar, LIST, "".join(self._lines).encode())

    def add(self, name: str, data: bytes) -> None:
        """Append one file."""
        _append(self._tar, name, data)
        self._lines.append(f"{zlib.crc32(data):08x} {len(data)} {name}\n")

    def record(self) -> str:
        """Return what the record beside the shard says."""
        return line_of(sha256("".join(self._lines).encode()).hexdigest(), LIST)


def list_members(path: str | Path) -> list[Member]:
    """Return the files of a shard, in its order; no content is read but the list.

    A tar of other software, without a list, is taken as it is, and that is said.

    Raises:
        UserError: if the file is missing, no uncompressed tar, ends early, or is damaged at a header.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _list_members(path, file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror})") from None


def verify_shards(paths: Iterable[str | Path]) -> None:
    """Compare every file of some shards with its checksum, in threads; each shard once per process.

    Raises:
        UserError: naming the shard and the file that is damaged.
    """
    # CRC-32 releases Python's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for _ in threads.map(_verify, map(Path, paths)):
            pass


def _verify(path: Path) -> None:
    members = list_members(path)
    found = path.stat()
    signature = (os.fspath(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns)
    if signature in _whole:
        return
    with path.open("rb") as file:
        for member in members:
            if member.crc32 is not None and _crc32(file, member) != member.crc32:
                raise damaged(path, f"{member.name} is not what was written")
    _whole.add(signature)


def _crc32(file: IO[bytes], member: Member) -> int:
    file.seek(member.offset)
    crc, left = 0, member.size
    while left and (block := file.read(min(left, READ_AT_ONCE))):
        crc, left = zlib.crc32(block, crc), left - len(block)
    return crc


@cache
def _say_once(line: str) -> None:
    say(line)


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mode, about.mtime = len(data), 0o444, 0
    tar.addfile(about, io.BytesIO(data))


def _list_members(path: Path, file: IO[bytes]) -> list[Member]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            entries = tar.getmembers()
    except (tarfile.TarError, EOFError, ValueError) as e:
        raise UserError(
            f"{path} is no uncompressed tar, or damaged ({e}): delete it, and snakemake writes it again"
        ) from None
    members = []
    for entry in entries:
        if not entry.isreg() or "." not in entry.name:
            raise UserError(f"{path} is no shard: {entry.name!r} is no file of a clip")
        members.append(Member(entry.name, entry.offset_data, entry.size))
    last = max((m.offset + m.size for m in members), default=0)
    after = f"after {members[-1].name}" if members else "at its beginning"
    # The end is two blocks of zeros, and more up to a whole record. A reader takes a damaged header for it.
    end = -(-last // BLOCK) * BLOCK
    list_at = -(-(end + 2 * BLOCK) // RECORD) * RECORD
    file.seek(end)
    zeros = file.read(list_at - end)
    if any(zeros) or len(zeros) < 2 * BLOCK:
        raise damaged(path, f"it ends early, or its header {after} is damaged")
    listed = _read_list(path, file)
    recorded = (read_record(path) or {}).get(LIST)
    if recorded is not None and (listed is None or listed.sha256 != recorded):
        what = "has lost its list of checksums" if listed is None else "is another shard"
        raise UserError(f"{path} {what}: it is not what was written; {remedy_of(path)}")
    if listed is None:
        _say_once(
            f"{path} has no checksums: as of other software or an earlier version, it is taken as it is"
        )
        return members
    if [(m.name, m.size) for m in members] != [(m.name, m.size) for m in listed.members]:
        raise damaged(path, f"its {len(members)} files are not the {len(listed.members)} of its list")
    return [Member(m.name, m.offset, m.size, of.crc32) for m, of in zip(members, listed.members, strict=True)]


class _List(NamedTuple):
    """The list of a shard: its files, without offsets, and the hash of its text."""

    members: list[Member]
    sha256: str


def _read_list(path: Path, file: IO[bytes]) -> _List | None:
    """Read the list, which begins here; None where there is nothing but zeros."""
    header = file.read(BLOCK)
    if not any(header):
        while block := file.read(READ_AT_ONCE):
            if any(block):
                raise damaged(path, "there is something behind its end that is no list of checksums")
        return None
    try:
        about = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        text = file.read(about.size)
        if about.name != LIST or len(text) < about.size:
            raise ValueError("another name, or cut")
        fields = [line.split(" ", 2) for line in text.decode("utf-8").splitlines()]
        members = [Member(name, 0, int(size), int(crc, 16)) for crc, size, name in fields]
        return _List(members, sha256(text).hexdigest())
    except (tarfile.TarError, ValueError):
        raise damaged(path, "its list of checksums is cut or damaged") from None
