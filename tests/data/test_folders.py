"""Folders as people have them: leftovers, links, odd names, files that are no pictures."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from aft.data.loading import DataSet, load_data, load_inputs
from aft.data.readers.find_columns import Columns
from aft.errors import DataError
from helpers.errors import says

Folder = Callable[..., Path]
SHAPES = ("circle", "square", "triangle")
posix = pytest.mark.skipif(os.name != "posix", reason="needs files that only POSIX has")


def read(source: Path, **options: object) -> DataSet:
    options = {"validation_fraction": 0.0, "progress": False, **options}
    return load_data(str(source), **options)  # type: ignore[arg-type]


def rows(data: DataSet) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


class TestLeftovers:
    @pytest.mark.parametrize(
        ("folder", "file"),
        [
            ("__MACOSX/train/circle", "._000.png"),
            ("annotations", "circle.json"),
            (".ipynb_checkpoints", "000-checkpoint.png"),
            ("@eaDir/000.png", "thumb.jpg"),
            ("empty", None),
        ],
    )
    @pytest.mark.parametrize("place", ["", "train"])
    def test_folders_without_pictures_are_no_classes(
        self, picture_folder: Folder, folder: str, file: str | None, place: str
    ) -> None:
        root = picture_folder(train=4, test=2)
        picture = (root / "train/circle/000.png").read_bytes()
        extra = root / place / folder
        extra.mkdir(parents=True)
        if file is not None:
            (extra / file).write_bytes(picture)
        data = read(root)
        assert data.task.names == SHAPES and rows(data) == {"train": 12, "test": 6}
        assert folder.partition("/")[0] in data.lines()[-1]

    def test_pictures_beside_train_are_left_out(self, picture_folder: Folder) -> None:
        root = picture_folder(train=4, test=2)
        (root / "masks").mkdir()
        for name in ("masks/a.png", "cover.png", "train/b.png"):
            (root / name).write_bytes((root / "train/circle/000.png").read_bytes())
        data = read(root)
        assert data.task.names == SHAPES and rows(data) == {"train": 12, "test": 6}
        assert "2 files or folders beside train" in data.lines()[-1]
        assert "train/b.png" in data.lines()[-1]
        assert len(load_inputs(str(root), progress=False)[0]) == 19  # classes do not matter

    def test_classes_called_train_and_test_stay_classes(self, picture_folder: Folder) -> None:
        root = picture_folder(train=4, test=0) / "train"
        (root / "circle").rename(root / "train")
        (root / "square").rename(root / "test")
        assert read(root).task.names == ("test", "train", "triangle")

    def test_other_files_are_counted(self, picture_folder: Folder) -> None:
        root = picture_folder(train=4, test=0) / "train"
        for name in ("a.HEIC", "b.heic", "c.svg", "figure.eps", ".hidden.png", "notes"):
            (root / "circle" / name).write_bytes(b"x")
        (line,) = read(root).lines()
        kinds = ("2 .heic", "1 .svg", "1 .eps", "1 hidden", "1 files without", "circle/a.HEIC")
        assert all(kind in line for kind in kinds)

    def test_whole_folders_have_no_message(self, picture_folder: Folder) -> None:
        assert not read(picture_folder(train=4, test=2)).lines()

    def test_pictures_in_no_class_folder(self, picture_folder: Folder) -> None:
        root = picture_folder(train=4, test=2)
        for split in ("train", "test"):
            for shape in SHAPES:
                for file in (root / split / shape).iterdir():
                    file.rename(root / split / f"{shape}{file.name}")
        with pytest.raises(DataError) as error:
            read(root)
        assert says(error.value, f"{root}/CLASS/*.png", "image,label")

    def test_texts(self, tmp_path: Path) -> None:
        for place in ("train/a", "train/b", "test/a", "test/b", "docs", "__MACOSX/train/a"):
            (tmp_path / place).mkdir(parents=True)
            for i in range(3):
                (tmp_path / place / f"{i}.txt").write_text(f"text {place} {i}")
        data = read(tmp_path)
        assert data.task.names == ("a", "b") and rows(data) == {"train": 6, "test": 6}
        assert "docs" in data.lines()[-1] and "__MACOSX" in data.lines()[-1]


@posix
class TestLinks:
    @pytest.mark.parametrize("targets", [[".."], ["../.."], ["..", "."], ["../square"]])
    def test_pictures_are_read_once(self, picture_folder: Folder, targets: list[str]) -> None:
        root = picture_folder(train=4, test=0) / "train"
        for i, target in enumerate(targets):
            (root / "circle" / f"link{i}").symlink_to(target)
        data = read(root)
        assert rows(data) == {"train": 12} and not data.report.conflicts
        assert f"{len(targets)} links" in data.lines()[-1] and "circle/link0" in data.lines()[-1]

    def test_links_between_folders_end(self, picture_folder: Folder) -> None:
        root = picture_folder(train=4, test=0) / "train"
        for name, target in (("circle", "square"), ("square", "triangle"), ("triangle", "circle")):
            (root / name / "next").symlink_to(root / target)
        (root / "up").symlink_to(root)
        assert rows(read(root)) == {"train": 12}

    def test_linked_classes_are_read(self, picture_folder: Folder, tmp_path: Path) -> None:
        store = picture_folder(train=4, test=2)
        (tmp_path / "selected/train").mkdir(parents=True)
        for shape in SHAPES:
            (tmp_path / "selected/train" / shape).symlink_to(store / "train" / shape)
        (tmp_path / "selected/test").symlink_to(store / "test")
        (store / "train/circle/up").symlink_to(store)  # leads to all classes, from outside
        data = read(tmp_path / "selected")
        assert rows(data) == {"train": 12, "test": 6} and data.task.names == SHAPES

    def test_a_link_to_itself(self, picture_folder: Folder) -> None:
        root = picture_folder(train=4, test=0) / "train"
        (root / "circle/self.png").symlink_to("self.png")
        (root / "self").symlink_to("self")
        data = read(root)
        assert rows(data) == {"train": 12}
        assert [file for file, _ in data.report.bad_inputs] == ["circle/self.png"]


@posix
class TestWhatIsNoFile:
    def make(self, path: Path, kind: str) -> None:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
        else:
            path.symlink_to(kind)

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("kind", ["pipe", "socket", "/dev/zero", "/proc/kmsg", "/nowhere"])
    @pytest.mark.parametrize("end", [".png", ".txt"])
    def test_it_is_skipped_and_named(
        self,
        picture_folder: Folder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        end: str,
    ) -> None:
        if end == ".png":
            root = picture_folder("p", train=4, test=0) / "train"
        else:
            root = tmp_path / "t"
            for name in SHAPES:
                (root / name).mkdir(parents=True)
                for i in range(4):
                    (root / name / f"{i}.txt").write_text(f"{name} {i}")
        monkeypatch.chdir(root)  # the path of a socket is short
        self.make(Path("circle") / f"odd{end}", kind)
        data = read(root)
        assert [file for file, _ in data.report.bad_inputs] == [f"circle/odd{end}"]
        assert rows(data) == {"train": 12}

    @pytest.mark.timeout(60)
    def test_as_a_source(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "data.csv")
        with pytest.raises(DataError) as error:
            read(tmp_path / "data.csv")
        assert says(error.value, tmp_path / "data.csv", "pipe")

    def test_in_a_table(self, picture_folder: Folder, tmp_path: Path) -> None:
        root = picture_folder(train=4, test=0) / "train"
        paths = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.png"))]
        lines = [f"{path},{path.partition('/')[0]}" for path in [*paths, "/dev/zero", "a\0b.png"]]
        (root / "table.csv").write_text("image,label\n" + "\n".join(lines) + "\n")
        columns = Columns(allow_outside=True)
        report = load_data(str(root / "table.csv"), columns, progress=False).report
        assert sorted(file for file, _ in report.bad_inputs) == ["/dev/zero", "a\0b.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only on Linux")
class TestNamesThatAreNotUTF8:
    @pytest.mark.parametrize("end", [".png", ".txt"])
    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_they_are_skipped_and_named(self, picture_folder: Folder, end: str, what: str) -> None:
        root = picture_folder(train=4, test=0) / "train"
        if end == ".txt":
            for path in sorted(root.rglob("*.png")):
                path.with_suffix(".txt").write_text(str(path))
                path.unlink()
        before = root / "circle" / f"000{end}" if what == "file" else root / "circle"
        name = b"caf\xe9" + (end.encode() if what == "file" else b"")
        os.rename(os.fsencode(before), os.fsencode(before.parent) + b"/" + name)
        data = read(root)
        bad = [file for file, _ in data.report.bad_inputs]
        assert all("caf\\xe9" in file for file in bad) and len(bad) == (1 if what == "file" else 4)
        assert data.task.names == (SHAPES if what == "file" else SHAPES[1:])
        "\n".join(data.lines()).encode()

    def test_the_source(self, tmp_path: Path) -> None:
        folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
        os.mkdir(folder)
        with pytest.raises(DataError) as error:
            read(Path(folder))
        str(error.value).encode()


class TestHubClones:
    def make(self, folder: Path, **counts: int) -> Path:
        folder.mkdir(parents=True)
        for name, count in counts.items():
            for i in range(count):
                texts = [f"{name} {i} {k}" for k in range(4)]
                columns = {"text": texts, "label": [0, 1, 0, 1]}
                file = folder / f"{name}-{i:05d}-of-{count:05d}.parquet"
                pyarrow.parquet.write_table(pyarrow.table(columns), file)
        return folder

    @pytest.mark.parametrize("place", [".", "data", "plain_text"])
    def test_tables_of_splits(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "clone").mkdir()
        (tmp_path / "clone/README.md").write_text("about")
        folder = tmp_path / "clone" / place
        folder = self.make(folder / "x", train=2, test=1, unsupervised=1)
        for file in folder.iterdir():
            file.rename(folder.parent / file.name)
        folder.rmdir()
        data = read(tmp_path / "clone")
        assert rows(data) == {"train": 8, "test": 4}
        assert data.splits["train"].files[4] == "train-00001-of-00002.parquet[0]"
        assert "unsupervised" in data.lines()[-1]

    def test_a_lacking_table(self, tmp_path: Path) -> None:
        folder = self.make(tmp_path / "data", train=3, test=1)
        (folder / "train-00001-of-00003.parquet").unlink()
        with pytest.raises(DataError) as error:
            read(tmp_path)
        assert says(error.value, folder, "2 of the 3", "train")

    def test_several_configurations(self, tmp_path: Path) -> None:
        folders = [self.make(tmp_path / name, train=1) for name in ("de", "en")]
        with pytest.raises(DataError) as error:
            read(tmp_path)
        assert says(error.value, *folders)

    @pytest.mark.parametrize("file", ["train-00000-of-00001.parquet", "train.csv", "train.jsonl"])
    def test_pointers_of_git_lfs(self, tmp_path: Path, file: str) -> None:
        (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
        with pytest.raises(DataError) as error:
            read(tmp_path)
        assert says(error.value, file, "git lfs pull")

    @pytest.mark.parametrize("end", [".png", ".txt"])
    def test_pointers_among_the_files(
        self, picture_folder: Folder, tmp_path: Path, end: str
    ) -> None:
        root = picture_folder(train=4, test=0) / "train"
        for path in sorted(root.rglob("*.png")) if end == ".txt" else ():
            path.with_suffix(".txt").write_text(str(path))
            path.unlink()
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"
        (root / f"circle/000{end}").write_text(pointer)
        ((file, fault),) = read(root).report.bad_inputs
        assert file == f"circle/000{end}" and "git lfs pull" in fault
