"""`features:PATH`: precomputed features, one row per sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aft.backbones.checks import check, find_table
from aft.backbones.specs import Spec
from aft.backbones.weights import file_hash, read_safetensors
from aft.errors import TeacherError
from aft.files import reading

if TYPE_CHECKING:
    import pyarrow as pa

_HEX_DIGITS = 32
_ID_BYTES = _HEX_DIGITS // 2
_SHOWN = 3

Matrix = NDArray[Any]


@dataclass
class FeatureTable:
    """Precomputed features that are read from a file.

    Attributes:
        spec: The specification as the user wrote it.
        dim: Feature dimension.
        identity: JSON values that determine the features.
        features: All rows, ``(n, dim)``, in the file's precision.
        row_of: Row number by sample id (16 bytes) or file name (str).
    """

    spec: str
    dim: int
    identity: dict[str, Any]
    features: Matrix
    row_of: dict[bytes | str, int]

    @classmethod
    def load(cls, spec: Spec) -> FeatureTable:
        """Read a ``.parquet``, ``.safetensors`` or ``.npy`` file.

        Raises:
            TeacherError: If the file is missing, damaged or not in a format described in
                docs/models.md, or rows of the same sample differ.
        """
        check(spec)
        path = find_table(spec)
        with reading(path, TeacherError):
            features, keys, files = _READERS[path.suffix](path)
        if features.ndim != 2 or features.dtype.kind not in "fiu" or 0 in features.shape:
            raise TeacherError(
                f"expected a numeric matrix (n, dim) in {path}, got shape {features.shape} and "
                f"type {features.dtype}"
            )
        if len(keys) != len(features):
            raise TeacherError(
                f"expected one sample id or file name per row in {path}, got {len(features)} rows "
                f"and {len(keys)} ids or names"
            )
        dim = int(features.shape[1])
        identity = {"source": "features", "sha256": file_hash(*files), "dim": dim}
        return cls(str(spec), dim, identity, features, _index(path, keys, features))

    def rows(self, ids: NDArray[np.uint8], files: Sequence[str]) -> NDArray[np.float32]:
        """Features of samples, looked up by sample id or file name.

        Args:
            ids: Sample ids, ``(n, 16)``.
            files: File names of the ``n`` samples in the data set.

        Returns:
            Features ``(n, dim)``, float32, in the order of the samples.

        Raises:
            TeacherError: If samples have no row, or rows contain NaN or infinite values; the
                message has the number of samples and the first names.
        """
        numbers = [
            self.row_of.get(sample_id.tobytes(), self.row_of.get(_plain(file), -1))
            for sample_id, file in zip(ids, files, strict=True)
        ]
        rows = np.asarray(numbers, dtype=np.int64)
        if (rows < 0).any():
            key = next(iter(self.row_of))
            raise TeacherError(
                f"{self.spec} has no features for {_summary(rows < 0, files)}; "
                f"its ids or file names look like {key.hex() if isinstance(key, bytes) else key!r}"
            )
        features = self.features[rows].astype(np.float32)
        broken = np.logical_not(np.isfinite(features).all(axis=1))
        if broken.any():
            raise TeacherError(
                f"{self.spec} has NaN or infinite features for {_summary(broken, files)}"
            )
        return features


def _index(path: Path, keys: Iterable[bytes | str], features: Matrix) -> dict[bytes | str, int]:
    row_of: dict[bytes | str, int] = {}
    differing = []
    for row, key in enumerate(keys):
        first = row_of.setdefault(key, row)
        if first != row and not np.array_equal(features[first], features[row], equal_nan=True):
            differing.append(key.hex() if isinstance(key, bytes) else key)
    if differing:
        raise TeacherError(
            f"{path} has {len(differing)} duplicate ids or file names with different features: "
            f"{_list(differing)}; keep one row per sample"
        )
    return row_of


def _read_npy(path: Path) -> tuple[Matrix, list[bytes | str], list[Path]]:
    names = path.with_suffix(".ids.txt")
    if not names.is_file():
        raise TeacherError(
            f"{path} needs a file {names.name} beside it, with one sample id (32 hex digits) or "
            "file name per line, in the order of the rows"
        )
    with reading(names, TeacherError):
        lines = names.read_text(encoding="utf-8").splitlines()
    features = np.load(path, mmap_mode="r", allow_pickle=False)
    return features, [_key(line.strip()) for line in lines], [path, names]


def _read_safetensors(path: Path) -> tuple[Matrix, list[bytes | str], list[Path]]:
    tensors = read_safetensors(path, TeacherError)
    if {"features", "sample_ids"} - set(tensors):
        raise TeacherError(
            f"expected tensors features (n, dim) and sample_ids (n, 16) uint8 in {path}, got "
            f"{', '.join(sorted(tensors)) or 'none'}"
        )
    features = tensors["features"]
    if features.is_floating_point() and features.element_size() == 2:
        features = features.float()  # numpy has no bfloat16
    ids = tensors["sample_ids"].numpy()
    if ids.dtype != np.uint8 or ids.ndim != 2 or ids.shape[1] != _ID_BYTES:
        raise TeacherError(
            f"expected sample_ids of shape (n, {_ID_BYTES}) and type uint8 in {path}, got "
            f"{ids.shape} and {ids.dtype}"
        )
    return features.numpy(), [row.tobytes() for row in ids], [path]


def _read_parquet(path: Path) -> tuple[Matrix, list[bytes | str], list[Path]]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    named = [name for name in ("sample_id", "file") if name in table.column_names]
    if not named:
        raise TeacherError(
            f"expected a column sample_id (32 hex digits) or file in {path}, got "
            f"{', '.join(table.column_names)}"
        )
    names = table.column(named[0]).to_pylist()
    keys = [_plain(str(name)) if named[0] == "file" else _hex_key(name) for name in names]
    if None in keys:
        wrong = [repr(name) for name, key in zip(names, keys, strict=True) if key is None]
        raise TeacherError(
            f"expected sample ids of {_HEX_DIGITS} hex digits in {path}, got {len(wrong)} invalid "
            f"ids: {_list(wrong)}"
        )
    features = _parquet_features(path, table.drop_columns(named))
    return features, [key for key in keys if key is not None], [path]


def _parquet_features(path: Path, table: pa.Table) -> Matrix:
    import pyarrow as pa

    try:
        if "features" not in table.column_names:
            columns = [column.to_numpy() for column in table.columns]
            return np.stack(columns, axis=1) if columns else np.empty((len(table), 0))
        column = table.column("features").combine_chunks()
        if column.null_count:
            raise TeacherError(f"{path} has {column.null_count} rows without features")
        widths = np.unique(pa.compute.list_value_length(column).to_numpy(zero_copy_only=False))
        if len(widths) != 1:
            raise TeacherError(
                f"expected rows of equal length in column features of {path}, got lengths "
                f"{', '.join(str(width) for width in widths[:8])}"
            )
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat).reshape(len(column), int(widths[0]))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise TeacherError(
            "expected a column features with lists of numbers, or one numeric column per "
            f"dimension, in {path}: {error}"
        ) from error


def _key(text: str) -> bytes | str:
    return _hex_key(text) or _plain(text)


def _hex_key(text: object) -> bytes | None:
    if not isinstance(text, str) or len(text) != _HEX_DIGITS:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def _plain(file: str) -> str:
    return file.replace("\\", "/").removeprefix("./")


def _summary(mask: NDArray[np.bool_], files: Sequence[str]) -> str:
    chosen = np.flatnonzero(mask)
    return f"{len(chosen)} of {len(mask)} samples: {_list([files[i] for i in chosen[:4]])}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")


_READERS = {".parquet": _read_parquet, ".safetensors": _read_safetensors, ".npy": _read_npy}
