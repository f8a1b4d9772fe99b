"""Rows without labels and stored views in training: they join the transfer loss, and only that."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import aft
from aft.config.commands import TrainConfig, resolve
from aft.errors import AftError, ConfigError
from aft.features.store import find_stores
from aft.features.stored import StoredFeatures
from aft.tasks import Task
from aft.training.prepare import check_options
from aft.training.run_folder import read_metrics
from aft.training.trainer import Trainer
from helpers.errors import says
from helpers.pictures import draw_picture
from helpers.report_pages import Page
from helpers.text_data import TOPICS, draw_text, make_picture_text_folder, make_text_table
from helpers.training import STUDENT, TEACHER, TEACHERS, assert_same, flags, weights

Folder = Callable[..., Path]
ROWS, EXTRA = 27, 20
"""Labelled training rows, and further ones."""


class PowerFailure(Exception):
    """Ends a run in the middle."""


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Pictures of the same kinds, without labels."""
    folder = tmp_path / "more"
    folder.mkdir()
    generator = np.random.default_rng(5)
    for number in range(EXTRA):
        draw_picture(number % 3, 32, generator).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def options(picture_folder: Folder, tmp_path: Path) -> dict[str, Any]:
    """A small run with a teacher that knows colours; the safety net has tests of its own."""
    (tmp_path / "teacher.py").write_text(TEACHER)
    return {
        "data": str(picture_folder(train=10, test=2, size=32)),
        "teachers": (f"python:{tmp_path / 'teacher.py'}:colours",),
        "student": "small:cnn-tiny?size=32",
        "out": tmp_path / "run",
        "features": tmp_path / "features",
        "features_dtype": "fp32",
        "loss": "aft",
        "beta": 3.0,
        "safety_net": False,
        "steps": 8,
        "batch_size": 9,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


def differ(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return any(not torch.equal(value, second[name]) for name, value in first.items())


def break_off(options: dict[str, Any], step: int) -> None:
    """Run until a step, in which the power fails."""
    original = Trainer._step

    def broken(self: Trainer, *args: Any) -> Any:
        if self.progress.step == step:
            raise PowerFailure
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", broken)
        with pytest.raises(PowerFailure):
            aft.train(**options)


class TestRowsWithoutLabels:
    @pytest.mark.usefixtures("run_pages")
    def test_they_change_the_student(
        self, options: dict[str, Any], more: Path, tmp_path: Path
    ) -> None:
        plain = aft.train(**options)
        helped = aft.train(**{**options, "out": tmp_path / "more-run"}, unlabelled=str(more))
        assert differ(weights(plain.out), weights(helped.out))
        assert plain.summary["rows_without_labels"] == 0
        assert helped.summary["rows_without_labels"] == EXTRA
        assert helped.summary["rows"] == plain.summary["rows"]
        assert f"{EXTRA} unlabelled" in Page(helped.out / "report.html").text

    def test_only_through_the_transfer_loss(
        self, options: dict[str, Any], more: Path, tmp_path: Path
    ) -> None:
        options |= {"beta": 0.0}
        plain = aft.train(**options)
        helped = aft.train(**{**options, "out": tmp_path / "more-run"}, unlabelled=str(more))
        alone = aft.train(**{**options, "out": tmp_path / "alone", "teachers": ()})
        assert_same(weights(plain.out), weights(helped.out))
        assert_same(weights(plain.out), weights(alone.out))

    def test_without_teachers_they_do_nothing(
        self, options: dict[str, Any], more: Path, tmp_path: Path
    ) -> None:
        options |= {"teachers": ()}
        plain = aft.train(**options)
        helped = aft.train(**{**options, "out": tmp_path / "more-run"}, unlabelled=str(more))
        assert_same(weights(plain.out), weights(helped.out))
        assert helped.summary["rows_without_labels"] == 0

    def test_their_labels_are_never_read(
        self, options: dict[str, Any], more: Path, tmp_path: Path
    ) -> None:
        found = []
        for name, label in (("none", None), ("same", "circle"), ("new", "a class of its own")):
            rows = [{"path": str(path)} for path in sorted(more.iterdir())]
            table = tmp_path / f"{name}.jsonl"
            labelled = rows if label is None else [{**row, "label": label} for row in rows]
            table.write_text("".join(json.dumps(row) + "\n" for row in labelled))
            out = tmp_path / f"run-{name}"
            found.append(aft.train(**{**options, "out": out}, unlabelled=str(table)))
        assert found[0].summary["task"]["names"] == ["circle", "square", "triangle"]
        for other in found[1:]:
            assert_same(weights(found[0].out), weights(other.out))

    def test_what_train_fraction_leaves_out(self, options: dict[str, Any]) -> None:
        result = aft.train(**options, train_fraction=0.5, unlabelled="left-out")
        rows = result.summary["rows"]
        assert rows["train"] + rows["validation"] == result.summary["rows_without_labels"] == 15

    def test_the_batch(
        self, options: dict[str, Any], more: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Twice the labelled rows, in an order of their own, each with its teacher's features."""
        seen: list[Any] = []
        original = Trainer._step

        def spy(self: Trainer, batch: Any, unlabelled: Any) -> Any:
            seen.append((batch[1], unlabelled))
            return original(self, batch, unlabelled)

        monkeypatch.setattr(Trainer, "_step", spy)
        aft.train(**options, unlabelled=str(more))
        assert {len(rows) for rows, _ in seen} == {9}
        assert {len(rows) for _, (_, rows) in seen} == {18}
        assert len({tuple(rows) for _, (_, rows) in seen}) == 8
        seen.clear()
        options |= {"overwrite": True, "steps": 2, "unlabelled_batch_size": 5}
        aft.train(**options, unlabelled=str(more))
        assert [inputs.shape[0] for _, (inputs, _) in seen] == [5, 5]

    def test_processes_that_would_have_none(self) -> None:
        config = resolve(TrainConfig, None, {"data": "d", "student": "small:cnn", "batch_size": 8})
        five, one = ([None] * n for n in (5, 1))
        check: Any = check_options
        task = Task("regression", ("y",))
        check(config, five, None, task, 4)
        check(config, five, one, task, 1)
        with pytest.raises(ConfigError) as error:
            check(config, five, None, task, 8)
        assert says(error.value, "8 processes", "batches of 8", "5 training rows")
        with pytest.raises(ConfigError) as error:
            check(config, five, one, task, 2)
        assert says(error.value, "2 processes", "batches of 16", "1 ")
        weighted = config.model_copy(update={"class_weights": "balanced"})
        with pytest.raises(ConfigError) as error:
            check(weighted, five, None, task, 1)
        assert says(error.value, "--class-weights", "regression")


class TestViews:
    def test_teacher_and_student_see_the_same_pixels(
        self, options: dict[str, Any], more: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def means(images: Tensor) -> Tensor:
            pooled = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
            return torch.cat([pooled, images.amin((2, 3))], 1)

        gaps: list[tuple[float, float]] = []
        original = Trainer._step

        def spy(self: Trainer, batch: Any, unlabelled: Any) -> Any:
            assert self.pool is not None
            pairs = ((batch, self.train.teachers), (unlabelled, self.pool.teachers))
            own, views = (
                float((means(inputs) - teachers[0].gather(rows)).abs().max())
                for (inputs, rows), teachers in pairs
            )
            gaps.append((own, views))
            return original(self, batch, unlabelled)

        monkeypatch.setattr(Trainer, "_step", spy)
        result = aft.train(**options, views=2, unlabelled=str(more))
        assert len(gaps) == 8
        assert max(views for _, views in gaps) < 1e-5
        assert min(own for own, _ in gaps) > 0.1  # labelled rows keep fresh random views
        assert result.summary["rows_without_labels"] == 2 * (ROWS + EXTRA)

    def test_each_is_computed_once(
        self, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        aft.train(**options, views=2)
        (store,) = find_stores(options["features"])
        assert len(store) == 3 * ROWS

        def no_more(*_: Any) -> Any:
            raise AssertionError("computed again")

        monkeypatch.setattr(
            importlib.import_module("aft.features.extraction"), "compute_together", no_more
        )
        for views in (2, 1):
            aft.train(**{**options, "out": tmp_path / f"again{views}"}, views=views)

    def test_what_cannot_have_views(self, options: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as error:
            aft.train(**options, views=1, augment="none")
        assert says(error.value, "--views", "--augment none")
        table = tmp_path / "table.parquet"
        aft.inspect(data=options["data"], ids=tmp_path / "ids.csv")
        import pyarrow.csv
        import pyarrow.parquet

        ids = pyarrow.csv.read_csv(tmp_path / "ids.csv")
        features = [[float(i), 1.0] for i in range(len(ids))]
        columns = {"sample_id": ids["sample_id"], "features": pyarrow.array(features)}
        pyarrow.parquet.write_table(pyarrow.table(columns), table)
        options |= {"teachers": (f"features:{table}",)}
        result = aft.train(**{**options, "loss": "aft-soft"})
        assert result.summary["views"] == 0  # though it is a loss that has them by default
        with pytest.raises(AftError) as raised:
            aft.train(**{**options, "out": tmp_path / "views"}, views=1)
        assert says(raised.value, table)

    def test_without_teachers_they_do_nothing(
        self, options: dict[str, Any], tmp_path: Path
    ) -> None:
        options |= {"teachers": ()}
        plain = aft.train(**options)
        other = aft.train(**{**options, "out": tmp_path / "views"}, views=3)
        assert_same(weights(plain.out), weights(other.out))


@pytest.mark.parametrize("views", ["clean", 1])
def test_broken_off_and_resumed(
    options: dict[str, Any], more: Path, tmp_path: Path, views: Any
) -> None:
    options |= {"unlabelled": str(more), "views": views, "safety_net": True, "eval_every": 3}
    whole = aft.train(**options)
    broken = {**options, "out": tmp_path / "broken"}
    break_off(broken, 5)  # two steps after the last checkpoint
    resumed = aft.train(**broken, resume=True)
    assert_same(weights(whole.out), weights(resumed.out))
    for name in ("best", "best-alone"):
        file = f"checkpoints/{name}.safetensors"
        assert_same(load_file(whole.out / file), load_file(resumed.out / file))
    assert whole.summary["safety_net"] == resumed.summary["safety_net"]


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_equal_one(
    options: dict[str, Any], more: Path, tmp_path: Path, processes: int
) -> None:
    """Batches that they cannot share evenly; four processes continue the run of one.

    The student has no batch normalisation, whose statistics are those of each process.
    """
    (tmp_path / "student.py").write_text(STUDENT)
    options |= {
        "student": f"python:{tmp_path}/student.py:plain",
        "unlabelled": str(more),
        "views": 1,
        "safety_net": True,
        "batch_size": 9,
        "steps": 6,
        "eval_every": 3,
    }
    aft.train(**options)
    several = {**options, "out": tmp_path / "several"}
    if processes == 4:
        break_off(several, 5)  # two steps after the last checkpoint
        several["resume"] = True
    several["features"] = tmp_path / "features of several"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "aft", "train", *flags(several)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    one, other = options["out"], several["out"]
    ranks = {file.name.split("-")[1] for file in several["features"].rglob("part-*")}
    assert len(ranks) == processes
    stores = [find_stores(folder)[0] for folder in (options["features"], several["features"])]
    assert len(stores[0]) == len(stores[1])
    starts = [[line for line in read_metrics(out) if line["step"] == 0] for out in (one, other)]
    assert [line["split"] for line in starts[0]] == ["validation", "validation_alone"]
    assert starts[0] == starts[1]  # each process evaluates all rows, and one writes
    losses = [
        [line[name] for line in read_metrics(out) for name in line if name.endswith("loss")]
        for out in (one, other)
    ]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)  # means over all processes
    for name in ("best", "best-alone"):
        assert_near(one, other, f"checkpoints/{name}.safetensors")
    assert_near(one, other, "feature_weights.safetensors")


def assert_near(one: Path, other: Path, name: str) -> None:
    first, second = load_file(one / name), load_file(other / name)
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=1e-5)


class TestTexts:
    @pytest.fixture
    def teachers(self, tmp_path: Path) -> SimpleNamespace:
        file = tmp_path / "teachers.py"
        file.write_text(TEACHERS)
        return SimpleNamespace(words=f"python:{file}:words", colours=f"python:{file}:colours")

    @pytest.fixture
    def common(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "steps": 6, "batch_size": 16}

    @pytest.mark.parametrize("views", ["clean", 2])
    def test_lines_of_a_file(
        self, common: dict[str, Any], teachers: SimpleNamespace, tmp_path: Path, views: Any
    ) -> None:
        generator = np.random.default_rng(1)
        lines = [draw_text(list(TOPICS)[i % 3], generator) + " zebra" for i in range(30)]
        (tmp_path / "lines.txt").write_text("\n".join(lines))
        common |= {
            "data": str(make_text_table(tmp_path / "texts.jsonl")),
            "teachers": teachers.words,
            "student": "small:static?dim=16",
            "unlabelled": str(tmp_path / "lines.txt"),
            "views": views,
        }
        result = aft.train(**common)
        rows = result.summary["rows"]["train"]
        assert result.summary["rows_without_labels"] == (
            30 if isinstance(views, str) else views * (rows + 30)
        )
        # what only these rows say is part of the student's vocabulary
        assert "zebra" in (result.out / "student" / "tokenizer.json").read_text()

    @pytest.mark.parametrize("views", ["clean", 1])
    @pytest.mark.parametrize("lacking", ["", "image"])
    def test_pictures_with_texts(
        self,
        common: dict[str, Any],
        teachers: SimpleNamespace,
        tmp_path: Path,
        views: Any,
        lacking: str,
    ) -> None:
        generator = np.random.default_rng(1)
        rows = []
        for number in range(12):
            file = tmp_path / f"{number}.png"
            draw_picture(number % 2, 32, generator).save(file)
            row = {"image": str(file), "text": draw_text("space", generator)}
            if number == 3:
                row["text"] = ""
            rows.append({name: value for name, value in row.items() if name != lacking})
        rows = [row for row in rows if any(row.values())]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        common |= {
            "data": str(make_picture_text_folder(tmp_path / "pairs", missing=2)),
            "teachers": (f"image={teachers.colours}", f"text={teachers.words}"),
            "student": ("image=small:cnn-tiny?size=32", "text=small:static?dim=16"),
            "unlabelled": str(tmp_path / "pairs.jsonl"),
            "views": views,
        }
        result = aft.train(**common)
        labelled = result.summary["rows"]["train"]
        expected = len(rows) if isinstance(views, str) else views * (labelled + len(rows))
        assert result.summary["rows_without_labels"] == expected


def test_missing_inputs_get_the_mean_of_the_labelled_rows(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that is not there says nothing, and least of all zero."""
    root = tmp_path / "pairs"
    make_picture_text_folder(root, train=24, test=6)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(tmp_path / "dark.png")
    rows = [{"image": str(tmp_path / "dark.png"), "text": "a"}, {"image": None, "text": "b"}]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept: list[StoredFeatures] = []
    original = Trainer.__init__

    def spy(self: Trainer, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        assert self.pool is not None
        kept.extend([*self.train.teachers, *self.pool.teachers])

    monkeypatch.setattr(Trainer, "__init__", spy)
    options |= {"data": str(root), "unlabelled": str(tmp_path / "more.jsonl"), "steps": 1}
    aft.train(**{**options, "student": "image=small:cnn-tiny?size=32"})
    labelled, pool = kept
    features = pool.gather(np.arange(2))
    torch.testing.assert_close(features[1], labelled.statistics().mean)
    assert (features[0] - features[1]).abs().max() > 0.1
