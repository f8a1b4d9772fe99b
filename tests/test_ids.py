"""Ids are those of the contents, whatever the cache of ids holds."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aft import ids
from aft.ids import CACHE_FILE, content_id, identify
from aft.paths import MOST_BYTES


@pytest.fixture(autouse=True)
def _cached_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache files that were written just now, too; say again what was said."""
    monkeypatch.setattr(ids, "_RECENT_SECONDS", -60.0)
    monkeypatch.setattr(ids, "_said", set())


class Check:
    """Counts the contents that are checked; those that start with ``bad`` have a fault."""

    def __init__(self) -> None:
        self.checked: list[bytes] = []

    def __call__(self, content: bytes) -> str | None:
        self.checked.append(content)
        return "bad content" if content.startswith(b"bad") else None


def ids_of(files: list[Path], cache: Path, check: Check | None = None) -> list[bytes]:
    return [one.sample_id for one in identify(map(str, files), check or Check(), cache)]


def write(path: Path, content: bytes, time: int = 1) -> Path:
    path.write_bytes(content)
    os.utime(path, (time, time))
    return path


class TestUnchangedFiles:
    def test_they_are_not_read_again(self, tmp_path: Path) -> None:
        file, check = write(tmp_path / "a", b"first"), Check()
        first = list(identify([str(file)], check, tmp_path))
        assert list(identify([str(file)], check, tmp_path)) == first and len(check.checked) == 1
        write(file, b"other", 2)
        assert ids_of([file], tmp_path, check) == [content_id(b"other")]
        assert check.checked == [b"first", b"other"]

    def test_recent_files_are_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ids, "_RECENT_SECONDS", 60.0)
        file, check = write(tmp_path / "a", b"first"), Check()  # an old time, but made just now
        ids_of([file], tmp_path, check)
        ids_of([file], tmp_path, check)
        assert len(check.checked) == 2

    def test_renumbered_files_of_one_size_and_time(self, tmp_path: Path) -> None:
        files = [write(tmp_path / str(i), b"content %d" % i) for i in range(4)]
        ids_of(files, tmp_path)
        files[0].unlink()
        for before, after in zip(files[1:], files, strict=False):
            before.rename(after)
        assert ids_of(files[:3], tmp_path) == [content_id(b"content %d" % i) for i in (1, 2, 3)]

    def test_exchanged_files(self, tmp_path: Path) -> None:
        a, b = write(tmp_path / "a", b"one"), write(tmp_path / "b", b"two")
        ids_of([a, b], tmp_path)
        a.rename(tmp_path / "c")
        b.rename(a)
        (tmp_path / "c").rename(b)
        assert ids_of([a, b], tmp_path) == [content_id(b"two"), content_id(b"one")]

    def test_a_file_written_over_with_its_old_time(self, tmp_path: Path) -> None:
        a = write(tmp_path / "a", b"one")
        ids_of([a], tmp_path)
        shutil.copystat(a, write(tmp_path / "b", b"two"))
        with a.open("r+b") as file:
            file.write(b"two")
        shutil.copystat(tmp_path / "b", a)
        assert ids_of([a], tmp_path) == [content_id(b"two")]


class TestFaults:
    def test_errors_of_reading_are_not_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write(tmp_path / "a", b"content")

        def fail(path: str) -> bytes:
            raise OSError(errno.EIO, "I/O error")

        with monkeypatch.context() as patched:
            patched.setattr(ids, "read_file", fail)
            assert next(identify([str(file)], Check(), tmp_path)).fault == "I/O error"
        assert next(identify([str(file)], Check(), tmp_path)) == (content_id(b"content"), None)

    def test_faults_of_decoders_are_found_again(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a", b"bad")
        assert next(identify([str(file)], Check(), tmp_path)).fault == "bad content"
        # A decoder that is installed later may know the format.
        assert next(identify([str(file)], lambda _: None, tmp_path)).fault is None

    def test_no_memory(self, tmp_path: Path) -> None:
        def fail(content: bytes) -> str | None:
            raise MemoryError

        assert "memory" in str(next(identify([b"content"], fail, tmp_path)).fault)

    def test_very_large_files_are_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "a").open("wb") as file:
            file.truncate(MOST_BYTES + 1)
        fault = next(identify([str(tmp_path / "a")], Check(), tmp_path)).fault
        assert fault is not None and f"{MOST_BYTES + 1:,}" in fault

    @pytest.mark.parametrize("name", ["a\0b", "caf\udce9", "\ud800"])
    def test_names_that_cannot_be(self, tmp_path: Path, name: str) -> None:
        assert next(identify([f"{tmp_path}/{name}"], Check(), tmp_path)).fault


class TestCache:
    """The cache makes runs faster, and never stops one."""

    def check(self, cache: Path, file: Path, capsys: pytest.CaptureFixture[str], said: int) -> None:
        for _ in range(2):
            assert ids_of([file], cache) == [content_id(b"content")]
        error = capsys.readouterr().err
        assert error.count(str(cache / CACHE_FILE)) == said and "damage" not in error

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return write(tmp_path / "a", b"content")

    @pytest.fixture
    def cache(self, tmp_path: Path, file: Path) -> Path:
        ids_of([file], tmp_path / "cache")
        return tmp_path / "cache"

    def test_sound(self, cache: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.check(cache, file, capsys, 0)
        check = Check()
        ids_of([file], cache, check)
        assert not check.checked

    def test_no_database(self, cache: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (cache / CACHE_FILE).write_bytes(b"this is not a database" * 100)
        self.check(cache, file, capsys, 1)

    def test_no_folder(
        self, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.check(file / "cache", file, capsys, 1)

    def test_damaged_pages(
        self, cache: Path, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = (cache / CACHE_FILE).read_bytes()
        for start in range(100, len(content), 512):
            ids._said.clear()
            damaged = content[:start] + b"\xff" * 512 + content[start + 512 :]
            (cache / CACHE_FILE).write_bytes(damaged[: len(content)])
            for _ in range(2):
                assert ids_of([file], cache) == [content_id(b"content")]

    @pytest.mark.parametrize(
        "schema", ["ids (path BLOB PRIMARY KEY)", "ids (path, signature, sample_id, more)"]
    )
    def test_another_schema(
        self, cache: Path, file: Path, schema: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with sqlite3.connect(cache / CACHE_FILE) as connection:
            connection.execute("DROP TABLE ids")
            connection.execute(f"CREATE TABLE {schema}")
        connection.close()
        self.check(cache, file, capsys, 1)

    def test_values_of_other_types(
        self, cache: Path, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for value in ("NULL", "'0123456789abcdef'", "x'00'", "7"):
            with sqlite3.connect(cache / CACHE_FILE) as connection:
                connection.execute(f"UPDATE ids SET sample_id = {value}")
            connection.close()
            self.check(cache, file, capsys, 0)

    def test_of_an_earlier_version(
        self, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "cache").mkdir()
        with sqlite3.connect(tmp_path / "cache" / CACHE_FILE) as connection:
            connection.execute("CREATE TABLE files (path TEXT PRIMARY KEY, sample_id BLOB)")
            connection.execute("INSERT INTO files VALUES (?, x'00')", [str(file)])
        connection.close()
        self.check(tmp_path / "cache", file, capsys, 0)

    def test_locked(
        self,
        cache: Path,
        file: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda path, **_: real(path, timeout=0.01))
        other = real(cache / CACHE_FILE)
        other.execute("BEGIN EXCLUSIVE")
        self.check(cache, file, capsys, 1)
        other.close()

    @pytest.mark.parametrize("problem", ["disk I/O error", "database or disk is full"])
    def test_full_disk(
        self,
        tmp_path: Path,
        file: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        problem: str,
    ) -> None:
        class Full(sqlite3.Connection):
            def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
                if statement.startswith("INSERT"):
                    raise sqlite3.OperationalError(problem)
                return super().execute(statement, *values)  # type: ignore[arg-type]

        real = sqlite3.connect
        monkeypatch.setattr(
            sqlite3, "connect", lambda path, **options: real(path, factory=Full, **options)
        )
        self.check(tmp_path / "cache", file, capsys, 1)

    def test_read_only(
        self,
        cache: Path,
        file: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = sqlite3.connect

        def connect(path: Path, **options: Any) -> sqlite3.Connection:
            return real(f"file:{path}?mode=ro", uri=True, **options)

        monkeypatch.setattr(sqlite3, "connect", connect)
        self.check(cache, file, capsys, 0)  # it holds the file already
        other = write(file.with_name("b"), b"content")
        self.check(cache, other, capsys, 1)
