"""`difftalk animate`: the mouth alone changes, the sound decides the length, a killed command goes on."""

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_clips import speaker, write_crops
from PIL import Image
from small_training import train

from difftalk.animation import animate as animation
from difftalk.animation.animate import animate
from difftalk.animation.compose import frames_of
from difftalk.animation.faces import Faces
from difftalk.animation.paste import paste, soft_mask
from difftalk.animation.silence import silences
from difftalk.animation.source import Source, stretches
from difftalk.config.encode import Encode
from difftalk.config.sampling import Sampling
from difftalk.config.section import from_dict
from difftalk.datasets.demo.faces import Identity, Mouth, Pose, draw_face
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.media.encode import write_video
from difftalk.media.probe import probe
from difftalk.media.video import read_frames
from difftalk.models.autoencoder import build_autoencoder
from difftalk.runtime.device import default_device
from difftalk.runtime.errors import UserError
from difftalk.sampling.frame_sampler import FrameSampler
from difftalk.sampling.pipeline import DiffTalkPipeline
from difftalk.speech.mfcc import mfcc_features
from difftalk.speech.table import speech_writer
from difftalk.stages import encode

SIZE = 256


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn speaker of two seconds, a sound of three, and a model that was trained for a moment."""
    folder = tmp_path_factory.mktemp("animate")
    drawn = {"ann": speaker(950)}
    write_crops(folder / "crops.tar", drawn, split="train")
    with speech_writer(folder / "speech.parquet") as write:
        write("ann", mfcc_features(drawn["ann"][2], 2 * len(drawn["ann"][0])))
    build_autoencoder((8, 16, 16), 1, 64).save_pretrained(folder / "autoencoder")
    encode.run(
        crops=folder / "crops.tar",
        speech=folder / "speech.parquet",
        autoencoder=folder / "autoencoder",
        settings=Encode(),
        out=folder / "train-000.tar",
        rejects=folder / "rejects.csv",
        max_reject_fraction=0.0,
    )
    train(folder, "model", steps=2, reference_distance=20)
    render_source(DemoSource("face", 951, 951, 1, 2.0, SIZE), folder / "face.mp4")
    write_sound(folder / "speech.wav", speaker(952, 3.0)[2][: 3 * 16000])
    return folder


def write_sound(path: Path, samples: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def frames_before_encoding(
    made: Path, kept: Path, faces: Faces, source: Source, settings: Sampling
) -> list[np.ndarray]:
    pipeline = DiffTalkPipeline.from_pretrained(made / "model", default_device())
    sampler = FrameSampler(pipeline, settings)
    plan = stretches(len(faces), len(faces), 16)
    rule = animation.crop_rule(pipeline)
    samples = speaker(952, 3.0)[2]
    talker = animation.Speaker(pipeline, settings, samples, len(faces))
    kept.mkdir()
    animation._sample(kept, source, faces, rule, plan, talker)
    return list(frames_of(kept, source, faces, rule, plan, sampler))


@pytest.mark.parametrize("interpolation", ["none", "smooth"])
def test_outside_the_mask_every_pixel_is_the_sources(made: Path, tmp_path: Path, interpolation: str) -> None:
    source = Source.open(made / "face.mp4")
    faces = animation.find_faces(source, source.frames)
    assert len(faces) == 50 and (faces.track == 0).all()
    faces.track[20:25] = -1  # as if the face were gone
    settings = from_dict(Sampling, {"steps": 1, "interpolation": interpolation}, "test")
    found = frames_before_encoding(made, tmp_path / "kept", faces, source, settings)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for k, (true, frame) in enumerate(zip(read_frames(made / "face.mp4"), found, strict=True)):
        changed = (true != frame).any(axis=2)
        assert changed.any() != (20 <= k < 25), "the mouth is new, and a frame without a face is the source's"
        jaw, nose = faces.points[k, 2:15], faces.points[k, 30]
        low, high = np.minimum(jaw.min(axis=0), nose), jaw.max(axis=0)
        cell = 4 * 2.5 * 2  # two latent cells in pixels of the frame: the mask takes every cell it touches
        outside = (columns < low[0] - cell) | (columns > high[0] + cell)
        outside |= (rows < low[1] - cell) | (rows > high[1] + cell)
        assert not changed[outside].any()


def test_the_pasted_mask_is_soft_inside_and_nothing_outside() -> None:
    generated = np.zeros((16, 16), bool)
    generated[6:14, 4:12] = True
    mask = soft_mask(generated, 64)
    region = generated.repeat(4, axis=0).repeat(4, axis=1)
    assert (mask[~region] == 0).all() and mask.max() == 1 and 0 < mask[24, 30] < 1
    frame = np.full((90, 120, 3), 7, np.uint8)
    out = paste(frame, np.full((64, 64, 3), 200, np.uint8), mask, np.array([[1.5, 0, 50], [0, 1.5, 40.0]]))
    assert out.shape == frame.shape and out.max() == 200
    assert (out[:, :50] == 7).all() and (out[:70] == 7).all(), "the crop leaves the frame below and right"


def test_sound_decides_the_length_and_the_video_goes_back_and_forth(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    report = animate(made / "face.mp4", made / "speech.wav", made / "model", out, settings=Sampling(steps=1))
    assert report.frames == 75 and report.without_face == 0
    info = probe(out)
    assert (info.width, info.height, round(info.duration_s * 25)) == (SIZE, SIZE, 75)
    with av.open(str(out)) as container:
        assert container.metadata["comment"] == "synthetic: generated by difftalk"
        (sound,) = container.streams.audio
        assert sound.codec_context.name == "aac" and sound.rate == 48000
        heard = sum(frame.samples for frame in container.decode(sound)) / 48000
    assert abs(heard - 3.0) < 0.05
    top = np.stack(list(read_frames(out)))[:, :60].astype(int)
    assert np.abs(top[60] - top[38]).mean() < np.abs(top[60] - top[10]).mean(), "frame 60 shows frame 38"
    assert not list(tmp_path.glob(".*"))


def test_a_picture_and_the_length_of_the_video(made: Path, tmp_path: Path) -> None:
    still = next(iter(read_frames(made / "face.mp4")))
    Image.fromarray(still[:-1]).save(tmp_path / "face.png")  # an odd height
    wanted = {"settings": Sampling(steps=1), "marked": True}
    report = animate(tmp_path / "face.png", made / "speech.wav", made / "model", tmp_path / "p.mp4", **wanted)  # type: ignore[arg-type]
    assert report.frames == 75 and probe(tmp_path / "p.mp4").height == SIZE - 1
    report = animate(
        made / "face.mp4", made / "speech.wav", made / "model", tmp_path / "v.mp4",
        settings=Sampling(steps=1, progressive="latent", frames_per_pass=1), length="video",
    )  # fmt: skip
    assert report.frames == 50


def two_speakers(left_px: int, right_px: int, count: int) -> np.ndarray:
    """Frames (count, 320, 640, 3) of two drawn faces beside each other."""
    frames = np.full((count, 320, 640, 3), 128, np.uint8)
    for seed, px, x in ((5, left_px, 20), (6, right_px, 360)):
        face, _ = draw_face(Identity.draw(seed), Pose(), Mouth(), px)
        frames[:, 40 : 40 + px, x : x + px] = face
    return frames


@pytest.mark.parametrize(("face", "where"), [("largest", 1), ("left", 0), ("right", 1), ("1", 0), ("2", 1)])
def test_one_of_several_faces(tmp_path: Path, face: str, where: int) -> None:
    write_video(tmp_path / "two.mp4", two_speakers(200, 256, 12))
    faces = animation.find_faces(Source.open(tmp_path / "two.mp4"), 12, face)
    assert (faces.track == 0).all()
    assert (faces.points[:, :, 0].mean() > 320) == bool(where)


def test_the_chosen_face_is_not_mistaken_for_another(tmp_path: Path) -> None:
    frames = two_speakers(200, 200, 60)
    frames[20:40, :, :320] = 128  # the left one is gone for a while
    write_video(tmp_path / "two.mp4", frames)
    faces = animation.find_faces(Source.open(tmp_path / "two.mp4"), 60, "left")
    assert (faces.track[20:40] == -1).all() and (faces.track[45:] >= 0).all()
    assert faces.points[faces.track >= 0][:, :, 0].max() < 320
    assert (animation.find_faces(Source.open(tmp_path / "two.mp4"), 60, "3").track == -1).all()


def test_silences_are_where_nobody_speaks() -> None:
    spoken = speaker(952, 3.0)[2][:32000]
    sound = np.concatenate([spoken, np.zeros(16000, np.int16), spoken])
    found = silences(sound, 125)
    assert any(abs(first - 53) < 8 and abs(stop - 75) < 8 for first, stop in found), found
    assert silences(np.zeros(16000, np.int16), 25) == [(0, 25)]


def test_in_silence_the_mouth_has_one_noise_and_one_sound(made: Path, tmp_path: Path) -> None:
    """Of a still picture and hiss, frames are the same with `closed`; without it, the noise differs."""
    still = next(iter(read_frames(made / "face.mp4")))
    Image.fromarray(still).save(tmp_path / "face.png")
    hiss = np.random.default_rng(0).normal(0, 20, 32000).astype(np.int16)
    write_sound(tmp_path / "hiss.wav", hiss)
    moved = {}
    for silence in ("audio", "closed"):
        out = tmp_path / f"{silence}.mp4"
        animate(
            tmp_path / "face.png", tmp_path / "hiss.wav", made / "model", out,
            settings=Sampling(steps=2), silence=silence, crf=0,  # type: ignore[arg-type]
        )  # fmt: skip
        frames = np.stack(list(read_frames(out))).astype(int)[15:35]  # whose windows lie within the sound
        moved[silence] = float(np.abs(np.diff(frames, axis=0)).mean())
    assert moved["closed"] < 0.02 * moved["audio"], moved


def command(made: Path, out: Path) -> list[str]:
    inputs = ["--video", made / "face.mp4", "--audio", made / "speech.wav", "--model", made / "model"]
    settings = '{"steps": 10, "progressive": "latent", "frames_per_pass": 1}'
    words = [*inputs, "--out", out, "--settings", settings]
    return [sys.executable, "-m", "difftalk", "animate", *map(str, words)]


def test_a_killed_command_goes_on_with_the_same_bytes(made: Path, tmp_path: Path) -> None:
    done = subprocess.run(command(made, tmp_path / "whole.mp4"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "frames/s" in done.stderr
    out, kept = tmp_path / "out.mp4", tmp_path / ".out.animate"
    with subprocess.Popen(command(made, out), stderr=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + 60
        while not list(kept.glob(".latents-*.sha256")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(killed.pid, signal.SIGKILL)
    assert not out.exists() and list(kept.glob("latents-*.npy"))
    again = subprocess.run(command(made, out), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not kept.exists()


def test_what_cannot_be_animated_is_a_sentence(made: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "grey.mp4", np.full((30, 64, 64, 3), 90, np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="no face of at least 48 pixels in 30 frames"):
        animate(tmp_path / "grey.mp4", made / "speech.wav", made / "model", tmp_path / "o.mp4")
    with pytest.raises(UserError, match="not a picture that can be read"):
        animate(tmp_path / "text.png", made / "speech.wav", made / "model", tmp_path / "o.mp4")
    with pytest.raises(UserError, match="is an input, and would be overwritten"):
        animate(made / "face.mp4", made / "speech.wav", made / "model", made / "face.mp4")
    with pytest.raises(UserError, match="--face: middle: largest, left, right"):
        animate(made / "face.mp4", made / "speech.wav", made / "model", tmp_path / "o.mp4", face="middle")
    with pytest.raises(UserError, match="no face for --face 3"):
        animate(made / "face.mp4", made / "speech.wav", made / "model", tmp_path / "o.mp4", face="3")
    silent = command(made, tmp_path / "o.mp4")
    silent[silent.index("--audio") + 1] = str(tmp_path / "grey.mp4")
    done = subprocess.run(silent, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "grey.mp4" in done.stderr
