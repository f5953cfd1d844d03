"""Show and prune the cache of what was made of clips, which all runs and users of a store share."""

from pathlib import Path

from difftalk.config.numbers import Days, Gigabytes, Switch
from difftalk.runtime.arguments import InputFolder

DEFAULT = Path("results/store/cache")


def show(*, folder: InputFolder = DEFAULT) -> None:
    """Print how many entries each stage has, their size, and when they were last used.

    Args:
        folder: of the cache, as `cache.folder` of the configuration.
    """
    import time

    from difftalk.runtime.cache import DAY_S
    from difftalk.runtime.pruning import Entry, entries_in

    of_stage: dict[str, list[Entry]] = {}
    for entry in entries_in(folder):
        of_stage.setdefault(entry.stage if entry.is_whole else "(unfinished)", []).append(entry)
    rows = [("stage", "entries", "MB", "last used, days ago")]
    for stage, entries in of_stage.items():
        days = [(time.time() - entry.used) / DAY_S for entry in entries]
        size = sum(entry.size for entry in entries) / 1e6
        rows.append((stage, str(len(entries)), f"{size:.1f}", f"{min(days):.0f} to {max(days):.0f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"in {folder}:")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def prune(
    *,
    folder: InputFolder = DEFAULT,
    older_than: Days | None = None,
    max_gb: Gigabytes | None = None,
    dry_run: Switch = 0,
) -> None:
    """Delete entries that were not used for long, then the oldest of those that are too much.

    What is deleted is made again when it is needed. Other processes may use the cache meanwhile.

    Args:
        folder: of the cache, as `cache.folder` of the configuration.
        older_than: days; entries that were not used for longer are deleted.
        max_gb: gigabytes; what is used least recently is deleted until the cache is no larger.
        dry_run: 1 says what would be deleted, and deletes nothing.

    Raises:
        UserError: with neither `older_than` nor `max_gb`.
    """
    from difftalk.runtime.errors import UserError
    from difftalk.runtime.pruning import delete, entries_in, to_prune

    if older_than is None and max_gb is None:
        raise UserError("cache prune: give --older-than DAYS, --max-gb GB, or both")
    entries = list(entries_in(folder))
    gone = to_prune(entries, older_than, None if max_gb is None else max_gb * 1e9)
    kept = [] if dry_run else delete(gone)
    size = (sum(e.size for e in gone) - sum(e.size for e in kept)) / 1e6
    would = "would be deleted" if dry_run else "deleted"
    print(f"{folder}: {len(gone) - len(kept)} of {len(entries)} entries {would}, {size:.1f} MB")
    if kept:
        print(f"{len(kept)} are in folders in which you may delete nothing, such as {kept[0].path}")


# What follows `difftalk cache` on the command line.
ACTIONS = {"show": show, "prune": prune}
