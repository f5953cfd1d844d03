"""List, fetch and import pretrained weights, and convert checkpoints in the LDM/DiffTalk format."""

from pathlib import Path

from difftalk.runtime.arguments import InputFile, InputFolder, OutputFile, OutputFolder


def show() -> None:
    """Print the table of pretrained weights: which are here, and where the others come from."""
    from difftalk.pretrained import table
    from difftalk.pretrained.importing import size_bytes

    rows = [("name", "there", "size", "needed by", "licence", "sha256", "URL")]
    for name, weight in table.WEIGHTS.items():
        path = table.present(name)
        size = "" if path is None else f"{size_bytes(path) / 1e6:.1f} MB"
        known = weight.sha256 or (f"sha1 {weight.sha1}" if weight.sha1 else "none published")
        if path is not None:
            known = table.recorded(name) or known
        there = "no" if path is None else "yes"
        rows.append((name, there, size, weight.needed_by, weight.licence, known, weight.url))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"in {table.folder()}:")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fetch(names: list[str], *, url: str | None = None) -> None:
    """Download pretrained weights and convert them; what is there already is left as it is.

    Args:
        names: as `difftalk weights list` has them; all are tried, whatever becomes of the first.
        url: another place that has the released file of the one name given.

    Raises:
        UserError: naming each that failed, why, and how else to get it.
    """
    from difftalk.pretrained import table
    from difftalk.pretrained.importing import fetch_weights
    from difftalk.runtime.errors import UserError

    for name in names:
        table.row(name)
    if url is not None and len(names) != 1:
        raise UserError(f"--url is of one file, and {len(names)} names are given")
    failed = []
    for name in dict.fromkeys(names):
        try:
            fetch_weights(name, _convert, url)
        except UserError as e:
            failed.append(f"{e}; or get the file elsewhere and `difftalk weights import {name} FILE`")
    if failed:
        raise UserError("; ".join(failed))


def import_file(name: str, file: InputFile) -> None:
    """Convert pretrained weights from a file on this machine.

    Args:
        name: as `difftalk weights list` has it.
        file: the released file, or what a released archive holds.

    Raises:
        UserError: if the file does not exist, or its hash or content is not that of `name`.
    """
    from difftalk.pretrained import table
    from difftalk.pretrained.importing import import_weights
    from difftalk.runtime.errors import UserError

    url = table.row(name).url
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    import_weights(name, file, _convert, file.name, url)


def import_model(file: InputFile, *, out: OutputFolder) -> None:
    """Convert a checkpoint of DiffTalk's released code to a model folder.

    Args:
        file: the .ckpt file.
        out: the model folder to write.
    """
    from difftalk.sampling.ldm_checkpoint import import_checkpoint

    import_checkpoint(file, out)


def export_model(folder: InputFolder, *, out: OutputFile) -> None:
    """Convert a model folder to a checkpoint of DiffTalk's released code.

    Args:
        folder: the model folder.
        out: the .ckpt file to write.
    """
    from difftalk.sampling.ldm_checkpoint import export_checkpoint

    export_checkpoint(folder, out)


def _convert(name: str, file: Path, out: Path, called: str) -> None:
    """Convert with torch, which is imported only when there is a file to convert."""
    from difftalk.models.formats.convert import convert

    convert(name, file, out, called)


# What follows `difftalk weights` on the command line.
ACTIONS = {
    "list": show,
    "fetch": fetch,
    "import": import_file,
    "import-model": import_model,
    "export-model": export_model,
}
