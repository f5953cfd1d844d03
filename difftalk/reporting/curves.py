"""Training curves: the loss of each model over its steps, as an SVG."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.runtime.checksums import verify
from difftalk.runtime.errors import UserError

GREY = "#888888"
STYLE: Any = {
    "svg.hashsalt": "difftalk",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
}


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a training log that have a step and a loss.

    Raises:
        UserError: if there is no log, it is not what was written, or a line is no entry.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; a training writes it into the folder of its model")
    lines = verify(path).read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines:
        raise UserError(f"{path}: an empty file, no training log")
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as e:
            raise UserError(f"{path}:{number}: no entry of a training log ({e})") from None
        if "step" in entry and isinstance(entry.get("loss"), int | float):
            yield entry


def curves(logs: dict[str, list[dict[str, Any]]]) -> str:
    """Return the loss over steps of each model as an inline SVG, the smoothed line over the raw one.

    Args:
        logs: of each model, entries with `step` and `loss`. The same logs give the same bytes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(11, 3.4), layout="constrained")
        for number, (name, log) in enumerate(logs.items()):
            steps = np.array([entry["step"] for entry in log], float)
            losses = np.array([entry["loss"] for entry in log], float)
            colour = f"C{number}"
            axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
            label = f"{name}, {steps[-1]:,.0f} steps" if len(steps) else name
            axes.plot(steps, smoothed(losses), color=colour, linewidth=1.6, label=label)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        every = [entry["loss"] for log in logs.values() for entry in log]
        if every and min(every) > 0 and max(every) > 2 * min(every):
            axes.set_yscale("log")
        axes.tick_params(colors=GREY, which="both")
        axes.xaxis.label.set_color(GREY)
        axes.yaxis.label.set_color(GREY)
        for side in axes.spines.values():
            side.set_color(GREY)
        axes.grid(alpha=0.2, color=GREY)
        axes.legend(frameon=False, labelcolor=GREY, fontsize=9)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def smoothed(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Return the running mean over `share` of the series, shorter at its ends."""
    half = max(int(len(values) * share / 2), 0)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
