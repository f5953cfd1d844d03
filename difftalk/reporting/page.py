"""The page of a run: tables, checks, gallery, funnel, training curves and protocol. No server, no network."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftalk.evaluation.columns import METRICS
from difftalk.reporting.checks import check_landmarks
from difftalk.reporting.curves import curves, read_log
from difftalk.reporting.methods import compared
from difftalk.reporting.render import render
from difftalk.reporting.tables import Table, read_table
from difftalk.runtime.files import finite, parse_csv, read_json
from difftalk.runtime.rejects import REASONS

if TYPE_CHECKING:
    from difftalk.reporting.panels import GalleryClip

# In the order of the page; the checks have a section of their own.
TABLES = ("comparison", "audio_smoothing", "conditions", "differences", "seeds", "subgroups")


def report_page(
    run: str,
    *,
    tables: Path,
    funnel: Path,
    quality: Sequence[Path],
    models: Sequence[Path],
    gallery: Sequence["GalleryClip"],
) -> str:
    """Return the page of a run.

    Args:
        run: name of the run; may be empty.
        tables: folder with `{table}.csv` and protocol.json.
        funnel: funnel.csv.
        quality: quality tables of the landmarks.
        models: folders with a log.jsonl.
        gallery: the clips whose videos are in `media/` next to the page.
    """
    protocol: dict[str, str] = read_json(tables / "protocol.json")
    read = {name: read_table(tables / f"{name}.csv", protocol) for name in TABLES}
    logs = {
        folder.name: list(read_log(folder / "log.jsonl")) for folder in sorted(models, key=lambda m: m.name)
    }
    logs = {name: log for name, log in logs.items() if log}
    return render(
        "report.html.j2",
        title=f"DiffTalk: {run}" if run else "DiffTalk",
        facts=_facts(protocol),
        tables=[(table, _compares(table)) for table in read.values()],
        missing=[
            f"{METRICS[column].title}: {text}"
            for column, text in protocol.items()
            if column in METRICS and text.startswith("not ")
        ],
        checks=read_table(tables / "checks.csv", protocol),
        gallery=gallery,
        funnel=_funnel_rows(funnel),
        landmarks=check_landmarks(quality),
        curves=curves(logs) if logs else None,
        protocol=protocol,
    )


def _compares(table: Table) -> bool:
    """Whether the page shows the rows: of an ablation with one method, the remarks say enough."""
    methods = [str(row["method"]) for row in table.rows if "method" in row and not row.get("published")]
    return table.name not in ("audio_smoothing", "conditions") or len(compared(methods)) > 1


def write_zip(folder: Path, target: Path, name: str) -> None:
    """Pack a folder under `name`/, in order and without times: the same page gives the same bytes."""
    with zipfile.ZipFile(target, "w") as packed:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(f"{name}/{path.relative_to(folder).as_posix()}", (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            is_text = path.suffix in {".html", ".svg"}
            entry.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            packed.writestr(entry, path.read_bytes())


def _facts(protocol: dict[str, str]) -> list[str]:
    """The line below the title."""
    facts = []
    if protocol.get("clips"):
        facts.append(protocol["clips"])
    if "crop_pixels" in protocol:
        facts.append(f"{protocol['crop_pixels']} px crops")
    if "clip_list_sha256" in protocol:
        facts.append(f"clip list {protocol['clip_list_sha256'][:12]}")
    return facts


def _funnel_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of funnel.csv with the share of all clips, in per cent."""

    def parse(row: dict[str, str]) -> dict[str, Any]:
        return {
            "stage": row["stage"],
            "reason": REASONS.get(row["reason"], row["reason"]),
            "clips": int(row["clips"]),
            "hours": finite(row["hours"]),
        }

    rows = parse_csv(path, None, parse)
    planned = max(rows[0]["clips"], 1) if rows else 1
    return [row | {"share": 100 * row["clips"] / planned} for row in rows]
