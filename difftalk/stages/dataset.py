"""Write the table of clips of a published dataset from what it publishes."""

from pathlib import Path
from typing import TYPE_CHECKING

from difftalk.config.dataset import Hdtf
from difftalk.runtime.arguments import InputFile, InputFolder, OutputFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from difftalk.datasets.adapters.published import Entry


def hdtf(*, out: OutputFile, settings: Hdtf | None = None) -> None:
    """Write the clips of HDTF, which come with the package.

    Args:
        out: the table to write, CSV.
        settings: keys of `dataset` for HDTF as JSON, such as `{"split": "identity"}`.
    """
    from difftalk.datasets.adapters.hdtf import read_hdtf

    _write(out, read_hdtf(settings or Hdtf()))


def talkvid(file: InputFile, *, out: OutputFile) -> None:
    """Write the clips of TalkVid.

    Args:
        file: one of its JSON lists of clips.
        out: the table to write, CSV.
    """
    from difftalk.datasets.adapters.talkvid import read_talkvid

    _write(out, read_talkvid(file), file)


def celebv_hq(file: InputFile, *, out: OutputFile) -> None:
    """Write the clips of CelebV-HQ.

    Args:
        file: celebvhq_info.json.
        out: the table to write, CSV.
    """
    from difftalk.datasets.adapters.celebv_hq import read_celebv_hq

    _write(out, read_celebv_hq(file), file)


def vfhq(folder: InputFolder, *, out: OutputFile) -> None:
    """Write the clips of VFHQ.

    Args:
        folder: its meta_info, unpacked.
        out: the table to write, CSV.
    """
    from difftalk.datasets.adapters.vfhq import read_vfhq

    _write(out, read_vfhq(folder), folder)


def voxceleb2(folder: InputFolder, *, out: OutputFile, meta: InputFile | None = None) -> None:
    """Write the utterances of VoxCeleb2.

    Args:
        folder: its folder txt, of dev, of test, or of both.
        out: the table to write, CSV.
        meta: its vox2_meta.csv, for gender and split.
    """
    from difftalk.datasets.adapters.voxceleb2 import read_voxceleb2

    _write(out, read_voxceleb2(folder, meta), folder)


def hallo3(folder: InputFolder, *, out: OutputFile) -> None:
    """Write the clips of Hallo3's training data.

    Args:
        folder: where its archives are unpacked, with the clips below videos/; `dataset.root` of the run.
        out: the table to write, CSV.
    """
    from difftalk.datasets.adapters.hallo3 import read_hallo3

    _write(out, read_hallo3(folder), folder)


def _write(out: Path, entries: "Iterable[Entry]", read: Path | str = "HDTF") -> None:
    """Write the table; entries that cannot be rows, with the reason, to `OUT.rejected.csv` beside it."""
    from difftalk.datasets.adapters.published import once
    from difftalk.datasets.table_file import write_rows
    from difftalk.runtime.errors import UserError
    from difftalk.runtime.files import write_csv
    from difftalk.runtime.progress import say

    found = list(once(entries))
    if not found:
        raise UserError(f"{read}: it lists no clip; {out} is not written")
    rejected = [e for e in found if e.row is None]
    if len(rejected) == len(found):
        raise UserError(f"{read}: no clip can be used: {rejected[0].name}: {rejected[0].problem}")
    write_rows(out, (e.row for e in found if e.row is not None))
    beside = out.with_suffix(".rejected.csv")
    if rejected:
        write_csv(beside, ("entry", "problem"), ([e.name, e.problem] for e in rejected), recorded=False)
    else:
        beside.unlink(missing_ok=True)
    said = f", {len(rejected)} that cannot be used are in {beside}" if rejected else ""
    say(f"dataset: {len(found) - len(rejected)} clips in {out}{said}")


# What follows `difftalk dataset` on the command line.
ACTIONS = {
    "hdtf": hdtf,
    "talkvid": talkvid,
    "celebv-hq": celebv_hq,
    "vfhq": vfhq,
    "voxceleb2": voxceleb2,
    "hallo3": hallo3,
}
