"""Training from the names of classes, with no labels and with a few."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

import aft
from aft.config.class_names import read_class_names
from aft.errors import AftError, ConfigError, DataError
from aft.training.run_folder import read_metrics
from helpers.errors import says
from helpers.text_data import TOPICS, draw_text, make_picture_text_folder
from helpers.training import TEACHERS, assert_same, flags, weights


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """The names of the topics, each with some of its words."""
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"{name}\t{' '.join(words)}\n" for name, words in TOPICS.items()))
    return path


@pytest.fixture
def options(tmp_path: Path, classes: Path) -> dict[str, Any]:
    """A small run without labels."""
    (tmp_path / "teachers.py").write_text(TEACHERS)
    generator = np.random.default_rng(0)
    rows = [{"text": draw_text(list(TOPICS)[i % 3], generator)} for i in range(90)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "data": tmp_path / "texts.jsonl",
        "classes": classes,
        "class_template": "{}",
        "teachers": f"python:{tmp_path / 'teachers.py'}:words",
        "student": "small:ngrams?dim=16",
        "out": tmp_path / "run",
        "features": tmp_path / "features",
        "steps": 20,
        "batch_size": 16,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


def add_labels(path: Path, train: int, test: int = 0) -> Path:
    """A copy of the table in which the first rows have a label, and with a test split."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["label"] = list(TOPICS)[number % 3] if number < train else None
        row["split"] = "train"
    generator = np.random.default_rng(1)
    for number in range(test):
        topic = list(TOPICS)[number % 3]
        rows.append({"text": draw_text(topic, generator), "label": topic, "split": "test"})
    new = path.with_name("labelled.jsonl")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return new


@pytest.mark.usefixtures("run_pages")
def test_without_any_label(options: dict[str, Any]) -> None:
    result = aft.train(**options)
    assert result.split == "validation" and set(result.metrics) == {"agreement", "divergence"}
    assert result.metrics["agreement"] > 0.5
    summary = result.summary
    assert summary["metric"] == "agreement" and summary["best_step"] == options["steps"]
    assert summary["rows"] == {"train": 81, "validation": 9} and not summary["baselines"]
    assert "safety_net" not in summary and "trivial" not in summary
    assert summary["splits_without_labels"] == ["train", "validation"]
    assert summary["task"]["names"] == list(TOPICS)
    table = pyarrow.parquet.read_table(options["out"] / "evaluation.parquet")
    assert "label" not in table.column_names and "predicted" in table.column_names
    lines = read_metrics(options["out"])
    assert not any({"task_loss", "accuracy"} & line.keys() for line in lines)
    page = (options["out"] / "report.html").read_text()
    assert "greement" in page and "accuracy 0" not in page.lower()
    (found,) = result.student().predict(["the goal of the team in the match"])
    assert found["label"] == "sport"


def test_the_test_split_is_measured(options: dict[str, Any]) -> None:
    options["data"] = add_labels(options["data"], 0, test=30)
    result = aft.train(**options)
    assert result.split == "test" and result.metrics["accuracy"] > 0.8
    assert result.summary["metric"] == "accuracy"
    assert set(result.summary["validation"]) == {"agreement", "divergence"}
    scored = aft.evaluate(run=options["out"], progress=False)
    assert scored["split"] == "test" and scored["accuracy"] == result.metrics["accuracy"]


def test_a_few_labels_all_train(options: dict[str, Any]) -> None:
    options["data"] = add_labels(options["data"], 6, test=30)
    result = aft.train(**options)
    assert result.summary["rows"] == {"train": 6, "test": 30, "validation": 8}
    assert result.summary["rows_without_labels"] == 76 and result.metrics["accuracy"] > 0.8
    assert result.summary["splits_without_labels"] == ["validation"]
    options |= {"unlabelled": "none", "overwrite": True}
    result = aft.train(**options, validation_fraction=0.4)
    assert result.summary["splits_without_labels"] == []
    rows = result.summary["rows"]
    assert rows["train"] + rows["validation"] == 6 and rows["validation"]


def test_labels_for_validation_only(options: dict[str, Any]) -> None:
    options["data"] = add_labels(options["data"], 0, test=30)
    table = options["data"].read_text().replace('"test"', '"validation"')
    options["data"].write_text(table)
    for student in ("small:ngrams?dim=16", "small:static?dim=16"):
        result = aft.train(**{**options, "student": student, "overwrite": True})
        assert result.summary["splits_without_labels"] == ["train"]
        assert result.summary["metric"] == "accuracy" and "safety_net" not in result.summary
    card = (options["out"] / "student/README.md").read_text()
    assert "trained on features" in card and "chosen by its accuracy" in card


def test_data_in_memory_are_split_again(options: dict[str, Any]) -> None:
    table = add_labels(options["data"], 80).read_text().splitlines()
    options["data"] = [json.loads(line) for line in table]
    result = aft.train(**options, validation_fraction=0.5)
    found = aft.evaluate(run=options["out"], data=options["data"], progress=False)
    assert found["split"] == "validation" and found["accuracy"] == result.metrics["accuracy"]


def test_teachers_to_serve_need_labels(options: dict[str, Any]) -> None:
    from aft.serving.answers import TeachersHead

    result = aft.train(**options)
    with pytest.raises(ConfigError):
        TeachersHead.fit(options["out"], result.student(), True)
    assert "The checkpoint was the last one" in (options["out"] / "student/README.md").read_text()


def test_enough_labels_are_held_out(options: dict[str, Any]) -> None:
    options["data"] = add_labels(options["data"], 60)
    result = aft.train(**options, validation_fraction=0.5)
    assert result.summary["splits_without_labels"] == [] and "safety_net" in result.summary
    assert result.metrics["accuracy"] > 0.6


def test_interrupted_and_resumed(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    aft.train(**options)
    whole = weights(options["out"])
    options |= {"out": options["out"].with_name("second"), "eval_every": 10}
    from aft.training.trainer import Trainer

    saved = Trainer.save

    def stop(self: Trainer) -> None:
        saved(self)
        if self.progress.step == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            aft.train(**options)
    aft.train(**options, resume=True)
    assert_same(whole, weights(options["out"]))


def test_other_names_do_not_resume(options: dict[str, Any]) -> None:
    aft.train(**options)
    options["classes"].write_text("sport\nfood\nspace\n")
    with pytest.raises(ConfigError):
        aft.train(**options, resume=True)


def test_unlabelled_rows_of_a_file_and_the_command_line(
    options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from aft.cli import main

    more = tmp_path / "more.txt"
    generator = np.random.default_rng(7)
    more.write_text("".join(draw_text("food", generator) + "\n" for _ in range(12)))
    status = main(["train", *flags({**options, "unlabelled": more})])
    said = capsys.readouterr()
    assert not status and "agreement" in said.out and "accuracy  " not in said.out
    result = json.loads((options["out"] / "result.json").read_text())
    assert result["rows_without_labels"] == 12
    with pytest.raises(DataError):
        aft.evaluate(run=options["out"], progress=False)


def test_pictures_with_texts(options: dict[str, Any], tmp_path: Path) -> None:
    folder = make_picture_text_folder(tmp_path / "pairs")
    table = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    names = sorted({row.pop("label") for row in rows})
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options["classes"].write_text("".join(f"{name}\n" for name in names))
    words, colours = options["teachers"], options["teachers"].replace(":words", ":colours")
    result = aft.train(
        **{
            **options,
            "data": folder,
            "teachers": (f"image={colours}", f"text={words}"),
            "student": ("image=small:cnn-tiny?size=32", "text=small:static?dim=16"),
            "steps": 4,
        }
    )
    assert result.summary["metric"] == "agreement" and len(result.summary["teachers"]) == 2
    pictures = {"teachers": f"image={colours}", "overwrite": True, "data": folder}
    with pytest.raises(ConfigError):
        aft.train(**{**options, **pictures, "student": "image=small:cnn-tiny?size=32"})


def test_soft_labels_made_elsewhere_with_names(options: dict[str, Any], tmp_path: Path) -> None:
    texts = [json.loads(line)["text"] for line in options["data"].read_text().splitlines()]
    eye = np.eye(3)[np.arange(len(texts)) % 3] * 0.7 + 0.1
    columns = {name: eye[:, place] for place, name in enumerate(TOPICS)}
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts, **columns}), tmp_path / "soft.parquet"
    )
    options["teachers"] = f"features:{tmp_path / 'soft.parquet'}?soft=probabilities"
    result = aft.train(**{**options, "classes": tmp_path / "names.txt"} | _names(tmp_path))
    assert result.metrics["agreement"] > 0.5


def _names(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "names.txt").write_text("\n".join(TOPICS))
    return {"classes": tmp_path / "names.txt"}


def test_names_must_match_the_labels(options: dict[str, Any]) -> None:
    options["data"] = add_labels(options["data"], 30)
    options["classes"].write_text("sport\nfood\n")
    with pytest.raises(DataError) as error:
        aft.train(**options)
    assert says(error.value, "space", 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"teachers": ()},
        {"loss": "aft"},
        {"beta": 0},
        {"task": "regression"},
        {"class_template": "about"},
        {"classes": "nowhere.txt"},
        {"classes": None},
        {"class_weights": "balanced"},
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        aft.train(**{**options, **changes})


def test_no_test_rows_without_labels(options: dict[str, Any]) -> None:
    with pytest.raises(AftError) as error:
        aft.train(**options, test_fraction=0.2)
    assert says(error.value, "--test-fraction")


def test_a_folder_of_pictures_or_texts_without_classes(tmp_path: Path) -> None:
    from aft.data.loading import load_data

    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    names = tmp_path / "classes"
    names.write_text("a\nb\n")
    data = load_data(str(tmp_path), classes=read_class_names(names), progress=False)
    assert data.splits["train"].labels is None and len(data.splits["train"]) == 18


def test_files_of_names(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffbig_cat\n\nbird\ta small bird \n")
    found = read_class_names(path)
    assert found.names == ("big_cat", "bird") and found.texts == ("big cat", "a small bird")
    for wrong in ("one\n", "one\ntwo\none\n", "\tdescription\ntwo\n", ""):
        path.write_text(wrong)
        with pytest.raises(ConfigError):
            read_class_names(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        read_class_names(path)
