"""Parameters, peak memory, FLOPs and least time of every stage on a GPU, at the paper's sizes. Needs no GPU.

python benchmarks/paper_size.py [--card H100 ...] [--only denoiser ...]

The networks are those of `config/hdtf256.yaml` and `config/hdtf512.yaml`, run by the code of the stages on
tensors without content (`live_memory.py`). *Peak* is of the tensors alone: the CUDA context (0.5 GB), what
cuDNN needs inside a kernel, and fragmentation come on top. *Bound*: no code that does the same sums is
faster, at the card's rates; that is the FLOPs, or reading the weights once a pass where that takes longer,
and after it what the optimiser reads and writes. *Unfused*: every operation reads its inputs and writes its
outputs, as without `torch.compile`, each at its own bound. Rates are those of datasheets; products are taken
to reach 80 % of them, as a large one does on an H100. At the end come the largest batches that fit, and what
the paper's data cost in hours at `--share` of the bound.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paper_stages import MEASURED, Size

GB = 1e9
# Of a card's memory, for context, workspaces and fragmentation.
LEFT_FREE = 0.1
# 790 of 990 TFLOP/s in a large bf16 product on an H100; taken for the others too.
REACHED = 0.8
# Frames of HDTF as `config/hdtf256.yaml` splits it, if no video were missing: of 98 and of 338 clips.
TRAINED, TESTED = 121_350, 440_850
CARDS_OF_A_NODE = 8


@dataclass(frozen=True)
class Card:
    """A GPU by its datasheet; dense products that accumulate in float32.

    Args:
        memory_gb: of it.
        bf16: TFLOP/s.
        tf32: TFLOP/s.
        fp32: TFLOP/s, without tensor cores.
        bandwidth: of the memory, TB/s.
    """

    memory_gb: int
    bf16: float
    tf32: float
    fp32: float
    bandwidth: float

    def computing_s(self, flops: float, rate: str) -> float:
        """Return the seconds of FLOPs at the rate `bf16`, `tf32` or `fp32`."""
        return flops / (REACHED * 1e12 * float(getattr(self, rate)))

    def moving_s(self, traffic: float) -> float:
        """Return the seconds in which so many bytes are read or written."""
        return traffic / (1e12 * self.bandwidth)


CARDS = {
    "RTX 3090": Card(24, 71, 35.6, 35.6, 0.94),
    "RTX 4090": Card(24, 165, 82.6, 82.6, 1.01),
    "L40S": Card(48, 362, 183, 91.6, 0.86),
    "A100": Card(80, 312, 156, 19.5, 2.0),
    "H100": Card(80, 990, 495, 67, 3.35),
    "H200": Card(141, 990, 495, 67, 4.8),
}


@dataclass(frozen=True)
class Work:
    """A piece of the paper's work.

    Args:
        name: of it.
        passes: stage, frames of a pass, and how many passes.
        together: how a pass is divided among the cards of a node, in frames; else each card has passes of its
            own. 0: it runs on one card only.
    """

    name: str
    passes: tuple[tuple[str, int, float], ...]
    together: int | None = None


WORK = (
    Work("`train`, one of six models: 192,000 steps of 64", (("denoiser, training", 64, 192_000),), 8),
    Work(
        "`sample`, one of six models: 200 steps, 440,850 frames",
        (
            ("encode, 256 px", 8, 2 * TESTED / 8),
            ("sampling, 200 steps, bf16 weights", 20, TESTED / 20),
            ("decode, 256 px", 8, TESTED / 8),
        ),
    ),
    Work(
        "the same in 10 steps",
        (
            ("encode, 256 px", 8, 2 * TESTED / 8),
            ("sampling, 10 steps, bf16 weights", 20, TESTED / 20),
            ("decode, 256 px", 8, TESTED / 8),
        ),
    ),
    Work("`encode`: 121,350 frames, with and without mask", (("encode, 256 px", 8, 2 * TRAINED / 8),)),
    Work(
        "`landmarks`: 562,200 frames, a fifth of them searched",
        (
            ("landmarks, S3FD", 8, (TRAINED + TESTED) / 5 / 8),
            ("landmarks, 2DFAN-4", 49, (TRAINED + TESTED) / 49),
        ),
    ),
    Work(
        "`autoencoder` of 512 px: 200,000 steps of 16, checkpointed",
        (("first stage, training, 512 px, checkpointed", 16, 200_000),),
        0,
    ),
)


def bound_s(size: Size, card: Card) -> float:
    """Return the seconds that no code can go below."""
    computing = sum(card.computing_s(flops, rate) for rate, flops in size.flops.items())
    return max(computing, card.moving_s(size.read)) + card.moving_s(size.updated)


def unfused_s(size: Size, card: Card) -> float:
    """Return the seconds of all operations one after another, each at its own bound."""
    return size.repeats * sum(
        max(card.computing_s(operation.flops, operation.rate), card.moving_s(operation.traffic))
        for operation in size.operations
    )


def largest_batch(sizes: Iterable[Size], memory_gb: float) -> int:
    """Return how many frames fit, by a straight line through the two largest batches."""
    few, many = sorted(sizes, key=lambda size: size.frames)[-2:]
    slope = (many.peak - few.peak) / (many.frames - few.frames)
    return max(0, int((memory_gb * GB * (1 - LEFT_FREE) - many.peak) / slope + many.frames))


def stages_table(sizes: Iterable[Size], name: str) -> str:
    """Return a row for each stage and batch, with the least time on a card, in Markdown."""
    card, rows = CARDS[name], []
    for size in sizes:
        bound = bound_s(size, card)
        figures = [f"{size.parameters / 1e6:.1f}", f"{size.held / GB:.2f}", f"{size.peak / GB:.2f}"]
        figures += [_short(sum(size.flops.values()) / 1e12)]
        figures += [_short(1e3 * bound), _short(1e3 * unfused_s(size, card)), _short(size.frames / bound)]
        rows.append([size.stage, str(size.frames), *figures])
    heads = ["stage", "frames", "parameters, M", "held, GB", "peak, GB", "TFLOP"]
    return markdown([*heads, f"bound, ms ({name})", "unfused, ms", "frames/s at the bound"], rows)


def memory_table(sizes: Iterable[Size]) -> str:
    """Return the largest batches by the memory of a card, in Markdown."""
    families: dict[str, list[Size]] = {}
    for size in sizes:
        families.setdefault(size.stage, []).append(size)
    memories = sorted({card.memory_gb for card in CARDS.values()})
    rows = [
        [stage, *(str(largest_batch(family, gb)) for gb in memories)]
        for stage, family in families.items()
        if len(family) > 1
    ]
    return markdown(["frames that fit", *(f"{gb} GB" for gb in memories)], rows)


def hours_table(sizes: Sequence[Size], share: float) -> str:
    """Return the hours of the paper's work on one card and on eight at a share of the bound, in Markdown."""
    known = {(size.stage, size.frames): size for size in sizes}
    rows = []
    for work in WORK:
        if all((stage, frames) in known for stage, frames, _ in work.passes):
            cells = [_hours(work, known, card, share) for card in CARDS.values()]
            rows.append([work.name, *cells])
    return markdown([f"hours at {share:.0%} of the bound, 1 / 8 cards", *CARDS], rows)


def _hours(work: Work, known: dict[tuple[str, int], Size], card: Card, share: float) -> str:
    one = sum(number * bound_s(known[stage, frames], card) for stage, frames, number in work.passes)
    several: float | None = one / CARDS_OF_A_NODE
    if work.together is not None:
        ((stage, _, number),) = work.passes
        part = known.get((stage, work.together))
        several = None if part is None else number * bound_s(part, card)
    said = [_short(x / 3600 / share) for x in (one, several) if x]
    return " / ".join(said)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, the first column to the left."""
    lines = ["| " + " | ".join(line) + " |" for line in (heads, *rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(heads) - 1), *lines[1:]])


def _short(value: float) -> str:
    """Return a number with two or three digits that count, and no exponent."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--card", nargs="+", default=["H100"], choices=[*CARDS])
    parser.add_argument("--only", nargs="+", default=[*MEASURED], choices=[*MEASURED], help="parts")
    parser.add_argument("--share", type=float, default=0.45, help="of the bound that is reached")
    args = parser.parse_args()
    sizes: list[Size] = []
    for part in args.only:
        for size in MEASURED[part]():
            print(f"{size.stage}, {size.frames} frames: {size.peak / GB:.2f} GB", flush=True)
            sizes.append(size)
    tables = [stages_table(sizes, card) for card in args.card]
    print(*tables, memory_table(sizes), hours_table(sizes, args.share), sep="\n\n")


if __name__ == "__main__":
    main()
