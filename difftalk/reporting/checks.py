"""Checks of a run: whether its model follows the audio, by intervals, and how well landmarks were found."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from difftalk.face.quality import quality_of, read_quality
from difftalk.reporting.figures import FLOORS, TRUTH, Difference, Figures
from difftalk.reporting.intervals import FEW
from difftalk.reporting.methods import compared, first_seeds
from difftalk.reporting.tables import Table, csv_columns, figure_text, title

# What the embedded demo must reach; shown next to what was found where the truth is known.
MIN_DETECTION_RATE, MAX_NME = 0.99, 0.08
# And what a model that was trained long enough does.
MIN_GAIN_DB, MIN_CORRELATION = 1.0, 0.7
# Share of true clips that a sync expert must find in sync, or else it is no judge of them.
MIN_TRUTH_IN_SYNC = 0.5
# Methods that hear nothing: what the sync expert gives them is what chance gives.
DEAF = ("no_audio", "reference_copy")

REACHED, MISSED, UNDECIDED, NOT_COMPARED = "reached", "missed", "undecided", "not compared"
CANNOT_TELL = "the sync expert cannot tell on these clips"
CHECK_COLUMNS = ("method", "check", "found", "verdict")

Ends = tuple[float, float] | None


class Check(NamedTuple):
    """What is checked, the figures, and whether they suffice (None: there is no ground truth)."""

    what: str
    found: str
    holds: bool | None


def checks_table(figures: Figures, footer: dict[str, str]) -> Table:
    """Return what a model that listens shows: a row for each check of each model.

    The model is `difftalk`, or without it each method but references and those that hear nothing.

    Args:
        figures: of all clips.
        footer: the protocol.
    """
    there = [m for m in first_seeds(figures.methods) if m in compared([m]) and m not in DEAF]
    models = ["difftalk"] if "difftalk" in there else there
    rows = [dict(zip(CHECK_COLUMNS, row, strict=True)) for model in models for row in _checks(model, figures)]
    return Table("checks", csv_columns(CHECK_COLUMNS), rows, footer)


def _checks(model: str, figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    """(method, check, found, verdict) of one model."""
    can_tell, why = expert_can_tell(figures)
    yield _sync_check(model, figures, can_tell, why)
    yield _gain_check(model, figures)
    yield _mouth_check(model, figures)


def expert_can_tell(figures: Figures) -> tuple[bool, str]:
    """Return whether the sync expert tells the truth from a method that hears nothing, and by which figures.

    It does where the interval of the truth's confidence is above that of `no_audio`, or without it of the
    copied reference, and it finds at least `MIN_TRUTH_IN_SYNC` of the true clips within ±1 frame.
    """
    truth = figures.interval(TRUTH, "sync_confidence")
    share = figures.means.get(TRUTH, {}).get("offset_within_1")
    if truth is None or share is None:
        return False, f"fewer than two clips of {TRUTH} have a confidence"
    deaf = _deaf_method(figures)
    chance = figures.interval(deaf, "sync_confidence") if deaf else None
    if chance is None:
        return (
            False,
            f"no method that hears nothing ({' or '.join(DEAF)}) has two clips to compare the truth with",
        )
    said = (
        f"{TRUTH} {_ends('sync_confidence', truth)}, {deaf} {_ends('sync_confidence', chance)}, "
        f"{share:.0%} of the true clips within ±1 frame"
    )
    return truth[0] > chance[1] and share >= MIN_TRUTH_IN_SYNC, said


def _deaf_method(figures: Figures) -> str | None:
    """The method that stands for chance: the first of `DEAF` with a confidence."""
    return next((m for m in DEAF if "sync_confidence" in figures.means.get(m, {})), None)


def _sync_check(model: str, figures: Figures, can_tell: bool, why: str) -> tuple[str, str, str, str]:
    column, deaf = "sync_confidence", _deaf_method(figures)
    what = f"{title(column, figures.protocol)} above {deaf or DEAF[0]}"
    difference = figures.difference(model, deaf, column) if deaf else None
    if difference is None:
        missing = f"no clip with a figure of both {model} and {deaf or ' or '.join(DEAF)}"
        return model, what, missing, NOT_COMPARED
    found = f"{_signed(column, difference)}; {why}"
    if not can_tell:
        return model, what, found, CANNOT_TELL
    return model, what, found, _verdict(difference.interval, difference.clips, 0.0)


def _gain_check(model: str, figures: Figures) -> tuple[str, str, str, str]:
    column, other = "psnr_mouth", "reference_copy"
    what = f"{title(column, figures.protocol)} at least {MIN_GAIN_DB:g} dB above {other}"
    difference = figures.difference(model, other, column)
    if difference is None:
        missing = f"no {other} in the run" if other not in figures.methods else "no clip with both figures"
        return model, what, missing, NOT_COMPARED
    found = f"{_signed(column, difference)}, in dB"
    return model, what, found, _verdict(difference.interval, difference.clips, MIN_GAIN_DB)


def _mouth_check(model: str, figures: Figures) -> tuple[str, str, str, str]:
    column = "mouth_corr"
    what = f"mouth opening follows the truth's, correlation at least {MIN_CORRELATION:g}"
    mean = figures.means[model].get(column)
    if mean is None:
        blind = f"not shown: the instrument scores the truth itself below {FLOORS[column]:g}"
        return model, what, blind if column in figures.hidden else "not measured", NOT_COMPARED
    ends = figures.interval(model, column)
    clips = figures.known(model, column)
    found = f"{figure_text(column, mean)} {_ends(column, ends)}".rstrip() + _few(clips)
    return model, what, found, _verdict(ends, clips, MIN_CORRELATION)


def _verdict(ends: Ends, clips: int, wanted: float) -> str:
    """By the interval alone: what lies on both sides of what is wanted is undecided, as are too few clips."""
    if ends is None or clips < FEW:
        return UNDECIDED
    return REACHED if ends[0] > wanted else MISSED if ends[1] < wanted else UNDECIDED


def _ends(column: str, ends: Ends) -> str:
    return f"[{figure_text(column, ends[0])}, {figure_text(column, ends[1])}]" if ends else ""


def _few(clips: int) -> str:
    return (
        "" if clips >= FEW else f" of {clips} {'clip' if clips == 1 else 'clips'}, of {FEW} that are needed"
    )


def _signed(column: str, found: Difference) -> str:
    sign = "+" if found.value >= 0 else ""
    text = f"{sign}{figure_text(column, found.value)} {_ends(column, found.interval)}".rstrip()
    return text + _few(found.clips)


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
