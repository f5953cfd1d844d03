"""Animate one video or picture by one sound with a trained model."""

from typing import Literal

from difftalk.config.numbers import Crf, Switch
from difftalk.config.sampling import Sampling
from difftalk.runtime.arguments import InputFile, InputFolder, KeptFolder, OutputFile


def run(
    *,
    video: InputFile,
    audio: InputFile,
    model: InputFolder,
    out: OutputFile,
    settings: Sampling | None = None,
    length: str = "audio",
    face: str = "largest",
    silence: str = "audio",
    crf: Crf = 16,
    mark: Switch = 0,
    state: KeptFolder | None = None,
) -> None:
    """Write a video of the source's size in which its largest, or a chosen, face says the sound.

    Args:
        video: the face: a video or a picture.
        audio: a file with sound, of any length.
        model: folder of a trained model.
        out: the mp4 to be written.
        settings: the section `sampling` of a configuration, as JSON; without it, as the model's card has it.
        length: audio: the sound decides the length, and a shorter video goes back and forth; video: the
            video does.
        face: of several: largest, left, right, or which from the left, beginning with 1.
        silence: closed: where nobody speaks in the sound, the mouth settles; audio: nothing is done.
        crf: H.264 quality of the video, 0 (lossless) to 51.
        mark: 1 writes a visible note into each frame that it is synthetic. A tag in the file always says so.
        state: folder for what is done, from which a killed command goes on; by default beside `out`.

    Raises:
        UserError: if the sources or the model cannot be used.
    """
    from difftalk.animation.animate import animate
    from difftalk.runtime.errors import ClipError, UserError
    from difftalk.runtime.progress import say

    chosen: dict[str, Literal["audio", "video"]] = {"audio": "audio", "video": "video"}
    if length not in chosen:
        raise UserError(f"--length: {length}: audio or video")
    settled: dict[str, Literal["audio", "closed"]] = {"audio": "audio", "closed": "closed"}
    if silence not in settled:
        raise UserError(f"--silence: {silence}: audio or closed")
    try:
        report = animate(
            video, audio, model, out, settings=settings, length=chosen[length], face=face,
            silence=settled[silence], crf=crf, marked=bool(mark), state=state,
        )  # fmt: skip
    except ClipError as e:
        raise UserError(f"animate: {e}") from None
    for line in report.lines():
        say(line)
