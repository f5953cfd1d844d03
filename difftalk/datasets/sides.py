"""Check that both sides of the split have a clip left, before anything is trained on one of them."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from difftalk.datasets.clips import read_plan
from difftalk.runtime.errors import UserError
from difftalk.runtime.rejects import Reject, read_rejects


def require_both_sides(stage: str, plan: Path, rejects: Iterable[Path]) -> None:
    """Check that each side of the split has a clip that no stage rejected.

    Args:
        stage: that needs them, for the message.
        plan: plan/clips.parquet.
        rejects: rejects/STAGE/SHARD.csv of the stages so far.

    Raises:
        UserError: for a side without a clip, with the stages and reasons that its clips were lost for.
    """
    lost: dict[str, Reject] = {}
    for path in rejects:
        for reject in read_rejects(path):
            lost.setdefault(reject.clip_id, reject)
    planned = read_plan(plan)
    for side in ("train", "test"):
        clips = [clip.clip_id for clip in planned if clip.split == side]
        if all(clip_id in lost for clip_id in clips):
            counts = Counter(f"{lost[c].stage} {lost[c].reason}" for c in clips)
            said = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
            raise UserError(
                f"{stage}: no clip is left on the {side} side of the split: {len(clips)} planned; "
                f"rejected: {said}. funnel.html in the run's folder lists them: add videos, or loosen the "
                "gates that it names"
            )
