"""Cut the face of one clip, with its audio, and apply the gates on audio."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from difftalk.config.crops import CropsSettings
from difftalk.config.gates import AudioGates
from difftalk.datasets.clips import Clip
from difftalk.face.geometry import Placement, place
from difftalk.face.tracks import fill_gaps
from difftalk.media.audio import read_audio
from difftalk.media.clock import FPS, SAMPLES_PER_FRAME
from difftalk.media.encode import encode_video
from difftalk.media.flac import encode_flac
from difftalk.media.lazy_frame import LazyFrame
from difftalk.media.probe import VideoInfo, probe
from difftalk.media.video import read_lazy_frames
from difftalk.runtime.errors import ClipError

if TYPE_CHECKING:
    from difftalk.evaluation.sync import Sync

# Twice as fast as x264's `superfast` at 256 pixels, and closer to the frames on every clip measured, since
# blocks are smoothed and bits spread as by slower presets: it is the file that gets larger, by half.
X264_PRESET, X264_CHANGES = "ultrafast", ("aq-mode=1", "aq-strength=0.8", "deblock=0,0")


@dataclass(frozen=True)
class CropJob:
    """One clip to crop.

    Args:
        clip: of the plan.
        source: its video file.
        frames: `(n,)` numbers of the frames that have landmarks.
        points: `(n, 68, 2)` landmarks, pixels of the source.
        settings: of the stage.
        syncnet: folder of the sync expert; needed where `gates.sync` is on.
    """

    clip: Clip
    source: Path
    frames: np.ndarray
    points: np.ndarray
    settings: CropsSettings
    syncnet: Path | None


@dataclass(frozen=True)
class CroppedClip:
    """The crop of one clip.

    Args:
        files: `{extension: content}` of its sample in the shard; empty where the sync gate rejects it.
        sync: what the sync expert found; None where it was not asked or cannot tell.
        reject: of the sync gate; None where the clip passes it.
    """

    files: dict[str, Any]
    sync: "Sync | None" = None
    reject: ClipError | None = None


def crop_clip(job: CropJob, kept: Callable[[Placement], Iterable[LazyFrame]] | None = None) -> CroppedClip:
    """Cut one clip, and apply the gates on audio.

    Args:
        job: the clip.
        kept: returns its frames for a placement; without, they are decoded.

    Raises:
        ClipError: `too_short`, `out_of_frame`, `length_mismatch`, `cannot_decode`, `no_audio`; those of the
            sync gate are in the result.
    """
    clip, settings = job.clip, job.settings
    info = probe(job.source)
    points = fill_gaps(job.frames, job.points, max(int(job.frames[-1]) + 1, clip.frames))
    placement = place(points, clip, info, settings)
    decoded = kept(placement) if kept else read_lazy_frames(job.source, clip.start_s, clip.end_s)
    frames = placement.cut(decoded, settings.size)
    count = len(frames)
    if settings.min_frames is not None and count < settings.min_frames:
        raise ClipError("too_short", f"{count} frames, min_frames={settings.min_frames}")
    check_length(clip, info, count, settings.gates)
    landmarks = placement.landmarks(points[:count], settings.size)
    limit = settings.gates.length_mismatch_seconds
    audio = read_audio(job.source, clip.start_s, clip.start_s + count / FPS, max_gap_s=limit)
    assert len(audio) == count * SAMPLES_PER_FRAME
    facts: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "source_id": clip.source_id,
        "identity": clip.identity,
        "split": clip.split,
        "frames": count,
        "fps": FPS,
        "size": settings.size,
        "margin": settings.margin,
        "box": list(placement.box),
        "crop": placement.mode,
    }
    found = None
    if settings.gates.sync is not None:
        assert job.syncnet is not None
        from difftalk.face.sync_gate import measure_crop, sync_facts, sync_verdict  # imports torch

        found = measure_crop(np.stack(frames), landmarks, audio, job.syncnet)
        reject = sync_verdict(found, count, settings.gates.sync)
        if found is None or reject is not None:
            return CroppedClip({}, found, reject)
        facts["sync"] = sync_facts(found, settings.gates.sync)
        if facts["sync"]["repaired"]:
            # Audio that leads by so many frames was heard too early: what belongs here lies before it.
            start_s = clip.start_s - found.offset / FPS
            audio = read_audio(job.source, start_s, start_s + count / FPS)
            # Beyond the file's audio there are zeros: it is said how many.
            missing_s = max(-start_s, 0.0) + max(start_s + count / FPS - (info.audio_s or np.inf), 0.0)
            if missing_s > 0:
                facts["sync"]["silence_added_s"] = round(missing_s, 3)
    files = {
        "mp4": encode_video(
            frames, crf=settings.crf, preset=X264_PRESET, changes=X264_CHANGES, pix_fmt="yuv444p"
        ),
        "flac": encode_flac(audio),
        "landmarks.npy": landmarks,
        "json": facts,
    }
    return CroppedClip(files, found)


def check_length(clip: Clip, info: VideoInfo, frames: int, gates: AudioGates) -> None:
    """Compare the audio of a clip with its frames, at both ends.

    Raises:
        ClipError: `length_mismatch` where one begins or ends before the other by more than the gate allows.
    """
    limit = gates.length_mismatch_seconds
    if limit is None:
        return
    audio_end_s = clip.end_s if info.audio_s is None else min(clip.end_s, info.audio_s)
    starts_s = clip.start_s if info.audio_start_s is None else max(clip.start_s, info.audio_start_s)
    audio_s, video_s = audio_end_s - clip.start_s, frames / FPS
    if starts_s - clip.start_s > limit + 1e-6:
        seconds = f"the audio starts {starts_s - clip.start_s:.2f} s after the video"
    elif abs(audio_s - video_s) > limit + 1e-6:
        seconds = f"{audio_s:.2f} s of audio, {video_s:.2f} s of video"
    else:
        return
    raise ClipError("length_mismatch", f"{seconds}, length_mismatch_seconds={limit:g}")
