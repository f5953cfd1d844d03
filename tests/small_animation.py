"""What `difftalk animate` needs, small: a drawn speaker, a sound, and a model trained for a moment."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from drawn_clips import speaker
from small_training import train_on_drawn

from difftalk.datasets.demo.render import DemoSource, render_source

SIZE = 256


def prepare(folder: Path) -> Path:
    """Write `face.mp4` of two seconds, `speech.wav` of three and the folder `model`; return their folder."""
    train_on_drawn(folder, {"ann": speaker(950)}, "train")
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
