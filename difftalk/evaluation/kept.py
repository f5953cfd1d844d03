"""What was measured of a clip, kept so that a killed job goes on and a new column measures nothing again.

An entry is one file of arrays per clip and instrument. It is named by a hash over what it depends on; the
files of other hashes are outdated, and go when a new one is written.
"""

import hashlib
import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.runtime.errors import UserError
from difftalk.runtime.files import atomic_file, inside

Arrays = dict[str, np.ndarray]

logger = logging.getLogger(__name__)


class Kept:
    """Measurements of the clips of one method and shard.

    Args:
        folder: where they are kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def measured(
        self, clip_id: str, instrument: str, depends_on: Mapping[str, Any], measure: Callable[[], Arrays]
    ) -> Arrays:
        """Return what `measure` returns, from its entry where there is one.

        Args:
            clip_id: the clip.
            instrument: name of what measures.
            depends_on: all that the result depends on, as JSON.
            measure: makes the arrays; NaN stands for a figure that there is not.
        """
        if self.folder is None:
            return measure()
        digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:24]
        entry = inside(self.folder, clip_id) / f"{instrument}-{digest}.npz"
        found = _read(entry)
        if found is None:
            found = measure()
            self._write(entry, found)
        return found

    @staticmethod
    def _write(entry: Path, arrays: Arrays) -> None:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(entry) as tmp, tmp.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            instrument = entry.name.rpartition("-")[0]
            for other in entry.parent.glob("*.npz"):
                if other != entry and other.name.rpartition("-")[0] == instrument:
                    other.unlink(missing_ok=True)
        except (OSError, UserError) as e:  # what was measured is not lost by a full disk
            logger.warning("%s: not kept (%s)", entry, e)


def _read(entry: Path) -> Arrays | None:
    try:
        with np.load(entry, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as e:
        logger.warning("%s: damaged, so it is measured again (%s)", entry, e)
        return None
