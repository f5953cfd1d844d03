"""Make the table of HDTF's clips from a checkout of the annotation files.

python tools/hdtf_table.py HDTF/HDTF_dataset --out difftalk/datasets/hdtf/clips.csv
"""

import argparse
import sys
from pathlib import Path

from difftalk.datasets.hdtf.annotations import read_annotations, write_table
from difftalk.runtime.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Write the table and print its counts; return the exit status, 2 for annotations that cannot be read."""
    parser = argparse.ArgumentParser(
        description="Make the table of HDTF's clips from a checkout of the annotations."
    )
    parser.add_argument("folder", type=Path, help="HDTF_dataset of https://github.com/MRzzm/HDTF")
    parser.add_argument("--out", type=Path, required=True, help="the table, CSV")
    given = parser.parse_args(arguments)
    try:
        rows = read_annotations(given.folder)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    write_table(given.out, rows)
    clips = [row for row in rows if row.index is not None]
    boxed = [row for row in clips if row.w is not None]
    print(
        f"{len({(row.subset, row.name) for row in rows})} videos, "
        f"{len({row.youtube_id for row in rows})} ids, "
        f"{len(clips)} clips of {sum(row.seconds for row in clips) / 3600:.2f} h, "
        f"{len(boxed)} with boxes of {sum(row.seconds for row in boxed) / 3600:.2f} h: {given.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
