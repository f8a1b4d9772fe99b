"""Files are written whole, and damage is found when they are read."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aft.errors import DataError, InputError, StoreError
from aft.files import (
    Damaged,
    read_json,
    read_sealed,
    reading,
    remove_leftovers,
    write_csv,
    write_json,
    write_sealed,
    write_whole,
    writing,
)
from helpers.errors import says

VALUES = {"task": "näme", "scores": [0.25, 1e-300, None], "deep": {"a": True, "b": "1"}, "n": 3}
ANY_PLACE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a.json", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("aft.files.os.fsync", full)
    cure = "Free some space"
    with pytest.raises(StoreError) as error, writing(tmp_path, StoreError, cure, 12_000):
        write_whole(tmp_path / "a.json", "new")
    assert says(error.value, tmp_path, os.strerror(errno.ENOSPC), "12.0 kB", cure)
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_only_leftovers_of_dead_processes_are_deleted(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; import aft.files as f\n"
        "f.os.replace = lambda *_: os._exit(9)\n"  # as if it were killed
        "f.write_whole(pathlib.Path(sys.argv[1]) / 'x', 'half')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    (dead,) = tmp_path.iterdir()
    alive = dead.with_name(dead.name.rpartition("-")[0] + f"-{os.getpid()}.tmp")
    elsewhere, old = tmp_path / ".x.1.other-7.tmp", tmp_path / ".x.2.other-7.tmp"
    for file in (alive, elsewhere, old, tmp_path / "x.tmp"):
        file.write_text("")
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {alive.name, elsewhere.name, "x.tmp"}


@ANY_PLACE
@given(st.data())
def test_any_changed_byte_of_a_json_document_is_found(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "result.json"
    write_json(path, VALUES)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    refused = None
    try:
        again = read_json(path, DataError, "Delete it")
    except DataError as error:
        refused = error
    if refused is None:  # in the name of the checksum itself, or in white space
        assert {key: again[key] for key in VALUES} == VALUES
    else:
        assert says(refused, path, "Delete it")


@ANY_PLACE
@given(place=st.integers(0, 239), change=st.integers(1, 255))
def test_any_changed_byte_of_a_sealed_file_is_found(
    tmp_path: Path, place: int, change: int
) -> None:
    path = tmp_path / "last.pt"
    write_sealed(path, bytes(range(200)))
    content = bytearray(path.read_bytes())
    content[place] ^= change
    path.write_bytes(content)
    with pytest.raises(Damaged):
        read_sealed(path)


def test_sealed_files_come_back_and_those_of_older_versions_too(tmp_path: Path) -> None:
    write_sealed(tmp_path / "new", b"content")
    assert read_sealed(tmp_path / "new") == b"content"
    (tmp_path / "old").write_bytes(b"PK\x03\x04 of torch.save")
    assert read_sealed(tmp_path / "old") == b"PK\x03\x04 of torch.save"


def test_json_is_strict_and_keeps_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    name = os.fsdecode(b"caf\xe9.png")
    write_json(path, {"r2": math.nan, "loss": [math.inf, 1.5], "file": name})
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail)["r2"] is None
    assert read_json(path, DataError, "") == {"r2": None, "loss": [None, 1.5], "file": name}


def test_a_document_that_was_edited_is_read_without_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "a": 2}))
    with pytest.raises(DataError) as error:
        read_json(path, DataError, "Delete it")
    assert says(error.value, path, "sha256")
    path.write_text(json.dumps({"a": 2}))
    assert read_json(path, DataError, "Delete it") == {"a": 2}


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": 1e999999}x', b"null"]
)
def test_what_is_no_json_object_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_json(tmp_path / "x.json", DataError, "Delete it")
    assert says(error.value, tmp_path / "x.json", "Delete it")


def test_a_permission_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error, reading(tmp_path / "x", DataError, "Delete it"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    assert says(error.value, tmp_path / "x", os.strerror(errno.EACCES))
    assert "Delete it" not in str(error.value)


def test_errors_for_users_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(InputError), reading(tmp_path / "x", DataError, "Delete it"):
        raise InputError("wrong shape")


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("-cmd", "'-cmd"),
        ("-1.5", "-1.5"),
        ("+3", "+3"),
        ("a", "a"),
    ],
)
def test_no_cell_of_a_table_is_a_formula(tmp_path: Path, cell: str, written: str) -> None:
    write_csv(tmp_path / "x.csv", [("name", "n"), (cell, -2)])
    with (tmp_path / "x.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "n"], [written, "-2"]]
