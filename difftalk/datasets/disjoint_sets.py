"""Names that belong together, directly or through others."""

from collections.abc import Iterable, Sequence


class DisjointSets:
    """Disjoint sets of names, each called by its first name in the given order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._order = {name: k for k, name in enumerate(names)}
        self._above = {name: name for name in names}

    def join(self, a: str, b: str) -> None:
        """Put the sets of two names together."""
        a, b = self.of(a), self.of(b)
        first, second = sorted((a, b), key=self._order.__getitem__)
        self._above[second] = first

    def of(self, name: str) -> str:
        """Return the first name of the set."""
        above = self._above
        while (parent := above[name]) != name:
            # The way up is halved for the next one, which keeps it short.
            above[name] = name = above[parent]
        return name

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return how many of some names are in each set."""
        sizes: dict[str, int] = {}
        for name in names:
            sizes[self.of(name)] = sizes.get(self.of(name), 0) + 1
        return sizes
