"""A dataset whose items come with the teachers' stored features, for any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from aft.errors import InputError
from aft.features.shards import Ids
from aft.features.store import FeatureStore, Statistics
from aft.ids import ID_BYTES


class WithFeatures(Dataset[Any]):
    """A dataset whose items come with the teachers' features of the same rows.

    An item that is a dictionary gets the key ``teacher_features``; any other item becomes
    ``(item, teacher_features)``. The features are float32 ``(sum of dims,)``, as
    :class:`aft.TransferModel` and the losses take them. A data loader reads the features of a
    batch at once.

    Args:
        dataset: Any dataset with a length and an item per row. Items may be random views: a row's
            features are those of its input as it was when the ids were computed.
        ids: The content id of each row, shape ``(n, 16)``, uint8, see :func:`aft.sample_ids`.
        stores: The stored features of each teacher.

    Attributes:
        dims: The feature dimension of each teacher, for the losses.

    Raises:
        InputError: If there is not one id per row.
        StoreError: If a row has no features.
    """

    def __init__(self, dataset: Any, ids: Ids, stores: Sequence[FeatureStore]) -> None:
        if ids.shape != (len(dataset), ID_BYTES):
            raise InputError(
                f"Expected `ids` to have shape ({len(dataset)}, {ID_BYTES}), one id per row of the "
                f"dataset in the same order, but got {ids.shape}."
            )
        self.dataset = dataset
        self.ids = ids
        self.stores = tuple(stores)
        self.dims = [store.dim for store in self.stores]
        for store in self.stores:
            store.gather(ids[store.missing(ids)])  # raises an error if there are such rows

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> Any:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """The items of a batch; data loaders call it."""
        fetch = getattr(self.dataset, "__getitems__", None)
        items = fetch(rows) if fetch else [self.dataset[row] for row in rows]
        both = zip(items, torch.cat(self.features(rows), dim=1), strict=True)
        return [
            {**item, "teacher_features": row} if isinstance(item, dict) else (item, row)
            for item, row in both
        ]

    def features(self, rows: Sequence[int] | slice = slice(None)) -> list[Tensor]:
        """The features of some rows, or of all: one float32 tensor ``(n, dim)`` per teacher."""
        return [store.gather(self.ids[rows]) for store in self.stores]

    def statistics(self) -> list[Statistics]:
        """Mean and standard deviation over the rows for each teacher, for the losses."""
        return [store.statistics(self.ids) for store in self.stores]
