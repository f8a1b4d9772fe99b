"""The main job on texts, on pairs of texts, and on pictures with texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

import aft
from aft.errors import ConfigError, DataError
from aft.students.saved import SavedStudent
from helpers.errors import says
from helpers.text_data import make_picture_text_folder, make_text_table
from helpers.text_models import make_bert
from helpers.training import TEACHERS, assert_same, weights


@pytest.fixture
def teachers(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "teachers.py"
    file.write_text(TEACHERS)
    return {name: f"python:{file}:{name}" for name in ("words", "colours")}


@pytest.fixture
def common(tmp_path: Path) -> dict[str, Any]:
    return {
        "out": tmp_path / "run",
        "features": tmp_path / "features",
        "steps": 60,
        "batch_size": 16,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


@pytest.fixture
def texts(tmp_path: Path, common: dict[str, Any], teachers: dict[str, str]) -> dict[str, Any]:
    """A small run over texts with a teacher."""
    return {
        **common,
        "data": str(make_text_table(tmp_path / "texts.jsonl")),
        "teachers": teachers["words"],
        "student": "small:static?dim=16",
    }


@pytest.fixture
def pictures_with_texts(
    tmp_path: Path, common: dict[str, Any], teachers: dict[str, str]
) -> dict[str, Any]:
    """A small run over pictures with texts, some of which are missing."""
    return {
        **common,
        "data": str(make_picture_text_folder(tmp_path / "pairs", missing=3)),
        "teachers": (f"image={teachers['colours']}", f"text={teachers['words']}"),
        "student": ("image=small:cnn-tiny?size=32", "text=small:static?dim=16"),
    }


@pytest.mark.usefixtures("run_pages")
def test_texts_from_end_to_end(texts: dict[str, Any], tmp_path: Path) -> None:
    result = aft.train(**texts)
    assert result.split == "test" and result.metrics["accuracy"] > 0.8
    assert result.summary["columns"] == [{"name": "text", "modality": "text"}]
    assert (texts["out"] / "student" / "tokenizer.json").exists()
    scored = aft.evaluate(run=texts["out"], progress=False)
    assert scored["accuracy"] == result.metrics["accuracy"] and scored["rows"] == 30

    new = tmp_path / "new.csv"
    new.write_text('text,other\n"orbit, moon and <b>crew</b>",1\n,2\n"soup with salt",3\n')
    found = aft.predict(run=texts["out"], data=str(new), out=tmp_path / "l.csv", progress=False)
    assert found["rows"] == 2 and len(found["skipped"]) == 1
    table = pyarrow.csv.read_csv(tmp_path / "l.csv").to_pylist()
    assert [row["label"] for row in table] == ["space", "food"]
    page = (texts["out"] / "report.html").read_text()
    assert "gravity" in page or "recipe" in page or "season" in page


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_predictions_are_no_formulas(end: str, tmp_path: Path) -> None:
    """A spreadsheet runs cells that begin with =, +, - or @, unless they are numbers."""
    from aft.commands.prediction_files import write_predictions

    cells = ["=1+1", "+a", "-a", "@a", "\t=1", "\r=1", "a=1", "-1.5", "+2", "'=1", "", "ü"]
    table = {"label": cells, "=name": cells, "probability": [-0.5] * len(cells)}
    write_predictions(tmp_path / f"p{end}", end, None, table)
    if end == ".parquet":
        assert pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pydict() == table
        return
    kinds = pyarrow.csv.ConvertOptions(column_types={"label": pyarrow.string()})
    found = pyarrow.csv.read_csv(tmp_path / "p.csv", convert_options=kinds).to_pydict()
    escaped = [f"'{cell}" if i < 6 else cell for i, cell in enumerate(cells)]
    assert found["label"] == escaped and found["'=name"] == escaped
    assert found["probability"] == table["probability"]


def test_a_column_of_another_name_is_found_by_the_student(
    texts: dict[str, Any], tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(Path(texts["data"]).read_text().replace('"text"', '"headline"'))
    texts |= {"data": str(renamed), "text_column": "headline", "steps": 5}
    aft.train(**texts)
    found = aft.predict(run=texts["out"], data=str(renamed), out=tmp_path / "a.csv", progress=False)
    assert found["rows"] == 120
    lines = tmp_path / "lines.txt"
    lines.write_text("moon\n\nsoup\n")
    found = aft.predict(run=texts["out"], data=str(lines), out=tmp_path / "b.csv", progress=False)
    assert found["rows"] == 2


def test_resumed_text_runs_are_what_they_would_have_been(
    texts: dict[str, Any], tmp_path: Path
) -> None:
    whole = aft.train(**texts)
    again = aft.train(**{**texts, "out": tmp_path / "again"})
    assert_same(weights(whole.out), weights(again.out))

    from aft.training.trainer import Interrupted, Trainer

    original = Trainer._step

    def interrupted(self: Trainer, *args: Any) -> Any:
        if self.progress.step == 31:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    broken = {**texts, "out": tmp_path / "broken"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        with pytest.raises(Interrupted):
            aft.train(**broken)
    resumed = aft.train(**broken, resume=True)
    assert_same(weights(whole.out), weights(resumed.out))


def test_a_transformer_needs_only_its_own_folder_afterwards(
    texts: dict[str, Any], tmp_path: Path
) -> None:
    from aft.training.trainer import Trainer

    bert = make_bert(tmp_path / "bert", num_hidden_layers=3)
    texts |= {"student": f"hf:{bert}", "steps": 8, "batch_size": 8, "eval_every": 4}
    texts |= {"student_layers": 2, "from_": "spaced"}
    result = aft.train(**texts)
    broken, original = {**texts, "out": tmp_path / "broken"}, Trainer._step

    def interrupted(self: Trainer, *args: Any) -> Any:
        if self.progress.step == 5:
            raise KeyboardInterrupt
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            aft.train(**broken)
    aft.train(**broken, resume=True)
    assert_same(weights(result.out), weights(broken["out"]))
    shutil.rmtree(bert)
    assert aft.evaluate(run=texts["out"], progress=False)["nll"] == pytest.approx(
        result.metrics["nll"], rel=1e-5
    )
    moved = tmp_path / "elsewhere"
    shutil.copytree(texts["out"] / "student", moved)
    shutil.rmtree(texts["out"])
    student = SavedStudent.load(moved)
    assert "from=spaced" in student.backbone.info["architecture_spec"]
    assert student.columns[0].name == "text"
    tokens = student.transform("a rocket").unsqueeze(0)
    assert torch.isfinite(student.module(tokens).logits).all()


@pytest.mark.parametrize("student", ["small:static?dim=16", "hf"])
def test_pairs_of_texts(
    student: str, common: dict[str, Any], teachers: dict[str, str], tmp_path: Path
) -> None:
    if student == "hf":
        student = f"hf:{make_bert(tmp_path / 'bert')}?layers=1"
    options = {
        **common,
        "data": str(make_text_table(tmp_path / "pairs.jsonl", pairs=True)),
        "student": student,
        "teachers": (teachers["words"], f"premise={teachers['words']}"),
        "steps": 8,
    }
    result = aft.train(**options)
    assert [column["name"] for column in result.summary["columns"]] == ["premise", "hypothesis"]
    again = aft.evaluate(run=common["out"], progress=False)  # in other batches
    assert again["nll"] == pytest.approx(result.metrics["nll"], rel=1e-6)


@pytest.mark.usefixtures("run_pages")
@pytest.mark.parametrize(("fusion", "combine"), [("concat", "concat"), ("product", "product")])
def test_pictures_with_texts(
    pictures_with_texts: dict[str, Any], fusion: str, combine: str, tmp_path: Path
) -> None:
    options = {**pictures_with_texts, "fusion": fusion, "combine": combine}
    result = aft.train(**options)
    assert result.metrics["accuracy"] > 0.6  # four classes, which either column alone halves
    assert result.summary["student_columns"] == ["image", "text"]
    notes = " ".join(result.summary["notes"])
    assert "3" in notes and "text" in notes and "image" in notes
    data = json.loads((options["out"] / "data.json").read_text())
    assert data["missing"] == {"image": 3, "text": 3} or sum(data["missing"].values()) == 6
    scored = aft.evaluate(run=options["out"], progress=False)
    assert scored["accuracy"] == result.metrics["accuracy"]
    found = aft.predict(
        run=options["out"], data=options["data"], out=tmp_path / "l.csv", progress=False
    )
    assert found["rows"] == 72 and found["missing"] == {"image": 3, "text": 3}
    lines = tmp_path / "lines.txt"
    lines.write_text("moon rocket\n")
    found = aft.predict(run=options["out"], data=str(lines), out=tmp_path / "m.csv", progress=False)
    assert found["rows"] == 1 and found["missing"] == {"image": 1}
    student = result.student()
    logits = student.logits([{"text": "moon rocket"}, {"text": "moon", "image": None}])
    assert logits.shape == (2, 4) and torch.isfinite(logits).all()
    with pytest.raises(DataError, match=r"row\[1\]"):
        student.logits([{"text": "moon rocket"}, {"text": None, "image": None}])
    assert "data:image/" in (options["out"] / "report.html").read_text()


def test_a_student_may_take_one_column_and_its_teachers_both(
    pictures_with_texts: dict[str, Any], tmp_path: Path
) -> None:
    options = {**pictures_with_texts, "student": "image=small:cnn-tiny?size=32", "steps": 6}
    aft.train(**options)
    folder = Path(options["data"])
    found = aft.predict(
        run=options["out"],
        data=str(folder),
        out=tmp_path / "l.csv",
        image_column="image",
        progress=False,
    )
    assert found["rows"] == 69  # three rows have no picture, and only pictures are looked at


def test_what_does_not_fit_is_said(pictures_with_texts: dict[str, Any], teachers: Any) -> None:
    def refused(*named: object, **changes: Any) -> None:
        with pytest.raises((ConfigError, DataError)) as error:
            aft.train(**{**pictures_with_texts, **changes})
        assert says(error.value, *named)

    refused("--student image=", "text=", student="small:cnn-tiny")
    refused("'title'", student=("image=small:cnn-tiny", "title=small:static"))
    refused("text=", "image", teachers=f"text={teachers['colours']}")
    refused("--fusion product", student="image=small:cnn", fusion="product")
    refused("--student-layers", "hf:", student="image=small:cnn", student_layers=1)
    refused("--from spaced", "--student-layers", from_="spaced")
    refused("image=small:cnn-tiny", student=("image=small:cnn", "image=small:cnn-tiny"))
    refused("'headline'", text_column="headline")


def test_a_missing_part_has_the_mean_features(pictures_with_texts: dict[str, Any]) -> None:
    from aft.config.commands import TrainConfig
    from aft.data.options import load_training_data
    from aft.features.stored import extract_teachers

    config = TrainConfig(**pictures_with_texts)
    samples = load_training_data(config).splits["train"]
    ((_, text),) = extract_teachers(config, [samples], torch.device("cpu"))
    missing = np.flatnonzero(~samples.only("text").present[:, 0])
    assert 1 <= len(missing) <= 3
    features = text.gather(np.arange(len(samples)))
    present = np.setdiff1d(np.arange(len(samples)), missing)
    assert torch.equal(features[missing[0]], text.statistics().mean)
    torch.testing.assert_close(text.statistics().mean, features[present].mean(0), atol=1e-3, rtol=0)


def test_a_text_is_one_row_whatever_its_column_and_file(
    tmp_path: Path, teachers: dict[str, str]
) -> None:
    texts = [f"rocket number {i}" for i in range(20)]
    first, second = tmp_path / "first.csv", tmp_path / "second.jsonl"
    first.write_text("text\n" + "".join(f"{text}\n" for text in texts))
    pairs = [{"premise": texts[i], "hypothesis": texts[-i]} for i in range(20)]
    second.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    both = (f"premise={teachers['words']}", f"hypothesis={teachers['words']}")
    for data, specs in ((first, teachers["words"]), (second, both)):
        found = aft.extract(
            data=str(data), teachers=specs, features=tmp_path / "features", progress=False
        )
        assert {one["rows in store"] for one in found} == {20}
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_a_teacher_that_cuts_texts_says_so(texts: dict[str, Any], tmp_path: Path) -> None:
    topics = {"space": "moon " * 40, "food": "bread " * 3}
    rows = [{"text": f"{t}{i}", "label": label} for label, t in topics.items() for i in range(8)]
    long = tmp_path / "long.jsonl"
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = aft.train(**{**texts, "data": str(long), "steps": 2})
    cut = [note for note in result.summary["notes"] if "32 tokens" in note and "python:" in note]
    assert len(cut) == 1
