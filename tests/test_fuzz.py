"""Damaged files of eleven containers: each ends as data or as its own reject."""

import re

from test_benchmarks import benchmark


def test_hundreds_of_damaged_files_end_as_data_or_as_their_reject() -> None:
    said = benchmark("fuzz.py", "--files", "264", "--workers", "2", "--limit", "30")
    assert re.search(r"^264 files: \d+ data, 0 failed, 0 wrong", said, re.MULTILINE), said
    ends = dict(re.findall(r"^(\w+): (.*)$", said, re.MULTILINE))
    assert len(ends) == 11
    assert all("cannot_decode" in ends[name] for name in ends), "the damage is real"
