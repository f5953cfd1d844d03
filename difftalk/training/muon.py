"""Muon (Jordan et al. 2024): momentum, made orthogonal, is the step of each matrix and convolution."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SMALLEST_SIDE = 16  # of a matrix: below, orthogonality means little
# Jordan's polynomial of fifth degree, by which five rounds bring singular values near 1.
ROUNDS, A, B, C = 5, 3.4445, -4.7750, 2.0315
# An AdamW step is of about this size (Liu et al. 2025), so that both take the same learning rate.
ADAMW_STEP = 0.2


class Muon(torch.optim.AdamW):
    """Muon for the matrices and convolutions of a model, AdamW for its other parameters.

    `torch.optim.Muon` takes two-dimensional parameters only. Here a convolution (O, I, k, k) is the matrix
    (O, I * k * k), and embeddings (codebooks) go with AdamW.

    Args:
        model: whose parameters are trained.
        lr: learning rate of both.
        betas: of AdamW.
    """

    def __init__(self, model: nn.Module, lr: float, betas: tuple[float, float]) -> None:
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in model.parameters():
            is_matrix = parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= SMALLEST_SIDE
            (matrices if is_matrix and id(parameter) not in embeddings else others).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": matrices, "orthogonal": True},
            {"params": others, "orthogonal": False},
        ]
        super().__init__([g for g in groups if g["params"]], lr=lr, betas=betas, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the matrices, then the other parameters."""
        for group in self.param_groups:
            if group["orthogonal"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step_matrix(parameter, parameter.grad, group["lr"])
                        parameter.grad = None  # AdamW passes over it
        return super().step(closure)

    def _step_matrix(self, parameter: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[parameter]
        if not state:
            # AdamW expects a count of steps in every state that is loaded.
            state["step"], state["momentum"] = torch.tensor(0.0), torch.zeros_like(parameter)
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = gradient.lerp(state["momentum"], MOMENTUM).flatten(1)
        size = ADAMW_STEP * max(update.shape) ** 0.5
        parameter.sub_(orthogonal(update).view_as(parameter), alpha=lr * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix (m, n) with singular values near 1 and the singular vectors of `matrix`, float32."""
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    return (x.T if tall else x).float()
