"""What the sampling of a run will cost: frames, steps, and the time at the rate that was measured before."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from difftalk.config.evaluation import EvaluatedClips
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import read_csv
from difftalk.runtime.sample_folder import TIMING
from difftalk.sampling.timing import COLUMNS, duration


@dataclass(frozen=True)
class Cost:
    """What is sampled by the models of a run.

    Args:
        models: their names.
        frames: of all of them together; None where neither a plan nor the configuration says it.
        steps: of the sampler.
        seconds: at the rates of earlier samples; None without any.
        exact: whether the frames are those of the plan.
    """

    models: tuple[str, ...]
    frames: int | None
    steps: int
    seconds: float | None
    exact: bool = True

    def line(self) -> str:
        """Return it in words."""
        many = f"{len(self.models)} model{'s' if len(self.models) > 1 else ''} ({', '.join(self.models)})"
        if self.frames is None:
            return f"Sampling by {many}: {self.steps} steps a frame; how many frames, the plan will say"
        about = "" if self.exact else "about "
        said = f"Sampling by {many}: {about}{self.frames:,} frames x {self.steps} steps"
        if self.seconds is None:
            return f"{said}; each job says how long it takes after its first frames"
        return f"{said}; one after the other {duration(self.seconds)}, at the rate of earlier samples"


def sampling_cost(
    run: Path,
    jobs: Iterable[tuple[str, str]],
    steps: int,
    clips: EvaluatedClips | None,
    expected: float | None = None,
) -> Cost | None:
    """Return what jobs of sampling will cost; None where no model samples.

    Args:
        run: results/RUN.
        jobs: model and test shard of each.
        steps: of the sampler.
        clips: which test clips are evaluated.
        expected: frames of a test shard, on the average, as the configuration has it before there is a plan.
    """
    wanted = list(jobs)
    if not wanted:
        return None
    frames = planned = _frames_of_shards(run, clips)
    if frames is None and expected is not None:
        frames = {shard: round(expected) for _, shard in wanted}
    rates = _rates(run)
    models = tuple(dict.fromkeys(model for model, _ in wanted))
    if frames is None:
        return Cost(models, None, steps, None)
    count = sum(frames.get(shard, 0) for _, shard in wanted)
    if not rates:
        return Cost(models, count, steps, None, planned is not None)
    mean = sum(rates.values()) / len(rates)
    seconds = sum(frames.get(shard, 0) * steps * rates.get(model, mean) for model, shard in wanted)
    return Cost(models, count, steps, seconds, planned is not None)


def _frames_of_shards(run: Path, clips: EvaluatedClips | None) -> dict[str, int] | None:
    """Frames of the test clips of each shard, as far as it can be said."""
    from difftalk.datasets.chosen import COLUMNS as CHOSEN
    from difftalk.datasets.clips import read_plan

    try:
        if clips is not None:
            rows = read_csv(run / "plan" / "evaluated.csv", CHOSEN)
            found = [(row["shard"], int(row["evaluated_frames"])) for row in rows]
        else:
            planned = read_plan(run / "plan" / "clips.parquet")
            found = [(clip.shard, clip.frames) for clip in planned if clip.split == "test"]
    except UserError:  # not there yet
        return None
    frames: dict[str, int] = {}
    for shard, count in found:
        frames[shard] = frames.get(shard, 0) + count
    return frames


def _rates(run: Path) -> dict[str, float]:
    """Seconds of a frame and step of each model that has sampled before."""
    rates = {}
    for folder in sorted((run / "samples").glob("*")):
        rows = []
        for file in folder.glob(f"*/{TIMING}"):
            try:
                rows += read_csv(file, COLUMNS, ("steps",))
            except UserError:
                continue
        rows = [row for row in rows if row.get("steps")]
        if done := sum(int(row["frames"]) * int(row["steps"]) for row in rows):
            rates[folder.name] = sum(float(row["seconds"]) for row in rows) / done
    return rates
