from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aft.errors import TeacherError
from aft.features.extraction import store_identity
from aft.features.store import FeatureStore, FeatureWriter
from aft.ids import content_id
from aft.teachers.feature_table import FeatureTable
from aft.teachers.loading import load_teacher
from helpers.damage import DAMAGES, HEADERS
from helpers.errors import says

IDS = np.random.default_rng(1).integers(0, 256, (6, 16), np.uint8)
FILES = [f"cats/{n}.png" for n in range(6)]
ROWS = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
HEX = [row.tobytes().hex() for row in IDS]


def write(path: Path, layout: str, rows: np.ndarray[Any, Any] = ROWS) -> str:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    if layout.startswith("npy"):
        path = path / "x.npy"
        np.save(path, rows)
        names = HEX if layout == "npy ids" else FILES
        path.with_suffix(".ids.txt").write_text("\n".join(names) + "\n")
    elif layout == "safetensors":
        path = path / "x.safetensors"
        tensors = {"features": torch.from_numpy(rows).half(), "sample_ids": torch.from_numpy(IDS)}
        save_file(tensors, path)
    else:
        path = path / "x.parquet"
        columns: dict[str, Any] = {"sample_id": HEX} if "ids" in layout else {"file": FILES}
        if "list" in layout:
            columns["features"] = rows.tolist()
        else:
            columns |= {f"f{column}": rows[:, column] for column in range(rows.shape[1])}
        pq.write_table(pa.table(columns), path)
    return f"features:{path}"


LAYOUTS = ["npy ids", "npy files", "safetensors", "parquet ids list", "parquet files columns"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tables_give_rows_in_any_order(tmp_path: Path, layout: str) -> None:
    table = load_teacher(write(tmp_path, layout))
    assert isinstance(table, FeatureTable)
    assert table.dim == 3
    order = np.array([4, 0, 0, 5])
    rows = table.rows(IDS[order], [FILES[i] for i in order])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, ROWS[order], atol=2e-3 if layout == "safetensors" else 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_and_broken_rows_are_counted_and_named(tmp_path: Path, layout: str) -> None:
    broken = ROWS.copy()
    broken[1, 0], broken[2, 2] = np.nan, np.inf
    table = load_teacher(write(tmp_path, layout, broken))
    assert isinstance(table, FeatureTable)
    ids = np.concatenate([IDS[:3], IDS[:4] + 1])
    files = [*FILES[:3], *(f"new/{n}.png" for n in range(4))]
    with pytest.raises(TeacherError) as error:
        table.rows(ids, files)
    assert says(error.value, "4 of 7", "new/0.png, new/1.png, new/2.png …")
    with pytest.raises(TeacherError) as error:
        table.rows(IDS, FILES)
    assert says(error.value, "2 of 6", "cats/1.png, cats/2.png")
    assert table.rows(IDS[3:], FILES[3:]).shape == (3, 3)


def test_table_identity_is_of_the_content(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    one, same, other = (
        load_teacher(write(folder, "npy ids", rows)).identity
        for folder, rows in zip(folders, (ROWS, ROWS, ROWS + 1), strict=True)
    )
    assert one == same
    assert one != other


def test_two_rows_of_a_sample_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, ROWS)
    path.with_suffix(".ids.txt").write_text("\n".join([*FILES[:4], "./cats/0.png", FILES[1]]))
    with pytest.raises(TeacherError) as error:
        load_teacher(f"features:{path}")
    assert says(error.value, path, "cats/0.png, cats/1.png")
    np.save(path, ROWS[[0, 1, 2, 3, 0, 1]])
    assert isinstance(load_teacher(f"features:{path}"), FeatureTable)


def test_tables_of_the_wrong_form(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    npy, parquet = tmp_path / "x.npy", tmp_path / "x.parquet"

    def refused(path: Path, *values: object) -> None:
        with pytest.raises(TeacherError) as error:
            load_teacher(f"features:{path}")
        assert says(error.value, path, *values)

    np.save(npy, ROWS)
    refused(npy, "x.ids.txt")
    npy.with_suffix(".ids.txt").write_text("\n".join(FILES[:5]))
    refused(npy, " 6 ", " 5 ")
    np.save(npy, ROWS[0])
    refused(npy, "(n, dim)", (3,))
    np.save(npy, np.array([[print]], dtype=object), allow_pickle=True)
    refused(npy, "Python objects")
    pq.write_table(pa.table({"sample_id": [*HEX[:5], "xyz"], "a": ROWS[:, 0]}), parquet)
    refused(parquet, "32", "'xyz'")
    pq.write_table(pa.table({"name": HEX, "a": ROWS[:, 0]}), parquet)
    refused(parquet, "sample_id", "file", "name, a")
    pq.write_table(pa.table({"file": FILES, "features": [[1.0, 2.0]] * 5 + [[1.0]]}), parquet)
    refused(parquet, "features", "1, 2")
    pq.write_table(pa.table({"file": FILES, "features": [[1.0, 2.0]] * 5 + [None]}), parquet)
    refused(parquet, " 1 ")
    pq.write_table(pa.table({"file": FILES, "words": FILES}), parquet)
    refused(parquet, "object")
    parquet.write_bytes(b"PAR1 no")
    refused(parquet)
    save_file({"features": torch.zeros(2, 3)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "sample_ids (n, 16)")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", ["npy ids", "safetensors", "parquet ids list"])
def test_damaged_tables(layout: str, damage: str, tmp_path: Path) -> None:
    spec = write(tmp_path, layout)
    file = Path(spec.partition(":")[2])
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(TeacherError) as error:
        load_teacher(spec)
    assert says(error.value, file)


@pytest.mark.parametrize("name", HEADERS)
def test_crafted_tables(name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(HEADERS[name])
    with pytest.raises(TeacherError) as error:
        load_teacher(f"features:{file}")
    assert says(error.value, file)


@pytest.mark.parametrize(
    "header",
    [
        "(" * 5_000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000, 10000000)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (6, 3)}",
    ],
    ids=["deep", "huge", "objects"],
)
def test_crafted_arrays(header: str, tmp_path: Path) -> None:
    spec = write(tmp_path, "npy ids")
    text = header.encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(TeacherError) as error:
        load_teacher(spec)
    assert says(error.value, tmp_path / "x.npy")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    spec = write(tmp_path, "npy ids")
    (tmp_path / "x.ids.txt").write_bytes(b"\xff\xfe\n" * 6)
    with pytest.raises(TeacherError, match=r"x\.ids\.txt"):
        load_teacher(spec)


def test_soft_labels_have_names_and_a_scale(tmp_path: Path) -> None:
    rows = np.abs(ROWS) / np.abs(ROWS).sum(1, keepdims=True)
    spec = write(tmp_path, "parquet ids columns", rows)
    known = load_teacher(f"{spec}?soft=probabilities").identity
    assert (known["soft"], known["rows_sum_to_1"]) == ("probabilities", True)
    assert known["columns"] == ["f0", "f1", "f2"]
    assert load_teacher(f"{spec}?soft=logits&prefix=f").identity["columns"] == ["0", "1", "2"]
    with pytest.raises(TeacherError):
        load_teacher(f"{spec}?soft=logits&columns=a,b,c")
    array = write(tmp_path, "npy ids", 0.5 * rows)
    known = load_teacher(f"{array}?soft=probabilities&columns=b,a,c").identity
    assert (known["columns"], known["rows_sum_to_1"]) == (["b", "a", "c"], False)
    for wrong in ("", "&columns=a,b", "&columns=a,a,b", "&columns=a,b,c&prefix=f"):
        with pytest.raises(TeacherError):
            load_teacher(f"{array}?soft=probabilities{wrong}")
    with pytest.raises(TeacherError) as error:
        load_teacher(f"{write(tmp_path, 'parquet ids columns')}?soft=probabilities")
    assert says(error.value, f"{ROWS.min():.6g}", f"{ROWS.max():.6g}")
    with pytest.raises(TeacherError):
        load_teacher(f"{spec}?soft=percent")


def test_rows_are_found_by_their_text(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    texts = ["good film", "böse", "a\nb"]
    columns = {"text": texts, "label": ["a", "b", "a"], "p_a": [0.9, 0.2, 0.5]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    table = load_teacher(f"features:{tmp_path / 'x.parquet'}?prefix=p_")
    assert isinstance(table, FeatureTable)
    ids = np.stack([np.frombuffer(content_id(text.encode()), np.uint8) for text in texts[::-1]])
    np.testing.assert_array_equal(table.rows(ids, ["x"] * 3)[:, 0], np.float32([0.5, 0.2, 0.9]))
    with pytest.raises(TeacherError):
        load_teacher(f"features:{tmp_path / 'x.parquet'}")  # the label is no number


def test_values_of_targets_are_stored_as_they_are(tmp_path: Path) -> None:
    years = 1900.25 + np.arange(18, dtype=np.float32).reshape(6, 3)
    spec = write(tmp_path, "parquet ids columns", 100 * years)
    for soft, dtype in (("values", "fp32"), ("logits", "fp16")):
        assert store_identity(load_teacher(f"{spec}?soft={soft}"))["dtype"] == dtype
    table = load_teacher(f"{spec}?soft=values")
    store = FeatureStore.open(tmp_path / "features", store_identity(table))
    with FeatureWriter(store) as writer:
        writer.add(IDS, torch.from_numpy(table.rows(IDS, FILES)))
    np.testing.assert_array_equal(store.gather(IDS), 100 * years)
