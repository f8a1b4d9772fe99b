"""Adam by row: torch's Adam on the rows of a batch, and nothing on the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aft.training.row_adam import RowAdam, RowAdamW, clip_gradients

KINDS = [(RowAdamW, torch.optim.AdamW), (RowAdam, torch.optim.Adam)]


def gradient_of(weight: Tensor, rows: list[int], seed: int, sparse: bool) -> Tensor:
    values = torch.randn(len(rows), weight.shape[1], generator=torch.Generator().manual_seed(seed))
    if sparse:
        return torch.sparse_coo_tensor(
            torch.tensor([rows]), values, weight.shape, check_invariants=True
        )
    return torch.zeros_like(weight).index_add_(0, torch.tensor(rows), values)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(("ours", "theirs"), KINDS)
def test_with_every_row_it_is_that_of_torch(ours: type, theirs: type, sparse: bool) -> None:
    torch.manual_seed(0)
    one, two = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.empty(5, 3))
    two.data.copy_(one.data)
    optimizer = ours([{"params": [one], "rows": True}], lr=0.1, weight_decay=0.3)
    other = theirs([two], lr=0.1, weight_decay=0.3)
    for step in range(6):
        rows = [0, 1, 2, 3, 4, 1, 1]  # a word may occur several times
        one.grad = gradient_of(one, rows, step, sparse)
        two.grad = gradient_of(two, rows, step, False)
        optimizer.step()
        other.step()
        assert one.grad is not None
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("sparse", [True, False])
def test_other_rows_stay(sparse: bool) -> None:
    torch.manual_seed(0)
    words, dense = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(3))
    before = words.detach().clone()
    groups = [{"params": [words], "rows": True}, {"params": [dense]}]
    optimizer = RowAdamW(groups, lr=0.1, weight_decay=0.5, fused=True)
    reference = nn.Parameter(dense.detach().clone())
    usual = torch.optim.AdamW([reference], lr=0.1, weight_decay=0.5)
    for step, rows in enumerate(([1, 4], [4, 5], [1])):
        words.grad = gradient_of(words, rows, step, sparse)
        dense.grad = torch.ones(3)
        reference.grad = torch.ones(3)
        optimizer.step()
        usual.step()
    assert torch.equal(words[[0, 2, 3]], before[[0, 2, 3]])
    assert (words[[1, 4, 5]] != before[[1, 4, 5]]).all()
    torch.testing.assert_close(dense, reference)
    # A row that had no gradient in the last step was left alone in it.
    again = RowAdamW([{"params": [nn.Parameter(before.clone())], "rows": True}], lr=0.1)
    again.load_state_dict(
        optimizer.state_dict() | {"param_groups": again.state_dict()["param_groups"]}
    )


@pytest.mark.parametrize("most", [0.1, 100.0])
def test_clipping_counts_sparse_gradients(most: float) -> None:
    words, dense = nn.Parameter(torch.zeros(6, 2)), nn.Parameter(torch.zeros(3))
    whole = nn.Parameter(torch.zeros(6, 2))
    words.grad = gradient_of(words, [1, 4, 4], 0, True)
    whole.grad = gradient_of(words, [1, 4, 4], 0, False)
    dense.grad = torch.ones(3)
    expected = torch.nn.utils.clip_grad_norm_([whole, dense], most)
    clipped = dense.grad.clone()
    dense.grad = torch.ones(3)
    norm = clip_gradients([words, dense, nn.Parameter(torch.zeros(1))], most)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(words.grad.to_dense(), whole.grad)
    torch.testing.assert_close(dense.grad, clipped)
