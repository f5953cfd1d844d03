"""What `difftalk animate` needs, small: a drawn speaker, a sound, and a model trained for a moment."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from drawn_clips import speaker, write_crops
from small_training import train

from difftalk.config.encode import Encode
from difftalk.datasets.demo.render import DemoSource, render_source
from difftalk.models.autoencoder import build_autoencoder
from difftalk.speech.mfcc import mfcc_features
from difftalk.speech.table import speech_writer
from difftalk.stages import encode

SIZE = 256


def prepare(folder: Path) -> Path:
    """Write `face.mp4` of two seconds, `speech.wav` of three and the folder `model`; return their folder."""
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
