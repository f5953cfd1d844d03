"""The rows of the tables: their order, which of them are references, and which are seeds of another."""

import re
from collections.abc import Collection

# Rows in the order of the paper's tables; `comparison` has every method but the ablations.
AUDIO_SMOOTHING = ("ground_truth", "no_smoothing", "difftalk")
CONDITIONS = ("a", "al", "alr", "am", "difftalk")
COMPARISON = ("ground_truth", "recompressed", "reconstruction", "reference_copy", "difftalk", "no_audio")

# Made from the true frames and by no method: they show what the columns are worth, and compete with nobody.
REFERENCES = frozenset({"ground_truth", "recompressed", "reconstruction", "reference_copy"})

# The name of a further seed of a model.
SEED = re.compile(r"(.+)-seed(\d+)")


def base_and_seed(method: str) -> tuple[str, int]:
    """Return the model that a method is a seed of, and the seed; the first has the model's name alone.

    >>> base_and_seed("difftalk-seed2"), base_and_seed("difftalk")
    (('difftalk', 2), ('difftalk', 1))
    """
    found = SEED.fullmatch(method)
    return (found[1], int(found[2])) if found else (method, 1)


def first_seeds(methods: Collection[str]) -> list[str]:
    """Return methods without further seeds, in the order of the paper's tables, and then by name."""
    known = dict.fromkeys([*COMPARISON, *AUDIO_SMOOTHING, *CONDITIONS])
    main = {method for method in methods if not SEED.fullmatch(method)}
    return [method for method in known if method in main] + sorted(main - set(known))


def compared(methods: Collection[str]) -> list[str]:
    """Return those that are no references, in the given order."""
    return [method for method in methods if method not in REFERENCES]
