"""Folders of a trained network: the files they need, and copying them without loading."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from difftalk.runtime.checksums import verify_folder
from difftalk.runtime.errors import UserError

CONFIG_NAME = "config.json"
# Those that come with the package.
ASSETS = Path(__file__).resolve().parents[1] / "assets"
RECORD_NAMES = ("training.json", "log.jsonl", "README.md")


@dataclass(frozen=True)
class ModelFolder:
    """The layout of one kind of folder: `config.json` and one file of safetensors.

    Args:
        kind: what such a folder is, for errors.
        weights_name: of the file of safetensors.
    """

    kind: str
    weights_name: str

    def check(self, folder: Path) -> None:
        """Check that the files are there, and those that the folder has checksums of are what was written.

        Raises:
            UserError: naming the one that is missing, damaged or was edited.
        """
        for name in (CONFIG_NAME, self.weights_name):
            if not (folder / name).is_file():
                raise UserError(f"{folder} is no {self.kind}: it has no {name}")
        verify_folder(folder)

    def copy(self, source: Path, out: Path) -> None:
        """Copy config, weights and records into the folder `out`, which exists, and nothing else.

        The config is written as diffusers writes it, without `_name_or_path`: that is a path on the machine
        that saved it.

        Raises:
            UserError: if a file that is needed is missing or damaged.
        """
        self.check(source)
        weights = source / self.weights_name
        reading = source / CONFIG_NAME
        try:
            config = json.loads(reading.read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)
            reading = weights
            # It reads the header, and compares it with the length of the file.
            with safe_open(weights, framework="np"):
                pass
            for reading in (source / name for name in RECORD_NAMES if (source / name).suffix != ".md"):
                lines = reading.read_text(encoding="utf-8") if reading.is_file() else ""
                for text in lines.splitlines() if reading.suffix == ".jsonl" else [lines or "null"]:
                    json.loads(text)
        except (SafetensorError, ValueError, AttributeError) as e:
            why = " ".join(str(e).split())[:200]
            raise UserError(f"{reading} is not that of a {self.kind}: {why}") from None
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (out / CONFIG_NAME).write_text(text, encoding="utf-8")
        shutil.copyfile(weights, out / self.weights_name)
        for name in RECORD_NAMES:
            if (source / name).is_file():
                shutil.copyfile(source / name, out / name)


def folder_of(source: str, name: str) -> Path:
    """Return the folder that a key of the configuration means: `embedded`, or a path.

    Args:
        source: the value of the key.
        name: of the folder in the package: `autoencoder` or `syncnet`.
    """
    return ASSETS / name if source == "embedded" else Path(source)


FIRST_STAGE = ModelFolder("first stage in diffusers' format (VQModel)", "diffusion_pytorch_model.safetensors")
SYNC_EXPERT = ModelFolder("sync expert", "model.safetensors")
