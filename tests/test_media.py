"""Frames, audio and shards: on files that the tests write themselves."""

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import webdataset

from difftalk.media import shards, video
from difftalk.media.audio import read_audio
from difftalk.media.encode import encode_video, write_video
from difftalk.media.flac import decode_flac, encode_flac
from difftalk.media.probe import probe
from difftalk.media.video import read_frames, read_video
from difftalk.runtime.errors import ClipError, UserError

SIDE = 64


def counter(count: int, first: int = 0) -> np.ndarray:
    """Frames that show their number as 8 black or white fields."""
    frames = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for k in range(count):
        for bit in range(8):
            if (k + first) >> bit & 1:
                y, x = bit // 4 * 32, bit % 4 * 16
                frames[k, y : y + 32, x : x + 16] = 255
    return frames


def number(frame: np.ndarray) -> int:
    return sum(int(frame[bit // 4 * 32 + 16, bit % 4 * 16 + 8, 0] > 128) << bit for bit in range(8))


def numbers(path: Path, start_s: float = 0.0, end_s: float | None = None) -> list[int]:
    return [number(f) for f in read_frames(path, start_s, end_s)]


def clicks(seconds: float, at: float) -> np.ndarray:
    audio = np.zeros(round(seconds * 16_000), np.int16)
    audio[round(at * 16_000) : round(at * 16_000) + 16] = 20_000
    return audio


@pytest.mark.parametrize("fps", [24000 / 1001, 25, 30000 / 1001, 30, 50])
@pytest.mark.parametrize("window", [(0.0, None), (0.5, 1.5), (1.42, 1.9)])
def test_frames_are_those_shown_at_each_time(
    tmp_path: Path, fps: float, window: tuple[float, float | None]
) -> None:
    write_video(tmp_path / "v.mp4", counter(120), fps=fps)
    got = numbers(tmp_path / "v.mp4", *window)
    start, end = window[0], 120 / fps if window[1] is None else window[1]
    times = start + np.arange(round((end - start) * 25)) / 25
    shown = np.minimum(np.floor((times + video.TIME_TOLERANCE_S) * fps).astype(int), 119)
    assert got == shown.tolist()


def test_reading_after_a_jump_gives_the_same_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", counter(250))
    assert numbers(tmp_path / "v.mp4", 8.0, 8.4) == list(range(200, 210))


def test_a_source_that_does_not_start_at_zero_begins_with_its_first_frame(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "late.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = SIDE
        for k, pixels in enumerate(counter(30)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = k + 50
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert numbers(tmp_path / "late.mkv", 0.0, 0.4) == list(range(10))


def test_probe_tells_size_length_and_audio(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", counter(50), audio=clicks(2, 1))
    info = probe(tmp_path / "v.mp4")
    assert (info.width, info.height, info.fps, info.has_audio, info.codec) == (SIDE, SIDE, 25, True, "h264")
    assert info.duration_s == pytest.approx(2.0)
    assert info.audio_s == pytest.approx(2.0)


def test_a_turned_phone_video_is_read_upright(tmp_path: Path) -> None:
    data = encode_video(np.repeat(counter(1, first=0b10010110), 5, axis=0))
    matrix = data.find(b"tkhd") + 4 + 4 + 20 + 16
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, SIDE << 16, 0, 1 << 30)
    (tmp_path / "v.mp4").write_bytes(data)
    (tmp_path / "turned.mp4").write_bytes(data[:matrix] + turned + data[matrix + 36 :])
    upright, clockwise = next(read_frames(tmp_path / "v.mp4")), next(read_frames(tmp_path / "turned.mp4"))
    np.testing.assert_array_equal(clockwise, np.rot90(upright, -1))


def test_frames_can_be_scaled_while_read(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", counter(5))
    assert next(read_frames(tmp_path / "v.mp4", size=(32, 16))).shape == (16, 32, 3)


def test_click_and_flash_stay_together(tmp_path: Path) -> None:
    frames = np.zeros((50, SIDE, SIDE, 3), np.uint8)
    frames[30] = 255
    write_video(tmp_path / "v.mp4", frames, audio=clicks(2, 30 / 25))
    flash = [f.mean() for f in read_frames(tmp_path / "v.mp4")]
    assert np.argmax(flash) == 30
    for start in [0.0, 1.1]:  # from the beginning and after a jump
        audio = read_audio(tmp_path / "v.mp4", start, 2.0).astype(float)
        assert len(audio) == round((2.0 - start) * 16_000)
        assert start + np.abs(audio).argmax() / 16_000 == pytest.approx(1.2, abs=0.010)


def test_audio_is_cut_by_the_clock_of_the_frames(tmp_path: Path) -> None:
    """Frames that start 0.4 s after the audio: second 0 of the audio is the first frame."""
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = SIDE
        audio_stream = container.add_stream("flac", rate=48_000, layout="stereo")
        stereo = np.zeros((1, 2 * 48_000 * 2), np.int16)
        stereo[0, 48_000 * 2 : 48_000 * 2 + 64] = 20_000
        for k, pixels in enumerate(counter(40)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = k + 10
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        block = av.AudioFrame.from_ndarray(stereo, format="s16", layout="stereo")
        block.sample_rate, block.pts = 48_000, 0
        container.mux(audio_stream.encode(block))
        container.mux(audio_stream.encode())
    audio = read_audio(tmp_path / "v.mkv", 0.0, 1.6)
    assert np.abs(audio.astype(int)).argmax() / 16_000 == pytest.approx(0.6, abs=0.002)


def test_audio_beyond_its_end_is_silence(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", counter(50), audio=clicks(1, 0.5))
    audio = read_audio(tmp_path / "v.mp4", 0.0, 2.0)
    assert len(audio) == 32_000
    assert not audio[20_000:].any()


def test_writing_twice_gives_the_same_bytes_and_the_tags(tmp_path: Path) -> None:
    tags = {"comment": "synthetic"}
    data = encode_video(counter(20), audio=clicks(0.8, 0.2), metadata=tags)
    assert data == encode_video(iter(counter(20)), audio=clicks(0.8, 0.2), metadata=tags)
    (tmp_path / "v.mp4").write_bytes(data)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.metadata["comment"] == "synthetic"


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 96), (192, 192), (416, 464)])
def test_what_was_in_memory_before_changes_no_byte(width: int, height: int) -> None:
    """With AVX-512, x264 gave other bytes nearly every time."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    found = set()
    for _ in range(6):
        sizes = rng.integers(1, 9, 8)
        before = [rng.integers(0, 256, (size, height, width), dtype=np.uint8) for size in sizes]
        del before
        found.add(encode_video(np.roll(blocks, 3 * k, axis=1) for k in range(40)))
    assert len(found) == 1


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_colours_survive_and_both_readers_agree(tmp_path: Path, pix_fmt: str) -> None:
    frames = np.broadcast_to(np.array([200, 50, 30], np.uint8), (5, SIDE, SIDE, 3))
    write_video(tmp_path / "v.mp4", frames, pix_fmt=pix_fmt)
    ours = read_video(tmp_path / "v.mp4")
    theirs = np.stack(list(read_frames(tmp_path / "v.mp4")))
    assert ours.shape == (5, SIDE, SIDE, 3)
    # Eight-bit YUV and back costs up to two steps.
    assert np.abs(ours.astype(int) - frames).max() <= 2
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_every_frame_of_our_own_files_is_read_from_bytes() -> None:
    assert [number(f) for f in read_video(encode_video(counter(70)))] == list(range(70))


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="65x64 .*even"):
        encode_video(np.zeros((2, 64, 65, 3), np.uint8))


def test_a_damaged_stream_is_an_error_that_names_the_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (100, SIDE, SIDE, 3)).astype(np.uint8)
    data = bytearray(encode_video(noise))
    middle = data.find(b"mdat") + int(0.6 * len(data))
    data[middle : middle + 3000] = rng.integers(0, 255, 3000).astype(np.uint8).tobytes()
    (tmp_path / "v.mp4").write_bytes(data)
    with pytest.raises(ClipError, match=r"cannot_decode: v.mp4: .* \d\.\d\d s"):
        list(read_frames(tmp_path / "v.mp4"))
    assert len(list(read_frames(tmp_path / "v.mp4", 0.0, 1.0))) == 25, "what lies before the damage is whole"


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    write_video(
        tmp_path / "v.mp4", np.random.default_rng(0).integers(0, 255, (100, SIDE, SIDE, 3)).astype(np.uint8)
    )
    data = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(ClipError, match="cannot_decode"):
        list(read_frames(tmp_path / "v.mp4"))


def test_a_clip_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", counter(25))
    with pytest.raises(ClipError, match="the video ends at 1.00 s of 5.00 s"):
        list(read_frames(tmp_path / "v.mp4", 3.0, 5.0))


def test_files_without_frames_or_audio_say_so(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "audio.flac").write_bytes(encode_flac(clicks(1, 0.5)))
    write_video(tmp_path / "mute.mp4", counter(5))
    with pytest.raises(ClipError, match="cannot_decode"):
        probe(tmp_path / "text.mp4")
    with pytest.raises(ClipError, match="no_video"):
        probe(tmp_path / "audio.flac")
    with pytest.raises(ClipError, match="no_audio"):
        read_audio(tmp_path / "mute.mp4")


def test_flac_is_lossless() -> None:
    audio = np.random.default_rng(0).integers(-32768, 32768, 12_345).astype(np.int16)
    np.testing.assert_array_equal(decode_flac(encode_flac(audio)), audio)


def sample(value: float) -> dict[str, Any]:
    return {
        "mp4": b"frames",
        "latents.npy": np.full((3, 2, 4), value, np.float16),
        "speech.npy": np.zeros((0, 39), np.float32),
        "json": {"frames": 3, "clip_id": "x"},
    }


def test_shards_hold_what_was_written(tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "s.tar", [("b", sample(1.5)), ("a", sample(2.5))])
    read = list(shards.read_shard(tmp_path / "s.tar"))
    assert [clip_id for clip_id, _ in read] == ["b", "a"]
    assert read[0][1]["mp4"] == b"frames"
    assert read[0][1]["json"] == {"frames": 3, "clip_id": "x"}
    np.testing.assert_array_equal(read[1][1]["latents.npy"], sample(2.5)["latents.npy"])


def test_shards_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ["1.tar", "2.tar"]:
        shards.write_shard(tmp_path / name, [("a", sample(1.0))])
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_arrays_are_mapped_in_place(tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "s.tar", [(f"clip{k}", sample(k)) for k in range(3)])
    arrays = shards.map_arrays(tmp_path / "s.tar")
    assert list(arrays["clip2"]) == ["latents", "speech"]
    assert isinstance(arrays["clip2"]["latents"], np.memmap)
    assert not arrays["clip2"]["latents"].flags.writeable
    np.testing.assert_array_equal(arrays["clip2"]["latents"], sample(2)["latents.npy"])
    assert arrays["clip0"]["speech"].shape == (0, 39)


def test_webdataset_reads_a_shard(tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "s.tar", [("a", sample(1.5)), ("b", sample(2.5))])
    read = list(webdataset.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False))
    assert [s["__key__"] for s in read] == ["a", "b"]
    assert read[0]["mp4"] == b"frames"
    assert "latents.npy" in read[0]


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "s.tar", [])
    assert list(shards.read_shard(tmp_path / "s.tar")) == []
    assert shards.map_arrays(tmp_path / "s.tar") == {}


def test_a_clip_id_that_would_break_the_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clip id"):
        shards.write_shard(tmp_path / "s.tar", [("a.b", sample(1.0))])
    assert not (tmp_path / "s.tar").exists()


def test_what_is_no_tar_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_text("x" * 1000)
    with pytest.raises(UserError, match="delete it"):
        list(shards.read_shard(tmp_path / "s.tar"))


def test_crops_come_back_with_frames_and_audio(tmp_path: Path) -> None:
    frames, audio = counter(10), clicks(0.4, 0.2)
    files = {
        "mp4": encode_video(frames, pix_fmt="yuv444p"),
        "flac": encode_flac(audio),
        "landmarks.npy": np.ones((10, 68, 2), np.float32),
        "json": {"clip_id": "a"},
    }
    shards.write_shard(tmp_path / "s.tar", [("a", files)])
    (crop,) = shards.read_crops(tmp_path / "s.tar")
    assert [number(f) for f in crop.frames()] == list(range(10))
    np.testing.assert_array_equal(crop.audio, audio)
    assert crop.landmarks.shape == (10, 68, 2)


# Parts of frames


@pytest.mark.parametrize(
    ("pix_fmt", "height", "width"), [("yuv420p", 96, 160), ("yuv420p", 48, 64), ("yuv444p", 97, 131)]
)
def test_a_part_of_a_frame_is_that_part_of_the_whole(
    tmp_path: Path, pix_fmt: str, height: int, width: int
) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, height // 8 + 1, width // 8 + 1, 3), np.uint8)
    write_video(tmp_path / "v.mp4", coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width], pix_fmt=pix_fmt)
    whole = next(read_frames(tmp_path / "v.mp4"))
    assert whole.shape == (height, width, 3)
    for _ in range(40):
        (y0, y1), (x0, x1) = (np.sort(rng.choice(n + 1, 2, replace=False)) for n in (height, width))
        frame = next(video.read_lazy_frames(tmp_path / "v.mp4"))
        assert frame.shape == whole.shape
        np.testing.assert_array_equal(frame[y0:y1, x0:x1], whole[y0:y1, x0:x1])


def test_a_small_copy_of_a_frame_looks_like_it(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", counter(3, first=0b10010110))
    count = 0
    for frame in video.read_lazy_frames(tmp_path / "v.mp4"):
        count += 1
        small, whole = frame.scaled(16, 16), frame[:, :]
        assert small.shape == (16, 16, 3)
        expected = whole.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
        # The fields' edges lie on those of the small pixels, but the scaler's filter reaches over them.
        assert np.abs(small - expected).mean() < 5
    assert count == 3
