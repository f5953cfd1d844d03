"""Remember what was computed of files: the workflow is read again for each job, and need not do it again.

The keys say all that a value depends on, such as a checksum of what was read. The file that holds them can be
deleted at any time, and one that was edited or cut off is as good as none.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

# Values in the file: of more, those that this process did not ask for are forgotten.
MOST = 5000

_file: Path | None = None
_known: dict[str, str] = {}
_asked: dict[str, str] = {}


def use_file(path: Path | None) -> None:
    """Take values from a file, and from now on keep them for it; None remembers nothing."""
    global _file
    _file = path
    _known.clear()
    _asked.clear()
    if path is not None:
        with contextlib.suppress(OSError, ValueError):
            digest, _, text = path.read_text(encoding="utf-8").partition("\n")
            if digest == _checksum(text):  # whole, and as it was written
                _known.update(json.loads(text))


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def recall(key: str) -> str | None:
    """Return the value of a key; None where it is not known."""
    if _file is not None and key in _known:
        _asked[key] = _known[key]
    return _asked.get(key)


def keep(key: str, value: str) -> None:
    """Remember the value of a key, if a file is in use."""
    if _file is not None:
        _asked[key] = value


def remembered(key: str, compute: Callable[[], str]) -> str:
    """Return the value of a key, computed where it is not known."""
    found = recall(key)
    if found is None:
        found = compute()
        keep(key, found)
    return found


def save() -> None:
    """Write the file, if there is something new. Where that fails, it is computed again next time."""
    if _file is None or _asked.keys() <= _known.keys():
        return
    _known.update(_asked)
    kept = _known if len(_known) <= MOST else _asked
    tmp = _file.with_name(f".{_file.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        _file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(kept)
        tmp.write_text(f"{_checksum(text)}\n{text}", encoding="utf-8")
        os.replace(tmp, _file)
    with contextlib.suppress(OSError):
        tmp.unlink()  # where it could not be put in place
