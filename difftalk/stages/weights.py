"""`difftalk weights`: show the table of weights by others, download rows of it, or import them from files.

Whichever way a file came, it is checked, unpacked, converted into a format of ours, and its hash written down. Where
a release publishes no hash, the first one that was written down is what later files are compared with.
"""

import difflib
import fnmatch
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from difftalk.pretrained import table as weights
from difftalk.pretrained.download import discard, download
from difftalk.pretrained.table import WEIGHTS, Weight
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file, atomic_folder, checksum
from difftalk.runtime.progress import say


def show() -> None:
    """Print the table: what is there, from where the rest can be had."""
    rows = [("name", "there", "size", "needed by", "licence", "sha256", "URL")]
    for name, weight in WEIGHTS.items():
        path = weights.present(name)
        size = "" if path is None else f"{_size(path) / 1e6:.1f} MB"
        known = weight.sha256 or (f"sha1 {weight.sha1}" if weight.sha1 else "none published")
        if path is not None:
            known = weights.recorded(name) or known
        there = "no" if path is None else "yes"
        rows.append((name, there, size, weight.needed_by, weight.licence, known, weight.url))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"in {weights.folder()}:")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fetch(*, names: list[str], url: str | None) -> None:
    """Download weights and import them; those that are there already are left as they are.

    Args:
        names: of the table; all are tried, whatever becomes of the first.
        url: another place that has the released file of the one name given.

    Raises:
        UserError: saying of each that failed why, and how else to get it. What a connection that was cut has
            brought is kept; a file with a wrong hash or content is not.
    """
    for name in names:
        _row(name)
    if url is not None and len(names) != 1:
        raise UserError(f"--url is of one file, and {len(names)} names are given")
    failed = []
    for name in dict.fromkeys(names):
        try:
            _fetch(name, url or WEIGHTS[name].url)
        except UserError as e:
            failed.append(f"{e}; or get the file elsewhere and `difftalk weights import {name} FILE`")
    if failed:
        raise UserError("; ".join(failed))


def _fetch(name: str, url: str) -> None:
    if (path := weights.present(name)) is not None:
        say(f"{name}: is there already, {path}")
        return
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: neither http nor https")
    part = weights.folder() / f".{name}.download"
    download(url, part, name)
    called = PurePosixPath(unquote(urlsplit(url).path)).name or name
    try:
        _import(name, part, called, url)
    except UserError:
        discard(part)  # not what it should be, so no beginning of it either
        raise
    discard(part)


def import_file(*, name: str, file: Path) -> None:
    """Import weights from a file on this machine: the released one, or what a released archive holds.

    Raises:
        UserError: if the file does not exist, or its hash or content is not that of `name`.
    """
    weight = _row(name)
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    _import(name, file, file.name, weight.url)


def _import(name: str, file: Path, called: str, url: str) -> None:
    from difftalk.models.formats.convert import convert

    weight = WEIGHTS[name]
    sha256 = checksum(file)
    with _unpacked(name, weight, file, called) as content:
        # The table's hash is that of the release; what was taken out of it has its own.
        if (content != file or not weight.member) and not sha256.startswith(weight.sha256):
            raise UserError(
                f"{name}: {called} has sha256 {sha256}, not {weight.sha256}…: damaged or another file"
            )
        if weight.sha1 and (found := checksum(content, "sha1")) != weight.sha1:
            raise UserError(f"{name}: {called} has sha1 {found}, not {weight.sha1}: damaged or another file")
        of_content = checksum(content)
        before = weights.note(name) or {}
        if before.get("content_sha256", of_content) != of_content:
            raise UserError(
                f"{name}: {called} holds sha256 {of_content}, not {before['content_sha256']} as on {before['date']}: "
                f"another file; if it is to be trusted, delete {weights.note_path(name)} first"
            )
        if before and (path := weights.present(name)) is not None:
            say(f"{name}: the same file is there already, {path}")
            return
        out = weights.folder() / weight.kept_as
        try:
            with (atomic_file if out.suffix else atomic_folder)(out) as beside:
                convert(name, content, beside, called)
        except UserError as e:
            # A person knows the file by its own name.
            raise UserError(f"{name}: {str(e).replace(str(content), called)}") from None
    note = {
        "name": name,
        "file": called,
        "sha256": sha256,
        "content_sha256": of_content,
        "url": url,
        "date": datetime.now(UTC).date().isoformat(),
        "licence": weight.licence,
    }
    with atomic_file(weights.note_path(name)) as beside:
        beside.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    say(f"{name}: imported to {out}, {_size(out) / 1e6:.1f} MB")


@contextmanager
def _unpacked(name: str, weight: Weight, file: Path, called: str) -> Iterator[Path]:
    """The wanted file of a released archive, unpacked under a name of ours; `file` itself where it is no such archive.

    A torch file is a zip archive too; it has no member of the wanted name.
    """
    if not weight.member or not zipfile.is_zipfile(file):
        yield file
        return
    with zipfile.ZipFile(file) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        found = [m for m in members if fnmatch.fnmatch(PurePosixPath(m.filename).name, weight.member)]
        if not found:
            archive.close()
            yield file
            return
        for member in members:
            inside = PurePosixPath(member.filename.replace("\\", "/"))
            if inside.is_absolute() or ".." in inside.parts:
                raise UserError(
                    f"{name}: {called} has a member that would leave its folder: {member.filename!r}"
                )
        if len(found) > 1:
            raise UserError(f"{name}: {called} has {len(found)} files {weight.member}")
        weights.folder().mkdir(parents=True, exist_ok=True)
        content = weights.folder() / f".{name}.unpacked"
        try:
            with archive.open(found[0]) as source, content.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            yield content
        except (zipfile.BadZipFile, EOFError) as e:
            raise UserError(f"{name}: {called} is damaged: {e}") from None
        finally:
            content.unlink(missing_ok=True)


def _row(name: str) -> Weight:
    if name not in WEIGHTS:
        near = difflib.get_close_matches(name, WEIGHTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(WEIGHTS)}"
        raise UserError(f"no weights are called {name}; {hint}")
    return WEIGHTS[name]


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())
