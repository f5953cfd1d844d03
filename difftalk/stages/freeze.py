"""Stage `freeze`: the clips that a run kept, with the checksums of their files, to be planned from another day.

Links die. A table that was measured on these clips is measured on the same ones again by `frozen_plan: FILE`, or it says
which of them are missing, or come from another file.
"""

import csv
import dataclasses
from pathlib import Path

from difftalk.datasets.clips import read_plan
from difftalk.datasets.frozen import COLUMNS, SOURCE_COLUMNS, read_rows
from difftalk.runtime.files import atomic_file
from difftalk.runtime.rejects import read_rejects


def run(*, plan: Path, manifests: list[Path], rejects: list[Path], out: Path) -> None:
    """Write `out`, a CSV of the clips that no stage rejected.

    Args:
        plan: the clip table. manifests: `sources/{shard}.csv`. rejects: `rejects/{stage}/{shard}.csv`.
    """
    lost = {reject.clip_id for path in rejects for reject in read_rejects(path)}
    sums = {row["source_id"]: row["sha256"] for path in manifests for row in read_rows(path, SOURCE_COLUMNS)}
    kept = [clip for clip in read_plan(plan) if clip.clip_id not in lost]
    with atomic_file(out) as beside, beside.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(COLUMNS)
        for clip in sorted(kept, key=lambda c: c.clip_id):
            values = dataclasses.asdict(clip) | {"sha256": sums[clip.source_id]}
            values["box"] = " ".join(f"{v:g}" for v in clip.box or ())
            writer.writerow(["" if values[c] is None else values[c] for c in COLUMNS])
