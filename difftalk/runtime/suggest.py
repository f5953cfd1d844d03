"""The nearest known word for a mistyped one."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like `word`; None where none is like it."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean WORD?`, or the list of what is known.

    >>> did_you_mean("stepps", ["steps", "seed"])
    'did you mean steps?'
    >>> did_you_mean("x", ["steps", "seed"])
    'known: steps, seed'
    """
    known = list(known)
    near = nearest(word, known)
    return f"did you mean {near}?" if near else f"known: {', '.join(known)}"
