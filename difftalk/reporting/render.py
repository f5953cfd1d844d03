"""Text from the template files in `templates/`: HTML with every value escaped, and Markdown."""

from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Return a template filled in.

    Args:
        template: a file of `templates/`. In `*.html.j2` every value is HTML-escaped, but those of `safe`; in
            `*.md.j2` values are escaped by the filter `md`.
        values: what the template names.
    """
    return str(_environment().get_template(template).render(**values))


def escape_markdown(text: str) -> str:
    r"""Return text as it may stand in a cell of a Markdown table: in one line, showing what it is.

    >>> escape_markdown("a|b <i>")
    'a\\|b &lt;i>'
    """
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


@cache
def _environment() -> Any:
    import jinja2  # here: a stage that only reads numbers starts without it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape_markdown
    return environment
