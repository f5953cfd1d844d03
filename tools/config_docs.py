"""Write the JSON schema for editors and the table of keys, from the models of the configuration.

    python tools/config_docs.py

It writes workflow/schemas/config.schema.yaml, and the table between the marks of config/README.md.
"""

from pathlib import Path

import yaml

from difftalk.config.schema import with_key_table
from difftalk.config.workflow import config_schema

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
README = ROOT / "config" / "README.md"
HEADER = "# Made from difftalk/config by `make config-docs`: edit the models there.\n"


def schema_text() -> str:
    """Return the content of the schema file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **config_schema()}
    return HEADER + str(yaml.safe_dump(schema, sort_keys=False, width=110, allow_unicode=True))


def readme_text() -> str:
    """Return the README of the configuration with its table brought up to date."""
    return with_key_table(README.read_text(encoding="utf-8"), config_schema())


def main() -> None:
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    README.write_text(readme_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
