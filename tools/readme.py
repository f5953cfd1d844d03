"""Bring the demo's figures and pictures in README.md and docs/ up to those of a finished run.

    python tools/readme.py results/demo [--check]

It rewrites what stands between `<!-- demo:NAME -->` and `<!-- /demo:NAME -->`, copies the report's moving
picture to docs/images/demo.webp, and writes the figures of each clip to docs/demo_figures.csv. With --check
it changes nothing: it compares the run with docs/demo_figures.csv, and exits with 1 where a mean has left
the interval that is printed there and another seed's interval does not explain it.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from difftalk.evaluation.scores import by_voice, read_scores
from difftalk.reporting.figures import Figures
from difftalk.reporting.tables import Table, heading, md_cell, read_table
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import read_csv, read_json, write_csv

ROOT = Path(__file__).resolve().parents[1]
FIGURES, PICTURE = ROOT / "docs" / "demo_figures.csv", ROOT / "docs" / "images" / "demo.webp"
# Columns of each block of the pages; README's is a choice of them.
COLUMNS = {
    "main": ("psnr_mouth", "st_lpips", "lmd_mouth", "sync_offset", "sync_confidence", "mouth_corr"),
    "likeness": ("psnr", "ssim", "psnr_mouth", "ssim_mouth", "st_lpips"),
    "sync": (
        "sync_offset", "offset_within_1", "sync_confidence", "sync_distance", "mouth_corr", "lmd_mouth",
        "lmd_face",
    ),
    "motion": (
        "id_distance", "jitter", "tof_mouth", "lip_dynamics", "silent_lip", "lip_loudness",
        "mouth_sharpness", "method_fps",
    ),
    "voices": (
        "voice", "offset_within_1", "sync_confidence", "id_distance", "leakage", "leak_confidence",
    ),
}  # fmt: skip
# Of each clip, for the test that measures some of them again.
RECORDED = COLUMNS["main"]
Recorded = dict[tuple[str, str], dict[str, float]]


def markdown(table: Table, columns: Sequence[str]) -> str:
    """Return the method and some columns of a table in Markdown; columns without a figure are left out."""
    shown = [name for name in ("method", *columns) if name in table.shown]
    cells = dict(zip(table.shown, zip(*table.cells, strict=True), strict=True))
    rows = zip(*(cells[name] for name in shown), strict=True)
    lines = [
        f"| {' | '.join(heading(name, table.footer) for name in shown)} |",
        "|---" * len(shown) + "|",
        *(f"| {' | '.join(map(md_cell, row))} |" for row in rows),
    ]
    return "\n".join(lines)


def between(text: str, name: str, content: str, where: Path) -> str:
    """Return a page with the content between the marks of a block replaced.

    Raises:
        UserError: if the page has not exactly one such block.
    """
    block = re.compile(rf"(<!-- demo:{name} -->\n).*?(\n<!-- /demo:{name} -->)", re.DOTALL)
    replaced, count = block.subn(lambda found: f"{found[1]}{content}{found[2]}", text)
    if count != 1:
        raise UserError(f"{where}: {count} blocks <!-- demo:{name} -->, where there must be one")
    return replaced


def of_clips(run: Path) -> Recorded:
    """Return the recorded figures of each method and clip of a run, of the clips' own voices."""
    figures = Figures(read_scores(by_voice(sorted(run.glob("metrics/*/*.parquet")))["own"], of_set=False))
    found: Recorded = {}
    for method in figures.methods:
        for column in RECORDED:
            for clip, value in zip(figures.clips, figures.of_clips(method, column), strict=True):
                if value == value:
                    found.setdefault((method, clip), {})[column] = float(value)
    return found


def read_recorded(path: Path = FIGURES) -> Recorded:
    """Return what `write_recorded` wrote."""
    return {
        (row["method"], row["clip_id"]): {name: float(row[name]) for name in RECORDED if row[name]}
        for row in read_csv(path, ("method", "clip_id", *RECORDED))
    }


def write_recorded(found: Recorded, path: Path = FIGURES) -> None:
    """Write the figures of each method and clip, with six digits."""
    rows = [
        (method, clip, *(f"{row[name]:.6g}" if name in row else None for name in RECORDED))
        for (method, clip), row in found.items()
    ]
    write_csv(path, ("method", "clip_id", *RECORDED), rows, recorded=False)


def commit() -> str:
    """Return the commit of the checkout, for the sentence that names it."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def facts(run: Path, protocol: Mapping[str, str]) -> str:
    """Return the sentence of what was run, from the run itself."""
    facts_of = (read_json(path) for path in sorted(run.glob("models/*/training.json")))
    # First stage and sync expert have no shards.
    steps = {str(about["settings"]["steps"]) for about in facts_of if "shards_sha256" in about}
    training = f", {' or '.join(sorted(steps))} training steps" if steps else ""
    clips = protocol["clips"].replace(" planned test clips", " test clips").replace("identities", "speakers")
    return f"`make demo` at commit {commit()}: {clips}, {protocol['crop_pixels']} px{training}."


def write_pages(run: Path) -> None:
    """Write the blocks of the pages, the picture and the recorded figures.

    Raises:
        UserError: if the run is not finished, or a page lacks a block: then nothing is written.
    """
    picture, recorded = run / "report" / "media" / "moving.webp", of_clips(run)
    if not picture.is_file():
        raise UserError(f"{picture} is missing: is the run finished? `make demo` makes it")
    protocol = read_json(run / "tables" / "protocol.json")
    comparison, voices = (
        read_table(run / "tables" / f"{name}.csv", protocol) for name in ("comparison", "cross_driven")
    )
    said = facts(run, protocol)
    readme, results = ROOT / "README.md", ROOT / "docs" / "results.md"
    blocks = {
        readme: {"facts": said, "main": markdown(comparison, COLUMNS["main"])},
        results: {
            "facts": said,
            **{name: markdown(comparison, COLUMNS[name]) for name in ("likeness", "sync", "motion")},
            "voices": markdown(voices, COLUMNS["voices"]),
        },
    }
    pages = {page: page.read_text(encoding="utf-8") for page in blocks}
    for page, contents in blocks.items():
        for name, content in contents.items():
            pages[page] = between(pages[page], name, content, page)
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
    shutil.copyfile(picture, PICTURE)
    write_recorded(recorded)


def apart(run: Path) -> list[str]:
    """Return a line for each mean of the run that is further from the recorded one than both intervals reach.

    A training with another seed moves a mean by about its interval over clips; what moves it by more than
    its own and the recorded interval together is another method or another instrument.
    """
    recorded, found = read_recorded(), of_clips(run)
    lines = []
    for method in dict.fromkeys(method for method, _ in recorded):
        for column in RECORDED:
            sides = [
                [row[column] for (name, _), row in of.items() if name == method and column in row]
                for of in (recorded, found)
            ]
            if not sides[0]:
                continue
            if not sides[1]:
                lines.append(f"{method}, {column}: recorded, and not in {run}")
                continue
            means = [fmean(side) for side in sides]
            reach = sum(1.96 * stdev(side) / len(side) ** 0.5 for side in sides if len(side) > 1)
            if abs(means[0] - means[1]) > max(reach, 1e-3 * abs(means[0])):
                lines.append(f"{method}, {column}: {means[1]:.4g}, recorded is {means[0]:.4g} ± {reach:.2g}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or check; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run of the demo, results/demo")
    parser.add_argument("--check", action="store_true", help="compare only")
    given = parser.parse_args(arguments)
    try:
        if not given.check:
            write_pages(given.run)
            return 0
        lines = apart(given.run)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print("\n".join(lines) or "The run has the figures that are written down.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
