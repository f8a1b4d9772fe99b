"""Texts, pairs and pictures with texts as the world has them: broken, missing, endless, moved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

import aft
from aft.data.loading import DataSet, load_data, load_inputs
from aft.data.readers.find_columns import Columns
from aft.errors import AftError, DataError
from aft.features.run_teacher import Compute, compute_features
from aft.students.saved import SavedStudent
from aft.tasks import Task, encode_labels
from aft.teachers.loading import load_teacher
from aft.training.trainer import Trainer
from helpers.errors import says
from helpers.text_data import make_picture_text_folder, make_text_table
from helpers.text_models import make_bert, make_gpt2
from helpers.training import TEACHERS, assert_same, weights

ROWS = [(f"text number {i} é", "ab"[i % 2]) for i in range(12)]
CSV = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS)
# A student without dropout, so that a run does not depend on how a batch is shared out.
STUDENT = """

class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = Words()
        self.out = nn.Linear(24, 16, bias=False)

    def forward(self, tokens):
        return self.out(self.words(tokens))


def text_student():
    return Mean(), words()[1]


def image_student():
    from aft import Preprocessing
    layers = nn.Conv2d(3, 8, 3, stride=4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)
    return nn.Sequential(*layers), Preprocessing(32)
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    file = tmp_path / "models.py"
    file.write_text(TEACHERS + STUDENT)
    return f"python:{file}"


@pytest.fixture
def common(tmp_path: Path) -> dict[str, Any]:
    return {
        "out": tmp_path / "run",
        "features": tmp_path / "features",
        "steps": 8,
        "batch_size": 16,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path: Path, content: bytes, **columns: Any) -> DataSet:
    path.write_bytes(content)
    return load_data(str(path), Columns(**columns), validation_fraction=0.2, progress=False)


def all_texts(data: DataSet) -> set[Any]:
    return {split.input(i) for split in data.splits.values() for i in range(len(split))}


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        CSV.encode(),
        b"\xef\xbb\xbf" + CSV.encode(),
        b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode(),
        CSV.replace("\n", "\r").encode(),
        CSV.replace("text,label", '"text","label"').encode(),
    ],
    ids=["plain", "mark", "mark and CRLF", "CR", "quoted names"],
)
def test_line_ends_and_marks_do_not_change_texts(tmp_path: Path, content: bytes) -> None:
    assert all_texts(read(tmp_path / "t.csv", content)) == {text for text, _ in ROWS}


def test_quoted_newlines_and_nul_bytes_stay_in_the_text(tmp_path: Path) -> None:
    content = CSV.replace("number", 'num\r\nber, ""x""\0').encode()
    found = all_texts(read(tmp_path / "t.csv", content))
    assert found == {text.replace("number", 'num\r\nber, "x"\0') for text, _ in ROWS}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CSV.encode("latin-1"), "0xe9"),
        (CSV.replace(",a\n", ",é\n").encode("latin-1"), "0xe9"),
        (CSV.encode("utf-16-le"), "UTF-16"),
        (CSV.replace("text number", "中文文本").encode("utf-16-le"), "UTF-16"),
        (b"text,label\n", "rows"),
        (b"text,label\n ,a\n\xc2\xa0,b\n", "empty"),
    ],
    ids=["latin-1", "latin-1 label", "no mark", "Chinese", "no rows", "all empty"],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path / "t.csv", content)
    assert says(error.value, "t.csv", said)


def test_half_a_surrogate_pair_costs_one_row(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    lines[3] = lines[3].replace("text", r"\ud83d text", 2).replace(r'"\ud83d text":', '"text":', 1)
    data = read(tmp_path / "t.jsonl", "\n".join(lines).encode())
    assert len(data.report.bad_inputs) == 1 and "surrogate" in data.report.bad_inputs[0][1]


def test_numbers_in_a_csv_are_texts_as_they_are_written(tmp_path: Path) -> None:
    content = "text,label\n" + "".join(f"00{i}.50,{'ab'[i % 2]}\n" for i in range(10))
    assert all_texts(read(tmp_path / "t.csv", content.encode())) == {f"00{i}.50" for i in range(10)}


def test_a_parquet_of_categories_and_nulls(tmp_path: Path) -> None:
    texts, labels = zip(*ROWS, strict=True)
    table = pa.table(
        {
            "text": pa.array([None, *texts[1:]]).dictionary_encode(),
            "label": pa.array([*labels[:-1], None]).dictionary_encode(),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    data = load_data(str(tmp_path / "t.parquet"), validation_fraction=0.2, progress=False)
    assert all_texts(data) == set(texts[1:-1]) and data.report.unlabelled == 1


# Labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [0, True])
def test_a_number_that_is_no_class_is_not_taken_for_a_position(unknown: Any) -> None:
    task = Task("classification", ("1", "2", "3"))
    with pytest.raises(DataError) as error:
        encode_labels({"label": [unknown, 1]}, task)
    assert says(error.value, unknown, "3")


def test_labels_of_one_file_are_words_and_of_another_numbers(tmp_path: Path) -> None:
    for name, labels in (("train", ["1", "2", "x"]), ("test", ["1", "2", "2"])):
        rows = "".join(f"{name} {i},{labels[i % 3]}\n" for i in range(12))
        (tmp_path / f"{name}.csv").write_text("text,label\n" + rows)
    data = load_data(str(tmp_path), progress=False)
    assert data.task.names == ("1", "2", "x")


def test_labels_of_one_file_are_whole_numbers_and_of_another_not(tmp_path: Path) -> None:
    for name, labels in (("train", ["1.0", "2.0", "3.0"]), ("test", ["1", "2", "3"])):
        rows = "".join(f"{name} {i},{labels[i % 3]}\n" for i in range(12))
        (tmp_path / f"{name}.csv").write_text("text,label\n" + rows)
    data = load_data(str(tmp_path), progress=False)
    assert data.task.num_outputs == 3
    assert data.splits["test"].labels is not None
    assert data.splits["test"].labels.tolist() == [0, 1, 2] * 4


# Texts --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("run_pages")
def test_texts_of_any_kind_and_length_train_a_student(
    common: dict[str, Any], python: str, tmp_path: Path
) -> None:
    path = make_text_table(tmp_path / "texts.jsonl", train=40, test=8)
    many = 50_000
    strange = [
        "x" * many,
        "word " * (many // 5),
        " " * many + "end",
        "e\u0301" * (many // 2),
        "שלום 👩‍👩‍👧‍👦 مرحبا 🏳️‍🌈",
        "\u200b\ufeff",
        "\0\0",
        "</script><script>alert(1)</script>",
    ]
    empty = ["", " ", " " * many, "\u00a0\u2003", "\x85"]
    rows = [{"text": text, "label": "food", "split": "test"} for text in [*strange, *empty]]
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    options = {**common, "data": str(path), "teachers": f"{python}:words"}
    for student in ("small:static?dim=16", f"hf:{make_bert(tmp_path / 'bert')}?layers=1"):
        result = aft.train(**options, student=student, overwrite=True)
        assert np.isfinite(list(result.metrics.values())).all()
        assert result.summary["rows"]["test"] == 8 + len(strange)
        assert f"{len(empty)} unreadable" in " ".join(result.summary["notes"])
    page = result.out / "report.html"
    assert "<script>alert(1)" not in page.read_text() and page.stat().st_size < 2_000_000


@pytest.mark.parametrize("make", [make_bert, make_gpt2])
def test_a_text_alone_has_the_features_that_it_has_among_others(make: Any, tmp_path: Path) -> None:
    teacher = load_teacher(f"hf:{make(tmp_path / 'model')}")
    words = ["the", "movie", "was", "great", "and", "quiet"]
    texts = [" ".join((words * 12)[: 1 + i % 60]) + f" {i}" for i in range(40)]
    rows = [{"text": text} for text in [*texts, "\u200b", "🏳️‍🌈"]]
    samples, _ = load_inputs(write_lines(tmp_path / "t.jsonl", rows), progress=False)

    def features(rows: Any) -> torch.Tensor:
        found = torch.zeros(len(samples), teacher.dim)
        for positions, values in compute_features(teacher, samples, rows, Compute(num_workers=0)):
            found[torch.from_numpy(positions)] = values
        return found[torch.from_numpy(np.asarray(rows))]

    together = features(np.arange(len(samples)))
    alone = torch.cat([features(np.asarray([row])) for row in range(len(samples))])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def test_one_text_in_columns_and_files_is_one_row_of_the_store(tmp_path: Path, python: str) -> None:
    pairs = [{"premise": text, "hypothesis": text} for text, _ in ROWS]
    files = [
        write_lines(tmp_path / "pairs.jsonl", pairs),
        write_lines(tmp_path / "texts.jsonl", [{"text": text} for text, _ in ROWS]),
        str(tmp_path / "lines.txt"),
    ]
    Path(files[2]).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(text for text, _ in ROWS).encode())
    words = f"{python}:words"
    common = {"features": tmp_path / "features", "device": "cpu", "progress": False}
    for data, teachers in zip(
        files, ((f"premise={words}", f"hypothesis={words}"), words, words), strict=True
    ):
        for found in aft.extract(data=data, teachers=teachers, **common):
            assert found["rows in store"] == len(ROWS)


# Runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option", ["max_tokens=5", "template={{x}} {0}", "template={{folder}} {0}"]
)
def test_a_student_can_be_moved_whatever_its_template(
    option: str, common: dict[str, Any], python: str, tmp_path: Path
) -> None:
    data = make_text_table(tmp_path / "texts.jsonl", train=30, test=9)
    student = f"small:static?dim=8&{option}"
    result = aft.train(**common, data=str(data), teachers=f"{python}:words", student=student)
    moved = tmp_path / "a folder?x&y={z}"
    result.out.rename(moved)
    assert aft.evaluate(run=moved, progress=False)["nll"] == pytest.approx(result.metrics["nll"])
    assert SavedStudent.load(moved / "student").columns[0].name == "text"


def keep_parts(folder: Path, images: Any, texts: Any) -> str:
    """Leave only some images and texts in a table of both."""
    file = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["image"] = row["image"] if images(i, row) else None
        row["text"] = row["text"] if texts(i, row) else "  "
    write_lines(file, rows)
    return str(folder)


@pytest.fixture
def both(common: dict[str, Any], python: str) -> dict[str, Any]:
    return {
        **common,
        "teachers": (f"image={python}:colours", f"text={python}:words"),
        "student": ("image=small:cnn-tiny?size=32", "text=small:static?dim=16"),
    }


def test_most_parts_are_missing(both: dict[str, Any], tmp_path: Path) -> None:
    folder = make_picture_text_folder(tmp_path / "both")
    both["data"] = keep_parts(folder, lambda i, _: i % 3 == 0, lambda i, _: i % 3 == 1)
    both |= {"batch_size": 2, "combine": "product", "fusion": "product"}
    result = aft.train(**both)
    assert np.isfinite(list(result.metrics.values())).all()
    assert "neither image nor text" in " ".join(result.summary["notes"])
    new = write_lines(tmp_path / "new.jsonl", [{"image": None, "text": "goal"}] * 3)
    found = aft.predict(run=result.out, data=new, out=tmp_path / "l.csv", progress=False)
    assert found["rows"] == 3


def test_training_rows_that_all_lack_an_image_are_named(
    both: dict[str, Any], tmp_path: Path
) -> None:
    folder = make_picture_text_folder(tmp_path / "both")
    both["data"] = keep_parts(folder, lambda _, row: row["split"] != "train", lambda *_: True)
    with pytest.raises(AftError) as error:
        aft.train(**both)
    assert says(error.value, "image")


class Killed(BaseException):
    """Nothing of ours runs after it, as after a SIGKILL."""


def test_a_killed_run_over_both_goes_on_as_if_it_had_not_been(
    both: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both |= {"data": str(make_picture_text_folder(tmp_path / "both", missing=3)), "eval_every": 4}
    whole = aft.train(**{**both, "out": tmp_path / "whole"})
    step = Trainer._step

    def stepped(self: Trainer, *args: Any) -> Any:
        if self.progress.step == 5:
            raise Killed
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stepped)
        with pytest.raises(Killed):
            aft.train(**both)
    assert_same(weights(whole.out), weights(aft.train(**both, resume=True).out))


@pytest.mark.slow
def test_two_processes_are_as_good_as_one_for_both(
    both: dict[str, Any], python: str, tmp_path: Path
) -> None:
    both |= {
        "data": str(make_picture_text_folder(tmp_path / "both", missing=3)),
        "student": (f"image={python}:image_student", f"text={python}:text_student"),
        "trust_remote_code": True,
    }
    alone = aft.train(**both)
    config = tmp_path / "run.yaml"
    shared = {**both, "out": tmp_path / "two", "features": tmp_path / "features of two"}
    values = {k: str(v) if isinstance(v, Path) else v for k, v in shared.items()}
    config.write_text(json.dumps(values), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--config", str(config), "--trust-remote-code"]
    command = [*torchrun, "--nproc-per-node", "2", "-m", "aft", "train", *options]
    done = subprocess.run(command, capture_output=True, env=here(), timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    one, two = weights(alone.out), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=0)


def here() -> dict[str, str]:
    """The environment for another process that finds the modules of the tests."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
