"""Checks of a run: whether its model follows the audio, and how well landmarks were found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from difftalk.face.quality import quality_of, read_quality

# What the embedded demo must reach; shown next to what was found where the truth is known.
MIN_DETECTION_RATE, MAX_NME = 0.99, 0.08
# And what a model that was trained long enough does.
MIN_GAIN_DB, MIN_CORRELATION = 1.0, 0.7


class Check(NamedTuple):
    """What is checked, the figures, and whether they suffice (None: there is no ground truth)."""

    what: str
    found: str
    holds: bool | None


def checks(rows: dict[str, dict[str, Any]]) -> list[Check]:
    """Return what a model that listens shows, read off the comparison.

    Args:
        rows: of the comparison table, by method. A check whose rows or figures are missing is left out.
    """

    def figure(method: str, metric: str) -> float | None:
        return rows.get(method, {}).get(metric)

    found: list[Check] = []
    for better, worse in (("ground_truth", "difftalk"), ("difftalk", "no_audio")):
        a, b = figure(better, "sync_confidence"), figure(worse, "sync_confidence")
        if a is not None and b is not None:
            found.append(Check(f"sync confidence: {better} above {worse}", f"{a:.2f} against {b:.2f}", a > b))
    ours, copied = figure("difftalk", "psnr_mouth"), figure("reference_copy", "psnr_mouth")
    if ours is not None and copied is not None:
        gain = ours - copied
        what = f"mouth PSNR: difftalk at least {MIN_GAIN_DB:g} dB above the copied reference"
        found.append(Check(what, f"{gain:+.2f} dB", gain >= MIN_GAIN_DB))
    corr = figure("difftalk", "mouth_corr")
    if corr is not None:
        what = f"mouth opening of difftalk follows the truth's, correlation at least {MIN_CORRELATION:g}"
        found.append(Check(what, f"{corr:.2f}", corr >= MIN_CORRELATION))
    return found


def check_landmarks(quality: Sequence[Path]) -> Check | None:
    """Return how well landmarks were found, in all clips together; None where nothing is known.

    Args:
        quality: the quality tables of all shards.
    """
    tables = read_quality(quality)
    found = quality_of(set(tables), tables)
    if found is None:
        return None
    frames = sum(of_clip[0] for of_clip in tables.values())
    rate = f"a face was found in {found.detection_rate:.2%} of {frames} frames"
    if found.nme is None:
        return Check("Landmarks", rate, None)
    error = f"mean error against the truth {found.nme:.2%} of the outer eye distance"
    figures = f"{rate} (wanted: at least {MIN_DETECTION_RATE:.0%}); {error} (wanted: at most {MAX_NME:.0%})"
    return Check("Landmarks", figures, found.detection_rate >= MIN_DETECTION_RATE and found.nme <= MAX_NME)
