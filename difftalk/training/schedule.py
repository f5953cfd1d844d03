"""The learning-rate schedule of the first stage and of the sync expert."""

import math


def warmup_cosine(step: int, steps: int) -> float:
    """Return the factor of the peak learning rate at a step.

    A linear warm-up over the first 5 % of `steps` is multiplied with a cosine to zero.
    """
    warm_up = max(1, steps // 20)
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
