"""WebDataset shards: uncompressed tars of `{clip}.{name}` files, the same input giving the same bytes.

Written with the standard library in the layout of `webdataset.TarWriter` (USTAR, a clip's files together and
sorted by name), whose import would bring torch into stages that have no network. Uncompressed members are
read in place (`map_arrays`) or streamed by any WebDataset reader. Every reader here compares what it reads
with the shard's list of checksums (`difftalk.media.members`).
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.media.clock import SAMPLES_PER_FRAME
from difftalk.media.members import Member, ShardWriter, damaged, list_members, verify_shards
from difftalk.runtime.errors import ClipError, UserError
from difftalk.runtime.files import atomic_file


def write_shard(path: str | Path, samples: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Write `(clip_id, {extension: value})` samples in the order given, whole or not at all.

    Values by extension: `*.npy` an array, `json` a dict, anything else bytes.

    Raises:
        ValueError: if a clip id holds a dot, a slash or white space, or a value does not fit its extension.
    """
    writer = ShardWriter()
    with atomic_file(path, record=writer.record) as tmp, writer.writing(tmp):
        for clip_id, files in samples:
            if not clip_id or any(c in "./" or c.isspace() for c in clip_id):
                raise ValueError(f"clip id {clip_id!r} cannot name files of a shard")
            for extension in sorted(files):
                writer.add(f"{clip_id}.{extension}", _to_bytes(extension, files[extension]))


def read_files(path: str | Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield `(clip_id, {extension: content})` of a shard.

    Raises:
        UserError: if the shard is missing, no tar, ends early, or differs from its list of checksums.
    """
    path = Path(path)
    members = list_members(path)
    with path.open("rb") as file:
        for clip_id, of_clip in groupby(members, key=lambda m: m.clip_id):
            yield clip_id, {member.extension: member.read(path, file) for member in of_clip}


def read_shard(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(clip_id, {extension: value})` of a shard.

    Values by extension: `*.npy` as arrays, `json` as dicts, the rest (mp4, flac) as bytes.

    Raises:
        UserError: as `read_files`.
    """
    for clip_id, files in read_files(path):
        yield clip_id, {extension: _from_bytes(extension, data) for extension, data in files.items()}


def map_arrays(path: str | Path, *, check: bool = True) -> dict[str, dict[str, np.ndarray]]:
    """Map the arrays of a local shard in place: `{clip_id: {name: array}}`, `latents.npy` under `latents`.

    All are read-only views of one `np.memmap`: one file is open however many clips there are, and processes
    share the pages.

    Args:
        path: the shard.
        check: read the whole of it first, once per process, and compare it with its checksums.

    Raises:
        UserError: as `read_files`; if an array cannot be read.
    """
    path = Path(path)
    if check:
        verify_shards([path])
    arrays: dict[str, dict[str, np.ndarray]] = {}
    members = list_members(path)
    whole = np.memmap(path, np.uint8, mode="r")
    for member in members:
        of_clip = arrays.setdefault(member.clip_id, {})
        if member.extension.endswith(".npy"):
            try:
                of_clip[member.extension.removesuffix(".npy")] = _view(whole, member)
            except ValueError as e:
                raise damaged(path, f"{member.name} is no array ({e})") from None
    return arrays


@dataclass
class Crop:
    """One clip of a crops shard. Its files are decoded when they are asked for.

    Args:
        clip_id: its name.
        files: content by extension: `mp4`, 25 fps, square; `flac`, `landmarks.npy`, `json`.
        limit: frames at its beginning that are all that is seen of it; None: the whole clip.

    Raises:
        ClipError: `cannot_decode`, by each property, where a file is missing or cannot be decoded.
    """

    clip_id: str
    files: dict[str, bytes]
    limit: int | None = None

    @property
    def video(self) -> bytes:
        """The mp4, of the whole clip."""
        return self._file("mp4")

    @cached_property
    def audio(self) -> np.ndarray:
        """`(N,)` int16, mono, 16 kHz."""
        # Imported here: a loader of arrays needs no codec.
        from difftalk.media.flac import decode_flac

        try:
            samples = decode_flac(self._file("flac"))
        except (RuntimeError, ValueError) as e:
            raise self._undecodable("flac", e) from None
        return samples if self.limit is None else samples[: self.limit * SAMPLES_PER_FRAME]

    @cached_property
    def landmarks(self) -> np.ndarray:
        """`(T, 68, 2)` float32, x and y in pixels of the crop."""
        try:
            points: np.ndarray = _from_bytes("landmarks.npy", self._file("landmarks.npy"))
        except (ValueError, EOFError) as e:
            raise self._undecodable("landmarks.npy", e) from None
        if points.shape[1:] != (68, 2) or not np.isfinite(points).all():
            raise self._undecodable("landmarks.npy", "not 68 points a frame")
        return points[: self.limit]

    @cached_property
    def info(self) -> dict[str, Any]:
        """clip_id, source_id, identity, split, frames, fps, size, box (x0, y0, x1, y1 in source pixels)."""
        try:
            found: dict[str, Any] = _from_bytes("json", self._file("json"))
        except ValueError as e:
            raise self._undecodable("json", e) from None
        if not isinstance(found, dict):
            raise self._undecodable("json", "no object")
        return found

    def driven_by(self, samples: np.ndarray) -> "Crop":
        """Return the clip with other audio, `(N,)` int16, mono, 16 kHz."""
        other = Crop(self.clip_id, self.files, self.limit)
        other.audio = samples
        return other

    def without_video(self) -> "Crop":
        """Return the rest of the clip, which takes less memory."""
        return Crop(self.clip_id, {k: v for k, v in self.files.items() if k != "mp4"}, self.limit)

    def frames(self) -> np.ndarray:
        """Decode the frames: `(T, size, size, 3)` uint8 RGB."""
        from difftalk.media.video import read_video

        if self.limit is None:
            return read_video(self.video)
        return read_video(self.video, list(range(min(self.limit, len(self.landmarks)))))

    def _file(self, extension: str) -> bytes:
        if extension not in self.files:
            raise ClipError("cannot_decode", f"the crop has no {extension}")
        return self.files[extension]

    def _undecodable(self, extension: str, why: object) -> ClipError:
        return ClipError("cannot_decode", f"the {extension} of the crop: {why}")


def read_crops(
    path: str | Path, only: Iterable[str] | None = None, limits: Mapping[str, int | None] | None = None
) -> Iterator[Crop]:
    """Yield the clips of a crops shard; nothing is decoded.

    Args:
        path: the shard.
        only: ids of the clips that are wanted, and have to be there; None is all.
        limits: frames at the beginning of clips that are all that is seen of them.

    Raises:
        UserError: as `read_files`; where a clip of `only` is not in the shard.
    """
    lacking = None if only is None else set(only)
    for clip_id, files in read_files(path):
        if lacking is None or clip_id in lacking:
            yield Crop(clip_id, files, None if limits is None else limits.get(clip_id))
            (lacking or set()).discard(clip_id)
    if lacking:
        raise UserError(
            f"{path} has no clip {min(lacking)}, which other files of the shard have: outputs of several "
            "runs are mixed"
        )


def _to_bytes(extension: str, value: Any) -> bytes:
    if extension.endswith("npy") and isinstance(value, np.ndarray):
        out = io.BytesIO()
        np.lib.format.write_array(out, np.ascontiguousarray(value), allow_pickle=False)
        return out.getvalue()
    if extension.endswith("json") and isinstance(value, dict):
        return json.dumps(value, sort_keys=True).encode()
    if isinstance(value, bytes):
        return value
    raise ValueError(f"{extension}: cannot store a {type(value).__name__}")


def _from_bytes(extension: str, data: bytes) -> Any:
    if extension.endswith("npy"):
        return np.load(io.BytesIO(data), allow_pickle=False)
    if extension.endswith("json"):
        return json.loads(data)
    return data


def _view(whole: np.ndarray, member: Member) -> np.ndarray:
    """Return a `.npy` file within `whole`, without a copy."""
    header = io.BytesIO(whole[member.offset : member.offset + min(member.size, 4096)].tobytes())
    version = np.lib.format.read_magic(header)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(header)
    begin = member.offset + header.tell()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if begin + size != member.offset + member.size:
        raise ValueError(f"{member.size} bytes do not hold {shape} {dtype}")
    return whole[begin : begin + size].view(dtype).reshape(shape, order="F" if fortran else "C")
