"""WebDataset shards: uncompressed tars of `{clip}.{name}` files, the same input giving the same bytes.

Written with the standard library in the layout of `webdataset.TarWriter` (USTAR, a clip's files together and
sorted by name), whose import would bring torch into stages that have no network. Uncompressed members are
read in place (`map_arrays`) or streamed by any WebDataset reader.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file


def write_shard(path: str | Path, samples: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Write `(clip_id, {extension: value})` samples in the order given, whole or not at all.

    Values by extension: `*.npy` an array, `json` a dict, anything else bytes.

    Raises:
        ValueError: if a clip id holds a dot, a slash or white space, or a value does not fit its extension.
    """
    with atomic_file(path) as tmp, tarfile.open(tmp, "w", format=tarfile.USTAR_FORMAT) as tar:
        for clip_id, files in samples:
            if not clip_id or any(c in "./" or c.isspace() for c in clip_id):
                raise ValueError(f"clip id {clip_id!r} cannot name files of a shard")
            for extension in sorted(files):
                data = _to_bytes(extension, files[extension])
                member = tarfile.TarInfo(f"{clip_id}.{extension}")
                member.size, member.mode, member.mtime = len(data), 0o444, 0
                tar.addfile(member, io.BytesIO(data))


def read_shard(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(clip_id, {extension: value})` of a shard.

    Values by extension: `*.npy` as arrays, `json` as dicts, the rest (mp4, flac) as bytes.

    Raises:
        UserError: if the file is no tar.
    """
    clip_id: str | None = None
    files: dict[str, Any] = {}
    with _open(path) as tar:
        for member in tar:
            found, extension = member.name.split(".", 1)
            if found != clip_id:
                if clip_id is not None:
                    yield clip_id, files
                clip_id, files = found, {}
            content = tar.extractfile(member)
            assert content is not None, "a shard holds files only"
            files[extension] = _from_bytes(extension, content.read())
    if clip_id is not None:
        yield clip_id, files


def map_arrays(path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Map the arrays of a local shard in place: `{clip_id: {name: array}}`, `latents.npy` under `latents`.

    All are read-only views of one `np.memmap`: nothing is read until it is used, one file is open however
    many clips there are, and processes share the pages.

    Raises:
        UserError: if the file is no tar.
    """
    arrays: dict[str, dict[str, np.ndarray]] = {}
    with _open(path) as tar:
        whole = np.memmap(path, np.uint8, mode="r")
        for member in tar:
            clip_id, extension = member.name.split(".", 1)
            of_clip = arrays.setdefault(clip_id, {})
            if extension.endswith(".npy"):
                of_clip[extension.removesuffix(".npy")] = _view(whole, member.offset_data)
    return arrays


@dataclass
class Crop:
    """One clip of a crops shard.

    Args:
        video: mp4 bytes, 25 fps, square.
        audio: `(N,)` int16, mono, 16 kHz.
        landmarks: `(T, 68, 2)` float32, x and y in pixels of the crop.
        info: clip_id, source_id, identity, split, frames, fps, size, box (x0, y0, x1, y1 in source pixels).
    """

    clip_id: str
    video: bytes
    audio: np.ndarray
    landmarks: np.ndarray
    info: dict[str, Any]

    def frames(self) -> np.ndarray:
        """Decode the frames: `(T, size, size, 3)` uint8 RGB."""
        from difftalk.media.video import read_video

        return read_video(self.video)


def read_crops(path: str | Path) -> Iterator[Crop]:
    """Yield the clips of a crops shard; the video stays encoded until `Crop.frames` is called."""
    # Imported here: a loader of arrays needs no codec.
    from difftalk.media.flac import decode_flac

    for clip_id, files in read_shard(path):
        audio = decode_flac(files["flac"])
        yield Crop(clip_id, files["mp4"], audio, files["landmarks.npy"], files["json"])


def _open(path: str | Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except tarfile.TarError as e:
        raise UserError(
            f"{path} is no uncompressed tar ({e}): delete it and run the stage that writes it"
        ) from e


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


def _view(whole: np.ndarray, offset: int) -> np.ndarray:
    """Return the `.npy` file that begins at byte `offset` of `whole`, without a copy."""
    header = io.BytesIO(whole[offset : offset + 4096].tobytes())
    version = np.lib.format.read_magic(header)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(header)
    begin = offset + header.tell()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return whole[begin : begin + size].view(dtype).reshape(shape, order="F" if fortran else "C")
