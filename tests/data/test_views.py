"""Views are a function of their ids, so every process draws the same ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor, nn

from aft.backbones.preprocessing import Preprocessing
from aft.data.loading import load_data
from aft.data.readers.find_columns import InputColumn
from aft.data.samples import Samples, match_columns
from aft.data.views import DROPPED, draw_view, make_views
from aft.errors import InputError, TeacherError
from aft.features.extraction import extract_features
from aft.features.run_teacher import Compute, compute_features
from aft.features.stored import StoredFeatures
from aft.ids import content_id
from aft.students.inputs import StudentInputs
from aft.students.run_student import run_student
from aft.students.student import Student
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher
from helpers.errors import says
from helpers.text_data import make_picture_text_folder, make_text_table

Folder = Callable[..., Path]
SIZE = 16


def train_of(path: Path) -> Samples:
    return load_data(str(path), progress=False, validation_fraction=0.0).splits["train"]


@pytest.fixture
def pictures(picture_folder: Folder) -> Samples:
    return train_of(picture_folder(classes=2, train=6, test=0, size=40))


def digest(samples: Samples) -> str:
    """SHA-256 of every input, in order."""
    found = hashlib.sha256()
    for row in range(len(samples)):
        value = samples.input(row)
        for part in value.values() if isinstance(value, dict) else [value]:
            shown = part if isinstance(part, str | None) else (part.size, part.tobytes())
            found.update(repr(shown).encode())
    return found.hexdigest()


def image_of(width: int, height: int) -> Image.Image:
    """An image without two equal pixels, so a crop shows where it was taken."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, x * 0 + 7], axis=-1).astype(np.uint8))


def box(view: Image.Image) -> tuple[int, int, int, int, bool]:
    """Left, top, width, height and mirroring of a view of :func:`image_of`."""
    pixels = np.asarray(view).astype(int)
    mirrored = bool(pixels[0, 0, 0] > pixels[0, -1, 0])
    upright = pixels[:, ::-1] if mirrored else pixels
    left, top = (int(v) for v in upright[0, 0, :2])
    height, width = upright.shape[:2]
    assert (upright[..., 0] == left + np.arange(width)).all(), "pixels were resized"
    assert (top + np.arange(height) == upright[..., 1].T).all(), "pixels were resized"
    return left, top, width, height, mirrored


def keys(count: int) -> list[bytes]:
    return [content_id(str(number).encode()) for number in range(count)]


class MeanTeacher(nn.Module):
    """Mean colour of each image quarter; counts the images it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        return nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)


def teacher_of(module: nn.Module) -> Teacher:
    return Teacher(
        spec="python:own.py:teacher",
        dim=12,
        module=module,
        preprocess=Preprocessing(SIZE).evaluate(),
        identity={"spec": "python:own.py:teacher", "dim": 12},
    )


class TestRows:
    def test_one_view_after_the_other(self, pictures: Samples) -> None:
        views, n = make_views(pictures, 3, 0, "standard"), len(pictures)
        assert len(views) == 3 * n == len(views.files) == len(views.present) == len(views.keys)
        assert pictures.labels is not None and views.labels is not None
        assert (views.labels == np.tile(pictures.labels, 3)).all()
        assert views.files[n] == f"{pictures.files[0]} (view 2)"
        assert len(set(views.keys) | set(pictures.keys)) == 4 * n

    def test_more_views_keep_the_first_ones(self, pictures: Samples) -> None:
        few, many = (make_views(pictures, count, 5, "standard") for count in (2, 4))
        assert (many.ids[: len(few)] == few.ids).all()
        assert digest(many.subset(range(len(few)))) == digest(few)

    def test_ids_differ_between_views(self, pictures: Samples) -> None:
        found = [
            make_views(pictures, 2, seed, kind).keys
            for seed in (0, 1)
            for kind in ("standard", "flip")
        ]
        assert len(set(np.concatenate(found))) == 8 * len(pictures)

    def test_views_do_not_depend_on_the_other_rows(self, pictures: Samples) -> None:
        views = make_views(pictures, 2, 0, "standard")
        some = make_views(pictures.subset([7, 2]), 2, 0, "standard")
        again = views.subset([7, 2, len(pictures) + 7, len(pictures) + 2])
        assert (some.ids == again.ids).all() and digest(some) == digest(again)
        assert list(some.files) == list(again.files)

    def test_labels_of_several_targets_and_none(self, pictures: Samples) -> None:
        pictures.labels = np.arange(24, dtype=np.float32).reshape(12, 2)
        labels = make_views(pictures, 2, 0, "flip").labels
        assert labels is not None and labels.shape == (24, 2)
        assert (labels[12:] == pictures.labels).all()
        pictures.labels = None
        assert make_views(pictures, 2, 0, "flip").labels is None

    def test_errors(self, pictures: Samples) -> None:
        with pytest.raises(InputError) as error:
            make_views(pictures, 2, 0, "none")
        assert says(error.value, "'standard'", "'flip'", "'none'")
        with pytest.raises(InputError) as error:
            make_views(pictures, 0, 0, "standard")
        assert says(error.value, "at least 1", "got 0")
        with pytest.raises(InputError):
            make_views(make_views(pictures, 2, 0, "flip"), 2, 0, "flip")


class TestImages:
    @given(st.integers(1, 120), st.integers(1, 120), st.binary(min_size=16, max_size=16))
    def test_square_crops_inside_the_image(self, width: int, height: int, key: bytes) -> None:
        view = draw_view(image_of(width, height), key)
        assert isinstance(view, Image.Image)
        left, top, across, down, _ = box(view)
        assert across == down <= min(width, height)
        assert across + 0.5 >= (0.35**0.5) * min(width, height)
        assert 0 <= left <= width - across and 0 <= top <= height - down

    def test_all_sizes_and_places_and_both_sides(self) -> None:
        image = image_of(100, 60)
        boxes = np.array([box(draw_view(image, key)) for key in keys(600)])  # type: ignore[arg-type]
        left, top, side, _, mirrored = boxes.T
        assert side.min() == 36 and side.max() == 60  # 0.35 ** 0.5 * 60 is 35.5
        assert left.min() == 0 and (left + side).max() == 100 and (top + side).max() == 60
        assert abs(mirrored.mean() - 0.5) < 0.07
        assert abs((side**2).mean() / 3600 - 0.675) < 0.03

    def test_flip_mirrors_only(self) -> None:
        image = image_of(30, 20)
        views = [draw_view(image, key, "flip") for key in keys(60)]
        kinds = {view.tobytes() for view in views if isinstance(view, Image.Image)}
        assert kinds == {image.tobytes(), ImageOps.mirror(image).tobytes()}

    def test_student_and_teacher_see_the_same_part(self) -> None:
        """Both ways of resizing keep the whole view, whatever the input size."""
        view = draw_view(image_of(100, 60), keys(1)[0])
        shorter, both = (
            Preprocessing(30, mean=(0, 0, 0), std=(1, 1, 1), squash=squash).evaluate()(view)
            for squash in (False, True)
        )
        assert torch.equal(shorter, both)


class TestTexts:
    def test_words_are_dropped(self) -> None:
        text = " ".join(f"word{number}" for number in range(2000))
        view = draw_view(text, keys(1)[0])
        assert isinstance(view, str)
        kept = view.split()
        assert abs(1 - len(kept) / 2000 - DROPPED) < 0.02
        assert kept == sorted(kept, key=lambda word: int(word[4:]))

    def test_one_word_stays(self) -> None:
        assert {draw_view("alone", key) for key in keys(60)} == {"alone"}
        assert {draw_view("two words", key) for key in keys(200)} == {"two", "words", "two words"}

    def test_white_space_stays(self) -> None:
        text = "  A title\n\n\tand a\u3000line \n"
        views = {draw_view(text, key) for key in keys(100)}
        assert text in views and "  \n" not in views
        assert "A title\n\n\tand a" in views
        assert draw_view(" \n", keys(1)[0]) == " \n"

    def test_views_of_a_table(self, tmp_path: Path) -> None:
        texts = train_of(make_text_table(tmp_path / "texts.jsonl", train=30, test=0))
        views = make_views(texts, 4, 0, "standard")
        shown = [str(views.input(row)) for row in range(len(views))]
        originals = [str(texts.input(row)) for row in range(len(texts))] * 4
        changed = sum(a != b for a, b in zip(shown, originals, strict=True))
        assert len(views) / 3 < changed < len(views)
        for view, original in zip(shown, originals, strict=True):
            assert view and set(view.split()) <= set(original.split())

    def test_the_kind_applies_to_images_only(self, tmp_path: Path) -> None:
        texts = train_of(make_text_table(tmp_path / "texts.jsonl", train=30, test=0))
        one, two = (make_views(texts, 2, 0, kind) for kind in ("standard", "flip"))
        assert (one.ids == two.ids).all() and digest(one) == digest(two)


class TestSeveralColumns:
    @pytest.fixture
    def captioned(self, tmp_path: Path) -> Samples:
        folder = make_picture_text_folder(tmp_path / "captioned", train=16, test=0, missing=3)
        return train_of(folder)

    def test_each_column_has_its_view(self, captioned: Samples) -> None:
        views, n = make_views(captioned, 2, 0, "standard"), len(captioned)
        assert (views.present == np.tile(captioned.present, (2, 1))).all()
        assert not views.parts[~views.present].any()
        for row in range(len(views)):
            value, original = views.input(row), captioned.input(row % n)
            assert isinstance(value, dict) and isinstance(original, dict)
            assert [v is None for v in value.values()] == [v is None for v in original.values()]
        whole = digest(views)
        assert whole != digest(captioned.subset(np.tile(np.arange(n), 2)))
        assert len(set(views.keys)) == 2 * n

    def test_columns_may_be_chosen_before_or_after(self, captioned: Samples) -> None:
        views = make_views(captioned, 2, 0, "standard")
        for name in ("image", "text"):
            after, before = views.only(name), make_views(captioned.only(name), 2, 0, "standard")
            assert (after.ids == before.ids).all() and digest(after) == digest(before)
            assert (after.present == before.present).all()
        both = views.only("text", "image").subset([20, 1])
        assert (both.only("image").ids == views.only("image").ids[[20, 1]]).all()
        lacking = match_columns(
            views, [InputColumn("sound", "image"), InputColumn("title", "text")]
        ).subset([3])
        assert lacking.view is views.view


class TestReplay:
    def test_in_other_processes(self, picture_folder: Folder, tmp_path: Path) -> None:
        picture_folder("a", classes=2, train=4, test=0)
        make_picture_text_folder(tmp_path / "b", train=8, test=0, missing=2)
        code = (
            "import sys; from pathlib import Path; from test_views import *\n"
            "for name in 'ab':\n"
            "    views = make_views(train_of(Path(sys.argv[1]) / name), 2, 3, 'standard')\n"
            "    print(digest(views), views.ids.tobytes().hex())"
        )
        found = {
            subprocess.run(
                [sys.executable, "-c", code, str(tmp_path)],
                cwd=Path(__file__).parent,
                env={
                    **os.environ,
                    "PYTHONHASHSEED": seed,
                    "PYTHONPATH": str(Path(__file__).parents[1]),
                },
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }
        here = ""
        for name in "ab":
            views = make_views(train_of(tmp_path / name), 2, 3, "standard")
            here += f"{digest(views)} {views.ids.tobytes().hex()}\n"
        assert found == {here}

    def test_ids_and_views_never_change(self, tmp_path: Path) -> None:
        """If this fails, stored features no longer match their views: raise VERSION."""
        (tmp_path / "texts.csv").write_text("text,label\none two,a\nthree four,b\n")
        texts = train_of(tmp_path / "texts.csv")
        ids = make_views(texts, 2, 0, "standard").ids
        assert ids[3].tobytes().hex() == "025e2932903afb998d74a34da716ff2d"
        key = bytes(range(16))
        assert box(draw_view(image_of(200, 100), key)) == (20, 23, 69, 69, False)  # type: ignore[arg-type]
        numbers = " ".join(map(str, range(20)))
        assert draw_view(numbers, key) == "0 1 2 3 4 6 7 10 11 12 14 15 17 18 19"

    def test_in_data_loader_workers(self, pictures: Samples, tmp_path: Path) -> None:
        views = make_views(pictures, 2, 0, "standard")
        torch.manual_seed(0)
        student = Student(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4)), 4, 2)
        inputs = StudentInputs(views, Preprocessing(SIZE).evaluate())
        here, there = (
            torch.cat([f for _, f in run_student(student, inputs, num_workers=workers)])
            for workers in (0, 2)
        )
        assert torch.equal(here, there)
        one, two = (
            extract_features(
                teacher_of(MeanTeacher()),
                views,
                tmp_path / str(workers),
                num_workers=workers,
                progress=False,
            )
            for workers in (0, 2)
        )
        assert torch.equal(one.gather(views.ids), two.gather(views.ids))


class TestStore:
    def test_round_trip(
        self, pictures: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        views, module, n = make_views(pictures, 3, 0, "standard"), MeanTeacher(), len(pictures)
        teacher = teacher_of(module)
        options = {"dtype": "fp32", "num_workers": 0, "batch_size": 4}
        extract_features(teacher, pictures, tmp_path, **options)  # type: ignore[arg-type]
        said = capsys.readouterr().err
        store = extract_features(teacher, views, tmp_path, **options)  # type: ignore[arg-type]
        said = capsys.readouterr().err
        assert f"{3 * n} of {3 * n}" in said
        assert len(store) == 4 * n
        stored = StoredFeatures(teacher.spec, store, views, [])
        rows = np.array([2 * n + 5, 0, n, 2 * n + 5])
        prepare = Preprocessing(SIZE).evaluate()
        expected = module(torch.stack([prepare(views.input(int(row))) for row in rows]))
        torch.testing.assert_close(stored.gather(rows), expected, rtol=0, atol=1e-6)

        seen = module.seen  # one view more costs itself alone
        more = make_views(pictures, 4, 0, "standard")
        extract_features(teacher, more, tmp_path, progress=False, **options)  # type: ignore[arg-type]
        assert module.seen == seen + n

    @pytest.mark.parametrize("workers", [0, 2])
    def test_views_share_one_decoding(
        self, pictures: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
    ) -> None:
        views = make_views(pictures, 4, 0, "standard")
        teacher, n, log = teacher_of(MeanTeacher()), len(pictures), tmp_path / "log"
        read = Samples._read

        def logged(*args: object) -> object:
            with log.open("a") as file:  # of worker processes too
                file.write("1\n")
            return read(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(Samples, "_read", logged)
        how = Compute(num_workers=workers)
        apart = {
            int(position): one
            for rows, values in compute_features(teacher, views, np.arange(4 * n), how)
            for position, one in zip(rows, values, strict=True)
        }
        log.unlink()
        for rank in (1, 0):  # ranks share contents, not views
            store = extract_features(
                teacher,
                views,
                tmp_path / "features",
                dtype="fp32",
                num_workers=workers,
                progress=False,
                rank=rank,
                world_size=2,
            )
        assert len(log.read_text().split()) == n
        expected = torch.stack([apart[row] for row in range(4 * n)])
        assert torch.equal(store.gather(views.ids), expected)

    def test_missing_images_have_mean_features(self, tmp_path: Path) -> None:
        folder = make_picture_text_folder(tmp_path / "captioned", train=16, test=0, missing=3)
        views = make_views(train_of(folder), 2, 0, "standard").only("image")
        store = extract_features(teacher_of(MeanTeacher()), views, tmp_path, progress=False)
        assert len(store) == views.present.sum() < len(views)
        stored = StoredFeatures("own", store, views, [])
        features = stored.gather(np.arange(len(views)))
        lacking = features[~torch.from_numpy(views.present[:, 0])]
        assert torch.equal(lacking, stored.statistics().mean.expand_as(lacking))

    def test_feature_tables_have_no_views(self, pictures: Samples, tmp_path: Path) -> None:
        """Features of an image are never used for its views, neither by id nor by name."""
        rows: dict[bytes | str, int] = {file: row for row, file in enumerate(pictures.files)}
        features = np.ones((len(pictures), 3), np.float32)
        table = FeatureTable("features:own.npy", 3, {"spec": "own", "dim": 3}, features, rows)
        extract_features(table, pictures, tmp_path, progress=False)
        with pytest.raises(TeacherError, match=r"\(view 1\)"):
            extract_features(table, make_views(pictures, 1, 0, "flip"), tmp_path, progress=False)
