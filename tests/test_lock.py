"""The lock on a file: one holder at a time, who is waited for or who makes others refuse."""

import threading
from pathlib import Path

import pytest

from difftalk.runtime.errors import UserError
from difftalk.runtime.lock import file_lock


def test_without_waiting_a_second_holder_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    refused = pytest.raises(UserError, match="file is in use by another process")
    with file_lock(path, wait=False), refused, file_lock(path, wait=False):
        pass
    with file_lock(path, wait=False):
        assert path.read_text() == "content"


def test_waiting_holders_follow_one_another(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with file_lock(tmp_path / "file"):
            order.append("second")

    with file_lock(tmp_path / "file"):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.2)
        assert other.is_alive()
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]
