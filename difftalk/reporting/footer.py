"""The foot of the tables: how their figures were made, line by line."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from difftalk.config.report import TablesSettings
from difftalk.datasets.clips import read_columns
from difftalk.evaluation.columns import METRICS
from difftalk.evaluation.scores import Scores
from difftalk.reporting import intervals
from difftalk.reporting.figures import FLOORS, failed_instruments
from difftalk.reporting.methods import COMPARISON, REFERENCES, SEED
from difftalk.reporting.published import NOTE
from difftalk.reporting.tables import PROTOCOL, figure_text

BOLD = (
    "best value of a column where the interval of its paired difference to every other method excludes zero; "
    f"{', '.join(m for m in COMPARISON if m in REFERENCES)} are references and no competitors, and published "
    "figures, and those measured on all clips together, are not compared"
)


def footer_of(scores: Scores, plan: Path, settings: TablesSettings) -> dict[str, str]:
    """Return the protocol of the run, line by line.

    Args:
        scores: of all methods.
        plan: the clip table.
        settings: name of the run and further lines.
    """
    planned = read_columns(plan, "clip_id", "split", "identity")
    test = [row for row in planned if row["split"] == "test"]
    asked = scores.asked
    listed = hashlib.sha256("".join(f"{clip}\n" for clip in asked).encode()).hexdigest()
    identities = {row["identity"] for row in test if row["clip_id"] in set(asked)}
    footer = {
        "clips": f"{len(asked)} of {len(test)} planned test clips, {len(identities)} identities",
        "clip_list_sha256": listed,
        PROTOCOL: protocol_hash(scores.protocol),
        **scores.protocol,
        "intervals": intervals.METHOD,
        "bold": BOLD,
    }
    for column, mean in failed_instruments(scores).items():
        floor = FLOORS[column]
        footer[column] = (
            f"not shown: the instrument scores the truth itself at {figure_text(column, mean)} "
            f"(at least {floor:g} is needed)"
        )
    footer |= set_lines(scores) | files_line(scores)
    if settings.published:
        footer["published"] = NOTE
    if settings.run:
        footer = {"run": settings.run, **footer}
    seeds = {m: found[2] for m in sorted(scores.clips) if (found := SEED.fullmatch(m))}
    if seeds:
        footer["seeds"] = ", ".join(f"{method}: {seed}" for method, seed in seeds.items())
    return footer | {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in settings.notes.items()}


def files_line(scores: Scores) -> dict[str, str]:
    """Return which codecs, formats, sizes and rates the files of each method have, where that is known."""
    of_method = {
        method: sorted({file for row in of.values() if (file := row.get("file"))})
        for method, of in scores.clips.items()
    }
    alike: dict[str, list[str]] = {}
    for method, files in of_method.items():
        for file in files:
            alike.setdefault(file, []).append(method)
    lines = [f"{file}: {', '.join(methods)}" for file, methods in sorted(alike.items())]
    return {"files": "; ".join(lines)} if lines else {}


def protocol_hash(protocol: Mapping[str, str]) -> str:
    """Return the first 12 digits of a sha256 over how the figures were made, without versions of packages.

    Figures with the same one are comparable where their list of clips is the same, too.
    """
    lasting = {key: value for key, value in protocol.items() if key != "versions"}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:12]


def set_lines(scores: Scores) -> dict[str, str]:
    """Return what the figures of all clips together came with, such as the frames that they are of."""
    lines = {}
    for column in (c.name for c in METRICS.values() if c.of_set):
        said = {
            method: ", ".join(f"{key}: {value}" for key, value in of[column].about.items())
            for method, of in scores.of_set.items()
            if column in of and of[column].about
        }
        if len(set(said.values())) == 1:
            lines[f"{column}_of"] = next(iter(said.values()))
        elif said:
            lines[f"{column}_of"] = "; ".join(f"{method}: {text}" for method, text in said.items())
    return lines
