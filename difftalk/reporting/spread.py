"""On which clips methods differ most: the spread of a figure over the methods of a clip."""

from dataclasses import dataclass

from difftalk.evaluation.scores import Scores
from difftalk.reporting.figures import TRUTH, clip_figure
from difftalk.reporting.methods import compared, first_seeds
from difftalk.reporting.tables import figure_text, title

# The first that any two methods have: without the true frames there is no error of the mouth.
COLUMNS = ("psnr_mouth", "sync_confidence")


@dataclass(frozen=True)
class Spread:
    """The methods of a clip with the lowest and the highest figure in one column.

    Args:
        column: its name.
        title: what people call it.
        low: method and figure.
        high: method and figure.
    """

    column: str
    title: str
    low: tuple[str, float]
    high: tuple[str, float]

    @property
    def size(self) -> float:
        """The difference of the two."""
        return self.high[1] - self.low[1]

    def __str__(self) -> str:
        ends = (f"{figure_text(self.column, value)} ({method})" for method, value in (self.low, self.high))
        return f"{self.title} {' to '.join(ends)}"


def spreads(scores: Scores) -> dict[str, Spread]:
    """Return the spread of each clip that at least two methods have a figure of.

    Over the methods that compete with one another; where there is one, the references that are no copy of the
    true frames compete with it.
    """
    methods = compared(first_seeds(scores.clips))
    if len(methods) < 2:
        methods = [m for m in first_seeds(scores.clips) if m != TRUTH]
    for column in COLUMNS:
        found, name = {}, title(column, scores.protocol)
        for clip in scores.asked:
            values = {
                method: value
                for method in methods
                if (value := clip_figure(scores.clips[method].get(clip, {}), column)) is not None
            }
            if len(values) > 1:
                low, high = min(values, key=lambda m: values[m]), max(values, key=lambda m: values[m])
                found[clip] = Spread(column, name, (low, values[low]), (high, values[high]))
        if found:
            return found
    return {}
