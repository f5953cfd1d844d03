"""Parameters, peak memory, FLOPs and least time of every stage on a GPU, at the paper's sizes. Needs no GPU.

python benchmarks/paper_size.py [--card H100] [--only denoiser ...]

The networks are those of `config/hdtf256.yaml` and `config/hdtf512.yaml`, run by the code of the stages on tensors
without content (`live_memory.py`); autocast casts as on a GPU. *Peak* is of the tensors alone: the CUDA context
(0.5 GB), what cuDNN needs inside a kernel, and fragmentation come on top. *Bound*: no code can be faster, at the
card's rates; that is the FLOPs, or reading the weights once a pass where that takes longer, and after it the
optimiser's reading and writing. *Unfused*: every operation by itself reads its inputs and writes its outputs, as
without `torch.compile`, each at its own bound. Rates of the cards are those of their datasheets; matrix products
are taken to reach 80 % of them, as an H100's do.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass

from paper_stages import MEASURED, Size

GB = 1e9
# Of a card's memory, for context, workspaces and fragmentation.
LEFT_FREE = 0.1


@dataclass(frozen=True)
class Card:
    """A GPU by its datasheet: dense matrix products that accumulate in float32.

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

    def rate(self, name: str) -> float:
        """Return what matrix products reach, FLOP/s."""
        return REACHED * 1e12 * float(getattr(self, name))


# 790 of 990 TFLOP/s in a large bf16 product on an H100; taken for the others too.
REACHED = 0.8
CARDS = {
    "RTX 3090": Card(24, 71, 35.6, 35.6, 0.94),
    "RTX 4090": Card(24, 165, 82.6, 82.6, 1.01),
    "L40S": Card(48, 362, 183, 91.6, 0.86),
    "A100": Card(80, 312, 156, 19.5, 2.0),
    "H100": Card(80, 990, 495, 67, 3.35),
    "H200": Card(141, 990, 495, 67, 4.8),
}


def bound_s(size: Size, card: Card) -> float:
    """Return the seconds that no code can go below."""
    computing = sum(flops / card.rate(name) for name, flops in size.flops.items())
    reading = size.read / (1e12 * card.bandwidth)
    return max(computing, reading) + size.updated / (1e12 * card.bandwidth)


def unfused_s(size: Size, card: Card) -> float:
    """Return the seconds of all operations one after another, each at its own bound."""
    once = sum(
        max(operation.flops / card.rate(operation.rate), operation.traffic / (1e12 * card.bandwidth))
        for operation in size.operations
    )
    return once * size.repeats


def largest_batch(sizes: Iterable[Size], memory_gb: float) -> int:
    """Return how many frames fit, by a straight line through the two largest batches."""
    few, many = sorted(sizes, key=lambda size: size.frames)[-2:]
    slope = (many.peak - few.peak) / (many.frames - few.frames)
    return max(0, int((memory_gb * GB * (1 - LEFT_FREE) - many.peak) / slope) + many.frames)


def table(sizes: Iterable[Size], name: str) -> str:
    """Return the rows in Markdown, with the least time on a card."""
    card = CARDS[name]
    lines = [
        "| stage | frames | parameters, M | held, GB | peak, GB | TFLOP "
        f"| bound, ms, {name} | unfused, ms | frames/s at the bound |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for size in sizes:
        bound = bound_s(size, card)
        figures = [
            str(size.frames), f"{size.parameters / 1e6:.1f}", f"{size.held / GB:.2f}", f"{size.peak / GB:.2f}",
            f"{sum(size.flops.values()) / 1e12:.3g}", f"{1e3 * bound:.3g}",
            f"{1e3 * unfused_s(size, card):.3g}", f"{size.frames / bound:.3g}",
        ]  # fmt: skip
        lines.append(f"| {size.stage} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def fitting(sizes: Iterable[Size]) -> str:
    """Return the largest batches on cards of several sizes, in Markdown."""
    families: dict[str, list[Size]] = {}
    for size in sizes:
        families.setdefault(size.stage, []).append(size)
    memories = sorted({card.memory_gb for card in CARDS.values()})
    lines = [
        "| largest batch | " + " | ".join(f"{gb} GB" for gb in memories) + " |",
        "|---|" + "---:|" * len(memories),
    ]
    for stage, family in families.items():
        if len(family) > 1:
            batches = [str(largest_batch(family, gb)) for gb in memories]
            lines.append(f"| {stage} | " + " | ".join(batches) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--card", nargs="+", default=["H100"], choices=[*CARDS])
    parser.add_argument("--only", nargs="+", default=[*MEASURED], choices=[*MEASURED], help="parts")
    args = parser.parse_args()
    sizes: list[Size] = []
    for part in args.only:
        for size in MEASURED[part]():
            print(f"{size.stage}, {size.frames}: {size.peak / GB:.2f} GB", flush=True)
            sizes.append(size)
    for card in args.card:
        print(f"\n{table(sizes, card)}")
    print(f"\n{fitting(sizes)}")


if __name__ == "__main__":
    main()
