"""`features:PATH`: precomputed features, one row per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from aft.ids import ID_BYTES, content_id

if TYPE_CHECKING:
    import pyarrow as pa

_HEX_DIGITS = 2 * ID_BYTES
_SHOWN = 3
_ROUNDING = 0.02
"""Deviation of a sum of rounded probabilities from 1."""

Matrix = NDArray[Any]
_Read = tuple[Matrix, list[bytes | str], list[Path], list[str] | None]
"""Features, what names each row, the files read, and the names of the columns if they have any."""


@dataclass
class FeatureTable:
    """Precomputed features that are read from a file.

    Attributes:
        spec: The specification as the user wrote it.
        dim: Feature dimension.
        identity: JSON values that determine the features; for soft labels their scale as ``soft``,
            the names of their ``columns``, and whether all rows sum to 1.
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
            features, keys, files, columns = _READERS[path.suffix](path, spec.options)
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
        if "soft" in spec.options:
            identity |= _describe_soft_labels(spec, path, features, columns)
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


def _describe_soft_labels(
    spec: Spec, path: Path, features: Matrix, names: list[str] | None
) -> dict[str, Any]:
    scale = spec.options["soft"]
    if "columns" in spec.options:
        if names is not None:
            raise TeacherError(f"{path} has names of columns: leave out columns= in {spec}")
        names = spec.options["columns"].split(",")
    if names is None or len(names) != features.shape[1] or len(set(names)) != len(names):
        raise TeacherError(
            f"expected a different name for each of the {features.shape[1]} soft labels of {path}, "
            f"got {', '.join(names) if names else 'none'}; name the classes in the order of the "
            "columns: ?soft=…&columns=CLASS,CLASS"
        )
    rows = features.astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if scale == "probabilities" and ((rows < 0) | (rows > 1 + _ROUNDING)).any():
        raise TeacherError(
            f"expected probabilities from 0 to 1 in {path}, got values from {rows.min():.6g} to "
            f"{rows.max():.6g}; for outputs before a softmax or sigmoid use soft=logits"
        )
    sums = bool((np.abs(rows.sum(axis=1) - 1) <= _ROUNDING).all())
    return {"soft": scale, "columns": names, "rows_sum_to_1": sums}


def _read_npy(path: Path, options: Mapping[str, str]) -> _Read:
    _check_no_prefix(path, options)
    names = path.with_suffix(".ids.txt")
    if not names.is_file():
        raise TeacherError(
            f"{path} needs a file {names.name} beside it, with one sample id (32 hex digits) or "
            "file name per line, in the order of the rows"
        )
    with reading(names, TeacherError):
        lines = names.read_text(encoding="utf-8").splitlines()
    features = np.load(path, mmap_mode="r", allow_pickle=False)
    return features, [_key(line.strip()) for line in lines], [path, names], None


def _read_safetensors(path: Path, options: Mapping[str, str]) -> _Read:
    _check_no_prefix(path, options)
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
    if ids.dtype != np.uint8 or ids.ndim != 2 or ids.shape[1] != ID_BYTES:
        raise TeacherError(
            f"expected sample_ids of shape (n, {ID_BYTES}) and type uint8 in {path}, got "
            f"{ids.shape} and {ids.dtype}"
        )
    return features.numpy(), [row.tobytes() for row in ids], [path], None


def _read_parquet(path: Path, options: Mapping[str, str]) -> _Read:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    named = [name for name in _KEYS if name in table.column_names]
    if not named:
        raise TeacherError(
            f"expected a column {', '.join(_KEYS)} in {path}, which names the sample of each row, "
            f"got {', '.join(table.column_names)}"
        )
    names = table.column(named[0]).to_pylist()
    keys = [_KEYS[named[0]](name) for name in names]
    if None in keys:
        wrong = [repr(name) for name, key in zip(names, keys, strict=True) if key is None]
        what = f"sample ids of {_HEX_DIGITS} hex digits" if named[0] == "sample_id" else "texts"
        raise TeacherError(
            f"expected {what} in the column {named[0]} of {path}, got {len(wrong)} other values: "
            f"{_list(wrong)}"
        )
    prefix = options.get("prefix", "")
    chosen = [name for name in table.column_names if name.startswith(prefix)]
    table = table.select([name for name in chosen if name not in named])
    features = _parquet_features(path, table)
    columns = [name.removeprefix(prefix) for name in table.column_names]
    unnamed = "features" in table.column_names
    return features, [key for key in keys if key is not None], [path], None if unnamed else columns


def _check_no_prefix(path: Path, options: Mapping[str, str]) -> None:
    if "prefix" in options:
        raise TeacherError(
            f"the columns of {path} have no names, so prefix={options['prefix']} selects none; "
            "use a .parquet file"
        )


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


def _file_key(file: object) -> str | None:
    return _plain(file) if isinstance(file, str) else None


def _text_key(text: object) -> bytes | None:
    return content_id(text.encode()) if isinstance(text, str) else None


def _summary(mask: NDArray[np.bool_], files: Sequence[str]) -> str:
    chosen = np.flatnonzero(mask)
    return f"{len(chosen)} of {len(mask)} samples: {_list([files[i] for i in chosen[:4]])}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")


_KEYS: dict[str, Callable[[object], bytes | str | None]] = {
    **{"sample_id": _hex_key, "file": _file_key, "file_name": _file_key, "text": _text_key}
}
"""What a column makes of a cell to find the row of a sample, in the order of preference."""
_READERS = {".parquet": _read_parquet, ".safetensors": _read_safetensors, ".npy": _read_npy}
