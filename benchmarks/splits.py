"""Count what one more source moves of the others: between shards, and between the sides of the split.

python benchmarks/splits.py

A table in Markdown: the mean of 60 lists that differ in names, of sources and shards dealt by rank and placed
by hash; and of groups of one to three videos on the test side.
"""

from statistics import mean

from difftalk.datasets.split import dealt, placed, split_groups

LISTS = 60
TEST_FRACTION = 0.25


def main() -> None:
    """Print the table."""
    print("| sources, shards | assigned | others that move | shards that change | largest over mean |")
    print("|---|---|---|---|---|")
    for sources, shards in ((24, 4), (40, 8), (64, 56), (300, 56)):
        for name, assign in (("dealt", dealt), ("placed", placed)):
            moved, changed, largest = [], [], []
            for number in range(LISTS):
                names = [f"{number} {k}" for k in range(sources)]
                new = f"{number} new"
                before, after = assign(names, shards), assign([*names, new], shards)
                movers = [n for n in names if before[n] != after[n]]
                moved.append(len(movers))
                changed.append(len({after[new], *(of[n] for n in movers for of in (before, after))}))
                counts = [list(before.values()).count(k) for k in range(shards)]
                largest.append(max(counts) * shards / sources)
            cells = (f"{sources}, {shards}", name, *(f"{mean(of):.1f}" for of in (moved, changed)))
            print(f"| {' | '.join(cells)} | {mean(largest):.2f} |")
    for groups in (10, 40, 300):
        moves, parts = [], []
        for number in range(LISTS):
            sizes = {f"{number} {k}": 1 + k % 3 for k in range(groups)}
            sides = split_groups(sizes, TEST_FRACTION, 1)
            later = split_groups({**sizes, f"{number} new": 1}, TEST_FRACTION, 1)
            moves.append(sum(sides[group] != later[group] for group in sizes))
            parts.append(sum(n for g, n in sizes.items() if sides[g] == "test") / sum(sizes.values()))
        print(
            f"{groups} groups: {mean(moves):.2f} change sides; on the test side {min(parts):.0%} to "
            f"{max(parts):.0%}, {TEST_FRACTION:.0%} asked for"
        )


if __name__ == "__main__":
    main()
