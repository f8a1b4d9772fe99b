"""Adam for word vectors: only the rows of a batch change, so a step does not touch the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class _ByRow(torch.optim.Optimizer):
    """Treats parameter groups with ``rows=True`` by row.

    A row without a gradient keeps its value and its moments, as in :class:`torch.optim.SparseAdam`.
    Otherwise its moments would decay, and the weight would follow them, in every step in which its
    word does not occur. Gradients may be sparse, or dense with rows of zeros.
    """

    decoupled = True

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the rows first, then all other parameters."""
        done: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"] if group.get("rows") else ():
                if parameter.grad is not None:
                    done.append((parameter, parameter.grad))
                    self._step_rows(parameter, group)
                    parameter.grad = None
        loss = super().step(closure)
        for parameter, gradient in done:
            parameter.grad = gradient
        return loss

    def _step_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        rows, gradient = gradient_rows(parameter)
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device="cpu")
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        (beta, beta_2), step, lr = group["betas"], int(state["step"]), group["lr"]
        value = parameter.index_select(0, rows)
        if self.decoupled:
            value *= 1 - lr * group["weight_decay"]
        else:
            gradient = gradient + group["weight_decay"] * value
        mean = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta)
        square = state["exp_avg_sq"].index_select(0, rows)
        square.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        spread = square.div_(1 - beta_2**step).sqrt_().add_(group["eps"])
        value.addcdiv_(mean, spread, value=-lr / (1 - beta**step))
        parameter.index_copy_(0, rows, value)


class RowAdamW(_ByRow, torch.optim.AdamW):
    """AdamW, with groups by row."""


class RowAdam(_ByRow, torch.optim.Adam):
    """Adam, whose weight decay is part of the gradient, with groups by row."""

    decoupled = False


def gradient_rows(parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the rows of a matrix that have a gradient, and these gradients."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        parameter.grad = gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    rows = gradient.abs().amax(dim=1).nonzero()[:, 0]
    return rows, gradient[rows]


def clip_gradients(parameters: Iterable[Tensor], most: float) -> Tensor:
    """Clip the norm of all gradients, dense or sparse, in place; returns the norm before."""
    values = []
    for parameter in parameters:
        if parameter.grad is not None:
            sparse = parameter.grad.is_sparse
            values.append(gradient_rows(parameter)[1] if sparse else parameter.grad)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
    torch._foreach_mul_(values, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm
