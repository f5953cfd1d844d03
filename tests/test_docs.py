"""The documentation finds what it speaks of: stages, files, links, headings, config keys and reasons."""

import re
from pathlib import Path

import pytest
import yaml

from difftalk import __version__
from difftalk.runtime import rejects
from difftalk.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("envs/*.md")]
)
IN_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Files of this repository that are named in running text, such as `tests/test_clock.py`.
NAMED_FILE = re.compile(
    r"(?<![\w/.{-])((?:difftalk|workflow|tests|benchmarks|tools|config|envs|docs)/[\w/.-]+?\.(?:py|smk|ya?ml|md|csv|json))\b"
)
# What was called so before is named in the history.
OLD_NAMES_ALLOWED = {"CHANGELOG.md"}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def table_rows(text: str) -> dict[str, list[str]]:
    """Rows of all tables whose first cell is a name in backticks: `{name: all cells of its rows}`."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `") and re.fullmatch(r"`[a-z_]+`", cells[0]):
            rows.setdefault(cells[0].strip("`"), []).extend(cells[1:])
    return rows


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_resolve(page: Path) -> None:
    for link in LINK.findall(IN_CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{named(page)}: no file {link}"
        if anchor:
            assert anchor in headings(target), f"{named(page)}: no heading {link}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_named_in_the_text_exist(page: Path) -> None:
    if page.name in OLD_NAMES_ALLOWED:
        return
    # NAME stands for what someone adds.
    missing = {
        name
        for name in NAMED_FILE.findall(page.read_text(encoding="utf-8"))
        if "NAME" not in name and not (ROOT / name).exists()
    }
    assert not missing


def test_every_page_of_the_documentation_is_linked_from_the_readme() -> None:
    links = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    pages = {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")}
    assert pages <= {link.partition("#")[0] for link in links}


def test_every_stage_has_its_rows_in_the_index() -> None:
    rows = table_rows((ROOT / "docs" / "stages.md").read_text(encoding="utf-8"))
    assert set(rows) == set(STAGES)
    for stage, cells in rows.items():
        assert any(f"../difftalk/stages/{stage}.py" in cell for cell in cells), stage
        assert any("../tests/test_" in cell for cell in cells), stage


def test_the_index_names_the_rule_the_log_and_the_outputs_of_each_stage() -> None:
    rows = table_rows((ROOT / "docs" / "stages.md").read_text(encoding="utf-8"))
    seen = set()
    for file in ROOT.glob("workflow/rules/*.smk"):
        for _, rule, body in re.findall(
            r"^( *)(?:rule|checkpoint) (\w+):\n((?:\1[ \t].*\n|\n)*)",
            file.read_text(encoding="utf-8"),
            re.MULTILINE,
        ):
            if rule not in STAGES:
                continue
            seen.add(rule)
            cells = " ".join(rows[rule])
            assert f"../workflow/rules/{file.name}" in cells, rule
            log = re.search(r'log:\s+"<run>/([^"]+)"', body)
            assert log and f"`{log[1]}`" in cells, rule
    assert seen == set(STAGES) - {"animate", "app", "cache", "dataset", "weights"}, (
        "which are for people, and no rules"
    )


def test_the_table_of_reasons_is_that_of_the_code() -> None:
    _, _, table = (ROOT / "docs" / "prepare.md").read_text(encoding="utf-8").partition("| reason | meaning |")
    assert {
        reason: cells[0].removesuffix(" |") for reason, cells in table_rows(table).items()
    } == rejects.REASONS


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_configuration_keys_named_in_the_text_exist(page: Path) -> None:
    """`section.key` in backticks, where `section` is one of the configuration."""
    text = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))
    sections = {key.partition(".")[0] for key in keys if "." in key}
    if page.name in OLD_NAMES_ALLOWED:
        return
    said = re.findall(r"`([a-z_]+\.[a-z_.]+?)(?::[^`]*)?`", page.read_text(encoding="utf-8"))
    files = (".py", ".md", ".csv", ".json", ".zip")
    assert {key for key in said if key.partition(".")[0] in sections and not key.endswith(files)} <= keys


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
