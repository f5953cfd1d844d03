"""Reading what real files do: frames and audio as a good player shows them, or a reject that says why not."""

import errno
import gc
import os
import struct
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from failing_work import fails
from test_media import SIDE, clicks, counter, numbers

from difftalk.config.dataset import LocalSettings
from difftalk.config.gates import AudioGates
from difftalk.datasets.clips import Clip
from difftalk.datasets.file_features import FeaturesJob, file_features
from difftalk.datasets.local import LocalDataset
from difftalk.face.crops import check_length
from difftalk.media.audio import read_audio
from difftalk.media.clock import FPS, SAMPLE_RATE
from difftalk.media.encode import encode_video, write_video
from difftalk.media.ends import _set_back
from difftalk.media.probe import length_s, open_media, probe
from difftalk.media.tone_map import hlg_light, pq_code, tone_map
from difftalk.media.video import read_frames, read_lazy_frames
from difftalk.runtime.errors import ClipError, UserError, is_machine_fault
from difftalk.runtime.parallel import guarded, map_clips, one_ahead
from difftalk.runtime.rejects import Reject

RATE = 48_000


def tone(seconds: float, hz: float = 440.0) -> np.ndarray:
    """Return a tone, `(N,)` float32 at 48 kHz."""
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def write(
    path: Path,
    frames: np.ndarray,
    audio: np.ndarray | None = None,
    *,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    audio_from_s: float = 0.0,
    pts: list[int] | None = None,
    container_format: str | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
    **options: str,
) -> Path:
    """Write frames at 25 fps and stereo audio `(2, N)` or mono `(N,)` float32 at 48 kHz, by PyAV."""
    with av.open(str(path), "w", format=container_format) as container:
        video: Any = container.add_stream(video_codec, rate=FPS, options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt, video.bit_rate, video.codec_context.thread_count = "yuv420p", 2_000_000, 1
        prepare(video)
        sound: Any = None
        if audio is not None:
            layout = "stereo" if audio.ndim == 2 else "mono"
            sound = container.add_stream(audio_codec, rate=RATE, layout=layout)
        sent = 0
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format=video.pix_fmt, dst_color_range=video.codec_context.color_range or None
            )
            frame.pts, frame.time_base = k if pts is None else pts[k], Fraction(1, FPS)
            container.mux(video.encode(frame))
            upto = round((k + 1) / FPS * RATE) if k + 1 < len(frames) else 10**9
            if sound is not None and audio is not None:
                sent = _encode(container, sound, audio, sent, upto, audio_from_s)
        container.mux(video.encode())
        if sound is not None:
            container.mux(sound.encode())
    return path


def _encode(container: Any, stream: Any, audio: np.ndarray, sent: int, upto: int, from_s: float = 0.0) -> int:
    chunk = np.atleast_2d(audio)[:, sent:upto]
    if chunk.shape[1]:
        layout = "stereo" if len(chunk) == 2 else "mono"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = sent + round(from_s * RATE)
        container.mux(stream.encode(frame))
    return sent + chunk.shape[1]


def level(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean((audio / 32768) ** 2)))


# Order and time of frames


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_of_an_avi_with_b_frames_are_each_there_once_in_order_and_on_time(
    tmp_path: Path, codec: str
) -> None:
    write(
        tmp_path / "v.avi", counter(100), tone(4), video_codec=codec, audio_codec="libmp3lame", bf="2", g="12"
    )
    assert numbers(tmp_path / "v.avi") == list(range(100))
    for start in (1.6, 2.0, 3.4):  # after a jump
        first = round(start * FPS)
        assert numbers(tmp_path / "v.avi", start, start + 0.4) == list(range(first, first + 10))


def test_frames_that_an_avi_leaves_out_are_shown_longer(tmp_path: Path) -> None:
    pts = sorted({*range(0, 20), *range(20, 40, 3), *range(40, 60)})
    write(tmp_path / "v.avi", counter(len(pts)), pts=pts, bf="0")
    shown = np.searchsorted(pts, np.arange(60), side="right") - 1
    assert numbers(tmp_path / "v.avi") == shown.tolist()


@pytest.mark.parametrize(("suffix", "codec"), [("ts", "libx264"), ("mpg", "mpeg2video")])
@pytest.mark.parametrize("seconds", [(4, 2), (2, 4)])
def test_a_file_ends_where_its_clock_is_set_back_and_the_rest_is_a_row(
    tmp_path: Path, suffix: str, codec: str, seconds: tuple[int, int]
) -> None:
    """Two recordings in one stream, as they come when a recorder is restarted: they have the same times."""
    file, parts = tmp_path / f"both.{suffix}", []
    for k, (first, length) in enumerate(((0, seconds[0]), (100, seconds[1]))):
        part = tmp_path / f"{k}.{suffix}"
        waves = tone(length, 440.0 * (k + 1))
        write(
            part,
            counter(25 * length, first=first),
            waves,
            video_codec=codec,
            audio_codec="mp2",
            bf="2",
            g="25",
        )
        parts.append(part.read_bytes())
    file.write_bytes(b"".join(parts))
    info = probe(file)
    assert info.duration_s == pytest.approx(seconds[0], abs=0.1) and info.lost_s == pytest.approx(
        seconds[1], abs=0.1
    )
    for start in (0.0, 1.4):
        assert numbers(file, start, start + 0.4) == list(range(round(25 * start), round(25 * start) + 10))
        heard = np.abs(np.fft.rfft(read_audio(file, start, start + 0.5)))
        assert heard.argmax() * 2 == 440
    features = file_features(FeaturesJob(file))
    write(tmp_path / "other.mp4", counter(50), tone(2))
    for name in ("0", "1"):
        (tmp_path / f"{name}.{suffix}").unlink()
    clips = LocalDataset(LocalSettings(videos=str(tmp_path), same_person_distance=None)).clips()
    rest = clips[1]
    assert [c.left_out for c in clips if c.source_id != "both"] == [""]
    assert (
        rest.end_s - rest.start_s == pytest.approx(seconds[1], abs=0.1)
        and clips[0].end_s == features.length_s
    )
    assert rest.left_out.startswith("cannot_decode: the clock of the stream is set back at ")


def test_a_clock_that_wanders_or_has_a_single_wrong_stamp_is_not_set_back(tmp_path: Path) -> None:
    file = write(tmp_path / "v.ts", counter(100), tone(4), bf="2", g="25")
    assert probe(file).lost_s == 0 and probe(file).duration_s == pytest.approx(4.0, abs=0.05)
    assert _set_back(np.r_[0:50, 900, 50:90, 3, 90:100] / 25) == []
    assert _set_back(np.r_[0:50, 0:20, 0:60] / 12) == [50, 70]


# Audio that changes, appears late, or is broken after a jump


def changing(tmp_path: Path, second_rate: int, second_layout: str) -> Path:
    """Return a Matroska file whose AC-3 audio changes after two of four seconds."""
    raw = b""
    for k, (rate, layout) in enumerate(((RATE, "stereo"), (second_rate, second_layout))):
        with av.open(str(tmp_path / f"{k}.ac3"), "w") as container:
            stream: Any = container.add_stream("ac3", rate=rate, layout=layout)
            wave = (0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)).astype(np.float32)
            channels = np.tile(wave, (2 if layout == "stereo" else 1, 1))
            frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        raw += (tmp_path / f"{k}.ac3").read_bytes()
    (tmp_path / "both.ac3").write_bytes(raw)
    write_video(tmp_path / "v.mp4", counter(100))
    with (
        av.open(str(tmp_path / "v.mp4")) as video,
        av.open(str(tmp_path / "both.ac3")) as audio,
        av.open(str(tmp_path / "v.mkv"), "w") as both,
    ):
        sources: tuple[Any, Any] = video.streams.video[0], audio.streams.audio[0]
        outputs = [both.add_stream_from_template(s) for s in sources]
        packets = [
            (p, o) for s, c, o in zip(sources, (video, audio), outputs, strict=True) for p in c.demux(s)
        ]
        packets = [(p, o) for p, o in packets if p.dts is not None]
        for packet, output in sorted(packets, key=lambda x: float(x[0].dts * x[0].time_base)):
            packet.stream = output
            both.mux(packet)
    return tmp_path / "v.mkv"


@pytest.mark.parametrize(("rate", "layout"), [(RATE, "mono"), (32_000, "stereo"), (44_100, "mono")])
def test_audio_that_changes_within_its_stream_is_read_on(tmp_path: Path, rate: int, layout: str) -> None:
    path = changing(tmp_path, rate, layout)
    for start in (0.0, 1.5):
        audio = read_audio(path, start, 3.9, max_gap_s=0.04)
        assert len(audio) == round((3.9 - start) * SAMPLE_RATE)
        for second in np.split(audio[: len(audio) // 1600 * 1600], len(audio) // 1600)[1:-1]:
            assert level(second) > 0.1, "no hole, and the tone is there before and after the change"


def test_audio_of_a_program_stream_is_read_after_a_jump(tmp_path: Path) -> None:
    """The first AC-3 packets after a jump are partial."""
    noise = np.random.default_rng(0).integers(0, 256, (500, SIDE // 4, SIDE // 4, 3), np.uint8)
    sweep = (0.3 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 2000, 20 * RATE)) / RATE)).astype(np.float32)
    write(
        tmp_path / "v.mpg",
        noise.repeat(4, 1).repeat(4, 2),
        sweep,
        video_codec="mpeg2video",
        audio_codec="ac3",
        container_format="vob",
        g="12",
    )
    assert probe(tmp_path / "v.mpg").duration_s == pytest.approx(20.0, abs=0.05)
    whole = read_audio(tmp_path / "v.mpg", 0.0, 19.0).astype(float)
    for start in (3.0, 7.7, 12.0, 17.3):
        part = read_audio(tmp_path / "v.mpg", start, start + 1.0, max_gap_s=0.04)
        at = round(start * SAMPLE_RATE)
        # The clock of a program stream wanders by less than a sample of 16 kHz.
        assert np.corrcoef(part, whole[at : at + SAMPLE_RATE])[0, 1] > 0.99


def test_audio_that_begins_late_in_a_program_stream_is_found(tmp_path: Path) -> None:
    """It is in no header, and FFmpeg looks at the first 5 MB."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 128, 128, 3), np.uint8)
    options = {"qmin": "1", "qmax": "1", "g": "12"}
    with av.open(str(tmp_path / "v.mpg"), "w", format="vob") as container:
        video: Any = container.add_stream("mpeg2video", rate=FPS, options=options)
        video.width = video.height = 128
        video.pix_fmt, video.bit_rate = "yuv420p", 20_000_000
        sound: Any = container.add_stream("ac3", rate=RATE, layout="mono")
        sent = 0
        for k, pixels in enumerate(noise):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            container.mux(video.encode(frame))
            if k >= 350:
                sent = _encode(container, sound, tone(2), sent, (k - 349) * RATE // FPS, 14.0)
        container.mux(video.encode())
        container.mux(sound.encode())
    assert (tmp_path / "v.mpg").read_bytes().find(b"\x00\x00\x01\xbd") > 5_000_000
    info = probe(tmp_path / "v.mpg")
    assert info.has_audio and info.audio_s == pytest.approx(16.0, abs=0.05)
    with pytest.raises(ClipError, match=r"length_mismatch: v.mpg: no audio from 12.00 s to 1(3\.9|4\.0)\d s"):
        read_audio(tmp_path / "v.mpg", 12.0, 15.0, max_gap_s=0.04)
    assert level(read_audio(tmp_path / "v.mpg", 14.2, 15.8, max_gap_s=0.04)) > 0.1


def test_damage_within_the_audio_names_its_time_and_costs_no_other_part(tmp_path: Path) -> None:
    write(
        tmp_path / "v.mkv",
        counter(250),
        np.random.default_rng(0).normal(0, 0.1, 10 * RATE).astype(np.float32),
    )
    with av.open(str(tmp_path / "v.mkv")) as container:
        packets = [bytes(p) for p in container.demux(audio=0) if p.size]
    data = (tmp_path / "v.mkv").read_bytes()
    for k in range(300, 310):
        data = data.replace(packets[k], b"\xff" * len(packets[k]))
    (tmp_path / "v.mkv").write_bytes(data)
    with pytest.raises(ClipError, match=r"v.mkv: audio broken after 6\.\d\d s"):
        read_audio(tmp_path / "v.mkv", 4.0, 8.0)
    assert level(read_audio(tmp_path / "v.mkv", 7.5, 9.0)) > 0.05


# Where streams begin and end


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv"])
@pytest.mark.parametrize("audio_s", [2.0, 5.0])
def test_each_stream_ends_where_its_packets_end(tmp_path: Path, suffix: str, audio_s: float) -> None:
    write(tmp_path / f"v.{suffix}", counter(100), tone(audio_s))
    info = probe(tmp_path / f"v.{suffix}")
    assert info.duration_s == pytest.approx(4.0, abs=0.002)
    # AAC has whole frames of 21 ms, and Matroska does not say how much of the last is filled.
    assert info.audio_s == pytest.approx(audio_s, abs=0.045)
    assert length_s(tmp_path / f"v.{suffix}") == pytest.approx(min(4.0, audio_s), abs=0.045)
    assert len(numbers(tmp_path / f"v.{suffix}")) == 100


def test_audio_that_ends_long_before_a_matroska_file_is_found_without_reading_it_whole(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, SIDE, SIDE, 3), np.uint8)
    write(tmp_path / "v.mkv", noise, tone(13.0), crf="1", preset="ultrafast", g="25")
    before = _bytes_read()
    info = probe(tmp_path / "v.mkv")
    read = _bytes_read() - before
    assert (info.duration_s, info.audio_s) == pytest.approx((40.0, 13.0), abs=0.045)
    probe(tmp_path / "v.mkv")
    assert _bytes_read() - before - read < 10_000, "asked again, it answers from memory"
    write(tmp_path / "long.mkv", noise, tone(40.0), crf="1", preset="ultrafast", g="25")
    before = _bytes_read()
    assert probe(tmp_path / "long.mkv").audio_s == pytest.approx(40.0, abs=0.045)
    assert _bytes_read() - before < (tmp_path / "long.mkv").stat().st_size / 3


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_the_gate_sees_audio_that_begins_late_or_has_a_hole(tmp_path: Path) -> None:
    late = write(tmp_path / "late.mp4", counter(100), tone(3.5), audio_from_s=0.5)
    clip = Clip("a-0", "a", 0.0, 4.0, "a", "train", "train-000", uri="late.mp4")
    with pytest.raises(ClipError, match="length_mismatch: the audio starts 0.48 s after the video"):
        check_length(clip, probe(late), 100, AudioGates())
    check_length(clip, probe(late), 100, AudioGates(length_mismatch_seconds=None))
    with pytest.raises(ClipError, match=r"length_mismatch: late.mp4: no audio from 0.00 s to 0.48 s"):
        read_audio(late, 0.0, 4.0, max_gap_s=0.04)
    assert len(read_audio(late, 1.0, 3.9, max_gap_s=0.04)) == round(2.9 * SAMPLE_RATE)
    with pytest.raises(ClipError, match=r"no audio from 4.0\d s to 4.50 s"):
        read_audio(late, 2.0, 4.5, max_gap_s=0.04)


# What the eye would see


def test_frames_that_were_looked_at_do_not_wait_for_the_collector(film: Path) -> None:
    """Of 1080p each takes 3 MB: a few hundred of them were in memory at a time."""
    gc.collect()
    gc.disable()
    try:
        for frame in read_lazy_frames(film, 0.0, 1.0):
            frame[:40, :40]
        del frame
        assert not [o for o in gc.get_objects() if isinstance(o, av.VideoFrame)]
    finally:
        gc.enable()


def test_a_mirrored_video_is_shown_mirrored(tmp_path: Path) -> None:
    data = encode_video(np.repeat(counter(1, first=0b10010110), 5, axis=0))
    (tmp_path / "v.mp4").write_bytes(data)
    plain = next(read_frames(tmp_path / "v.mp4"))
    matrix = data.find(b"tkhd") + 4 + 4 + 20 + 16
    one = 1 << 16
    for (a, b, c, d), expected in (
        ((-one, 0, 0, one), plain[:, ::-1]),
        ((one, 0, 0, -one), plain[::-1]),
        ((-one, 0, 0, -one), plain[::-1, ::-1]),
        ((0, one, one, 0), plain.swapaxes(0, 1)),
        ((0, -one, one, 0), np.rot90(plain)),
    ):
        shown = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        (tmp_path / "m.mp4").write_bytes(data[:matrix] + shown + data[matrix + 36 :])
        np.testing.assert_array_equal(next(read_frames(tmp_path / "m.mp4")), expected)


def bar(at: int) -> np.ndarray:
    """A bright bar on grey, 16 wide, whose left edge is at a column."""
    frame = np.full((SIDE, 128, 3), 60, np.uint8)
    frame[:, at : at + 16] = 200
    return frame


def test_interlaced_video_is_deinterlaced_on_time(tmp_path: Path) -> None:
    """Odd rows show the time of the frame, even rows that of half a frame later: the bar has moved on."""
    woven = np.stack([bar(4 * k) for k in range(25)])
    woven[:, ::2] = np.stack([bar(4 * k + 2) for k in range(25)])[:, ::2]

    def fields(stream: Any) -> None:
        stream.codec_context.flags |= 1 << 18 | 1 << 29  # interlaced DCT and motion estimation

    write(tmp_path / "v.mpg", woven, video_codec="mpeg2video", container_format="vob", prepare=fields)
    with av.open(str(tmp_path / "v.mpg")) as container:
        assert next(container.decode(video=0)).interlaced_frame, "the file is interlaced"
    read = np.stack(list(read_frames(tmp_path / "v.mpg", 0.0, 1.0))).astype(int)
    assert len(read) == 25
    for k, frame in enumerate(read[1:-1], 1):
        combs = np.abs(frame[2:-2:2] - (frame[1:-3:2] + frame[3:-1:2]) / 2).mean()
        assert combs < 2, "neighbouring rows agree"
        centre = np.average(np.arange(128), weights=np.maximum(frame[..., 0].mean(axis=0) - 100, 0))
        assert abs(centre - (4 * k + 7.5)) < 2, "and each frame shows its own time"


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_high_dynamic_range_is_tone_mapped(tmp_path: Path, transfer: str) -> None:
    """A grey card, a white wall and a lamp, as the same scene looks in standard range."""
    light = np.array([26.0, 203.0, 1000.0])
    if transfer == "smpte2084":
        codes = pq_code(light)
    else:
        axis = np.linspace(0, 1, 2000)
        codes = np.interp(light, hlg_light(axis[:, None].repeat(3, 1))[:, 0], axis)
    x265 = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:range=limited"
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        options = {"x265-params": x265, "preset": "ultrafast"}
        stream: Any = container.add_stream("libx265", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, SIDE, "yuv420p10le"
        for k in range(3):
            frame = av.VideoFrame(96, SIDE, "yuv420p10le")
            luma = np.repeat(np.round(64 + 876 * codes).astype(np.uint16), 32)
            rows = np.zeros((SIDE, frame.planes[0].line_size // 2), np.uint16)
            rows[:, :96] = luma
            frame.planes[0].update(rows.tobytes())
            for plane in frame.planes[1:]:
                plane.update(np.full(plane.buffer_size // 2, 512, np.uint16).tobytes())
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = next(read_frames(tmp_path / "v.mp4"))
    grey, wall, lamp = (int(shown[32, x].mean()) for x in (16, 48, 80))
    assert np.ptp(shown[32, [16, 48, 80]].astype(int), axis=1).max() <= 3, "grey stays grey"
    # The same card in standard range: (26 / 203) ** (1 / 2.4) = 0.425 of white.
    assert grey == pytest.approx(0.425 * 255, abs=5)
    assert 200 < wall < 245 < lamp
    assert len(numbers(tmp_path / "v.mp4")) == 3


def test_tone_mapping_keeps_black_and_order() -> None:
    ramp = np.linspace(0, 1, 101)[:, None].repeat(3, 1)
    for transfer in ("pq", "hlg"):
        shown = tone_map(ramp, transfer)[:, 0]  # type: ignore[arg-type]
        assert shown[0] < 0.01 and (np.diff(shown) >= -1e-6).all() and shown[-1] == pytest.approx(1, abs=0.01)


def test_full_range_and_limited_range_look_the_same(tmp_path: Path) -> None:
    frames = np.broadcast_to(np.array([200, 50, 30], np.uint8), (5, SIDE, SIDE, 3))
    write(tmp_path / "limited.mp4", frames, crf="1")

    def full(stream: Any) -> None:
        stream.codec_context.color_range = 2

    write(tmp_path / "full.mp4", frames, crf="1", prepare=full)
    for name in ("limited.mp4", "full.mp4"):
        shown = next(read_frames(tmp_path / name)).astype(int)
        assert np.abs(shown - frames[0]).max() <= 3, name


def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path: Path) -> None:
    def anamorphic(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    write(
        tmp_path / "v.mpg", counter(5), video_codec="mpeg4", container_format="matroska", prepare=anamorphic
    )
    info = probe(tmp_path / "v.mpg")
    assert (info.width, info.height) == (round(SIDE * 16 / 11), SIDE)
    assert next(read_frames(tmp_path / "v.mpg")).shape == (SIDE, round(SIDE * 16 / 11), 3)


def test_stereo_in_antiphase_is_heard(tmp_path: Path) -> None:
    wave = tone(4)
    write(tmp_path / "anti.mp4", counter(100), np.stack([wave, -0.9 * wave]))
    write(tmp_path / "plain.mp4", counter(100), np.stack([wave, wave]))
    anti, plain = (read_audio(tmp_path / f"{name}.mp4", 1.2, 3.0).astype(float) for name in ("anti", "plain"))
    assert level(anti) == pytest.approx(level(plain), rel=0.05)
    assert np.corrcoef(anti, plain)[0, 1] > 0.99, "the louder channel"


# Errors


def test_a_damaged_header_is_no_matter_of_permissions(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"RIFF")
    with pytest.raises(ClipError, match="cannot_decode: v.mp4"):
        open_media(path)
    with pytest.raises(UserError, match="No such file"):
        open_media(tmp_path / "absent.mp4")


def test_a_name_that_is_no_utf8_is_read_and_rejected_like_any_other(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    write_video(tmp_path / name, counter(30), audio=clicks(1.2, 0.5))
    assert len(numbers(tmp_path / name)) == 30
    assert np.abs(read_audio(tmp_path / name)).max() > 5000
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ClipError) as caught:
        probe(tmp_path / name)
    assert r"caf\xe9.mp4" in Reject.of("a", "fetch", caught.value).detail


def test_an_exception_of_any_type_is_the_reject_of_its_clip() -> None:
    jobs = [("a", "fine"), ("b", "type"), ("c", "clip"), ("d", "good")]
    results = dict(map_clips(fails, jobs, stage="crops", workers=1))
    assert (results["a"], results["d"]) == ("fine", "good")
    assert results["b"] == Reject("b", "crops", "failed", "TypeError: an unexpected word")
    assert results["c"] == Reject("c", "crops", "silent", "level -90 dB")


def test_the_default_audio_track_is_read(tmp_path: Path, film_frames: np.ndarray) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS)
        video.height, video.width = film_frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        tracks: list[Any] = [container.add_stream("flac", rate=RATE, layout="mono") for _ in range(2)]
        tracks[0].disposition = av.stream.Disposition(0)
        tracks[1].disposition = av.stream.Disposition.default
        for frame in film_frames[:50]:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        for track, samples in zip(tracks, (np.zeros(2 * RATE), tone(2.0)), strict=True):
            pcm = (samples * 32767).astype(np.int16)[None]
            audio = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            audio.sample_rate, audio.pts, audio.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(track.encode(audio))
            container.mux(track.encode())
    assert np.abs(read_audio(path, 0.0, 1.5)).max() > 5000


def test_a_playlist_is_no_video(tmp_path: Path, film_frames: np.ndarray) -> None:
    write(tmp_path / "a.mp4", film_frames[:10])
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    with pytest.raises(ClipError, match="a playlist"):
        probe(tmp_path / "list.mp4")


@pytest.mark.parametrize("shared", [None, "failing_work", "no_module"])
def test_a_worker_that_crashes_costs_its_clip_alone_and_one_that_is_killed_ends_the_stage(
    shared: str | None,
) -> None:
    jobs = [(name, name) for name in ("a", "type", "SEGV", "b", "c", "d")]
    results = dict(map_clips(fails, jobs, stage="crops", workers=2, shared=shared))
    lost = results.pop("SEGV")
    assert lost == Reject("SEGV", "crops", "failed", "the process that worked on it crashed (SIGSEGV)")
    assert results.pop("type") == Reject("type", "crops", "failed", "TypeError: an unexpected word")
    assert results == {name: name for name in "abcd"}
    with pytest.raises(UserError, match="killed while it worked on KILL: most likely the memory"):
        list(map_clips(fails, [("a", "a"), ("KILL", "KILL")], stage="crops", workers=2, shared=shared))


@pytest.mark.parametrize("how", ["memory", "disk"])
def test_faults_of_the_machine_end_the_stage(how: str) -> None:
    with pytest.raises((MemoryError, OSError)):
        guarded(fails, how)


def test_only_real_permissions_are_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    assert not is_machine_fault(PermissionError(errno.EPERM, "not permitted", str(tmp_path / "mine")))
    assert is_machine_fault(PermissionError(errno.EACCES, "denied", "/nowhere/at/all"))


def test_the_next_job_is_done_beside_the_caller_and_no_more_than_that() -> None:
    done: list[int] = []

    def work(job: int) -> int:
        done.append(job)
        return -job

    results = one_ahead(work, range(5))
    assert next(results) == 0
    deadline = time.monotonic() + 10
    while done != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert done == [0, 1]
    assert list(results) == [-1, -2, -3, -4]


def test_what_a_job_done_ahead_raises_comes_in_its_turn() -> None:
    results = one_ahead(lambda job: 1 // job, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
