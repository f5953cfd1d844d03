"""Remember what was computed of files: the workflow is read again for each job, and need not do it again.

The keys say all that a value depends on, such as a checksum of what was read. The file that holds them can be
deleted at any time; without one, nothing is remembered.
"""

import contextlib
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
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        _known.update(
            {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}
        )


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
        tmp.write_text(json.dumps(kept), encoding="utf-8")
        os.replace(tmp, _file)
