"""Import released weights: check the file, unpack it, convert it, and record what it was.

Where a release publishes no hash, the first file's is recorded, and later files are compared with it.
"""

import fnmatch
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from difftalk.pretrained import table
from difftalk.pretrained.download import discard, download
from difftalk.pretrained.table import Weight
from difftalk.runtime.checksums import checksum
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file, atomic_folder
from difftalk.runtime.progress import say

# Writes the weights of a name, read from a released file, to a file or an existing folder; the last argument
# is what people know the file by. `difftalk.models.formats.convert` has it.
Convert = Callable[[str, Path, Path, str], None]


def fetch_weights(name: str, convert: Convert, url: str | None = None) -> None:
    """Download and import weights, unless they are there already.

    Args:
        name: of the table.
        convert: writes what is kept of the released file.
        url: where the released file is, if not where the table says.

    Raises:
        UserError: as `download` and `import_weights`. A partial download is kept; a file with a wrong hash
            or content is not.
    """
    url = url or table.row(name).url
    if (path := table.present(name)) is not None:
        say(f"{name}: is there already, {path}")
        return
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: neither http nor https")
    part = table.folder() / f".{name}.download"
    download(url, part, name)
    try:
        import_weights(name, part, convert, PurePosixPath(unquote(urlsplit(url).path)).name or name, url)
    except UserError:
        discard(part)  # not the released file, so no beginning of it either
        raise
    discard(part)


def import_weights(name: str, file: Path, convert: Convert, called: str, url: str) -> None:
    """Import weights from the released file, or from what a released archive holds.

    Args:
        name: of the table.
        file: on this machine.
        convert: writes what is kept of it.
        called: what people know `file` by, for messages and the record.
        url: where it comes from, for the record.

    Raises:
        UserError: if the hash or the content of the file is not that of `name`.
    """
    weight = table.row(name)
    sha256 = checksum(file)
    with _unpacked(name, weight, file, called) as content:
        # The table's hash is that of the release; what was taken out of it has its own.
        if (content != file or not weight.member) and not sha256.startswith(weight.sha256):
            raise UserError(
                f"{name}: {called} has sha256 {sha256}, not {weight.sha256}…: damaged or another file"
            )
        if weight.sha1 and (found := checksum(content, "sha1")) != weight.sha1:
            raise UserError(f"{name}: {called} has sha1 {found}, not {weight.sha1}: damaged or another file")
        content_sha256 = checksum(content)
        if _is_imported(name, called, content_sha256):
            return
        out = table.folder() / weight.kept_as
        try:
            with atomic_file(out, recorded=True) if out.suffix else atomic_folder(out) as tmp:
                convert(name, content, tmp, called)
        except UserError as e:
            # A person knows the file by its own name.
            raise UserError(f"{name}: {str(e).replace(str(content), called)}") from None
    note = {
        "name": name,
        "file": called,
        "sha256": sha256,
        "content_sha256": content_sha256,
        "url": url,
        "date": datetime.now(UTC).date().isoformat(),
        "licence": weight.licence,
    }
    with atomic_file(table.note_path(name)) as tmp:
        tmp.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    say(f"{name}: imported to {out}, {size_bytes(out) / 1e6:.1f} MB")


def size_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())


def _is_imported(name: str, called: str, content_sha256: str) -> bool:
    """Whether the same content has been imported before.

    Raises:
        UserError: if it was another content.
    """
    before = table.note(name)
    if before is None:
        return False
    if before.get("content_sha256", content_sha256) != content_sha256:
        raise UserError(
            f"{name}: {called} holds sha256 {content_sha256}, not {before['content_sha256']} as on "
            f"{before['date']}: another file; if it is to be trusted, delete {table.note_path(name)} first"
        )
    if (path := table.present(name)) is None:
        return False
    say(f"{name}: the same file is there already, {path}")
    return True


@contextmanager
def _unpacked(name: str, weight: Weight, file: Path, called: str) -> Iterator[Path]:
    """Yield the wanted file of a released archive, unpacked under a safe name.

    `file` itself is yielded where it is no archive. A torch file is a zip archive too; it has no
    member of the wanted name.
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
        _refuse_outside(name, called, [m.filename for m in members])
        if len(found) > 1:
            raise UserError(f"{name}: {called} has {len(found)} files {weight.member}")
        table.folder().mkdir(parents=True, exist_ok=True)
        content = table.folder() / f".{name}.unpacked"
        try:
            with archive.open(found[0]) as source, content.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            yield content
        except (zipfile.BadZipFile, EOFError) as e:
            raise UserError(f"{name}: {called} is damaged: {e}") from None
        finally:
            content.unlink(missing_ok=True)


def _refuse_outside(name: str, called: str, members: list[str]) -> None:
    """Refuse an archive with a member that would leave the folder it is unpacked to."""
    for member in members:
        inside = PurePosixPath(member.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"{name}: {called} has a member that would leave its folder: {member!r}")
