"""The page of a run: tables, checks, gallery, clips, training curves and protocol. No server, no network."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftalk.evaluation.columns import METRICS
from difftalk.evaluation.scores import Scores
from difftalk.reporting.checks import check_landmarks
from difftalk.reporting.curves import curves, read_log
from difftalk.reporting.funnel import first_rejects
from difftalk.reporting.intervals import FEW
from difftalk.reporting.methods import compared
from difftalk.reporting.render import render
from difftalk.reporting.summary import summary
from difftalk.reporting.tables import Table, csv_columns, read_table, title
from difftalk.runtime.files import finite, parse_csv, read_json
from difftalk.runtime.rejects import REASONS, REJECTING_STAGES, read_rejects

if TYPE_CHECKING:
    from difftalk.reporting.gallery import GalleryClip

# In the order of the page; the checks have a section of their own, and the differences another form.
TABLES = ("comparison", "audio_smoothing", "conditions", "cross_driven", "seeds", "subgroups")


def report_page(
    run: str,
    *,
    tables: Path,
    funnel: Path,
    quality: Sequence[Path],
    models: Sequence[Path],
    gallery: Sequence["GalleryClip"],
    scores: Scores,
    rejects: Sequence[Path] = (),
) -> str:
    """Return the page of a run.

    Args:
        run: name of the run; may be empty.
        tables: folder with `{table}.csv` and protocol.json.
        funnel: funnel.csv.
        quality: quality tables of the landmarks.
        models: folders with a log.jsonl.
        gallery: the clips whose videos are in `media/` next to the page.
        scores: of all methods, which name the clips that have none.
        rejects: the rejects of all stages and shards.
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
        summary=summary(read["comparison"], read["cross_driven"], protocol),
        tables=[(table, _compares(table)) for table in read.values()],
        differences=wide_differences(read_table(tables / "differences.csv", protocol)),
        missing=[
            f"{title(column, protocol)}: {text}"
            for column, text in protocol.items()
            if column in METRICS and text.startswith("not ")
        ],
        checks=read_table(tables / "checks.csv", protocol),
        gallery=gallery,
        rejected=_rejected(rejects),
        unscored=_unscored(scores),
        funnel=_funnel_rows(funnel),
        landmarks=check_landmarks(quality),
        curves=curves(logs) if logs else None,
        protocol=protocol,
    )


def _compares(table: Table) -> bool:
    """Whether the page shows the rows: of an ablation with one method, the remarks say enough."""
    methods = [str(row["method"]) for row in table.rows if "method" in row and not row.get("published")]
    return table.name not in ("audio_smoothing", "conditions") or len(compared(methods)) > 1


def wide_differences(table: Table) -> Table:
    """Return the table of differences with a column per metric, a row for each two methods that it compares.

    Those whose interval excludes zero are marked as the best are, if they are of enough clips.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    most = _most_clips(table)
    for found in table.rows:
        pair = _pair(found)
        row = rows.setdefault(
            (found["table"], pair), {"table": found["table"], "rows": pair, "best": "", "partial": ""}
        )
        metric, low, high = found["metric"], found["lo"], found["hi"]
        row |= {metric: found["difference"], f"{metric}_lo": low, f"{metric}_hi": high}
        if low is not None and high is not None and low * high > 0 and found["clips"] >= FEW:
            row["best"] += f"{metric};"
        if found["clips"] < most[found["table"], pair]:
            row["partial"] += f"{metric}={found['clips']};"
    columns = csv_columns(("rows", "table", *METRICS))
    return Table(table.name, columns, list(rows.values()), table.footer)


def _most_clips(table: Table) -> dict[tuple[str, str], int]:
    """The most clips that the differences of two rows of a table are of."""
    most: dict[tuple[str, str], int] = {}
    for row in table.rows:
        key = (row["table"], _pair(row))
        most[key] = max(most.get(key, 0), row["clips"])
    return most


def _pair(row: Mapping[str, Any]) -> str:
    return f"{row['method']} − {row['against']}"


def _rejected(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Each rejected clip, at the first stage that rejected it, in the order of the flow."""
    lost = first_rejects(reject for path in paths for reject in read_rejects(path)).values()
    ordered = sorted(lost, key=lambda r: (REJECTING_STAGES.index(r.stage), r.reason, r.clip_id))
    return [
        {"clip_id": r.clip_id, "stage": r.stage, "reason": REASONS[r.reason], "detail": r.detail}
        for r in ordered
    ]


def _unscored(scores: Scores) -> list[dict[str, str]]:
    """Each clip that a method has no score of, and why."""
    return [
        {"method": method, "clip_id": clip, "problem": row["problem"]}
        for method, of_method in sorted(scores.clips.items())
        for clip, row in sorted(of_method.items())
        if row["problem"] is not None
    ]


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
