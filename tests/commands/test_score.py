"""The command `aft score`, on teachers whose quality is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray

import aft
from aft.cli import main
from aft.data.loading import load_data
from aft.errors import ConfigError
from aft.ids import content_id
from aft.losses.logme import log_me
from aft.scoring.measures import Probe
from aft.scoring.recommendation import Candidate, choose
from helpers.report_pages import Page, check_self_contained
from helpers.text_models import make_bert

ROWS = 150
TOPICS = ("bread", "match", "rocket")
Array = NDArray[np.float32]


class Made:
    """A table of informative or uninformative texts, and feature tables as teachers."""

    def __init__(self, folder: Path, kind: str = "classification", telling: bool = False) -> None:
        self.folder = folder
        generator = np.random.default_rng(0)
        self.classes = np.arange(ROWS) % 3
        self.hidden = generator.normal(size=(ROWS, 2)).astype(np.float32)
        self.texts = [
            f"{TOPICS[c] if telling else 'some'} word{i}" for i, c in enumerate(self.classes)
        ]
        rows: list[dict[str, Any]] = []
        for i, text in enumerate(self.texts):
            label: Any = TOPICS[self.classes[i]]
            if kind == "regression":
                label = float(self.hidden[i].sum() + 7)
            elif kind == "multilabel":
                label = [TOPICS[j] for j in range(2) if self.hidden[i, j] > 0]
            rows.append({"text": text, "label": label})
        self.data = folder / "data.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def teacher(self, name: str, values: Array) -> str:
        path = self.folder / f"{name}.parquet"
        ids = [content_id(text.encode()).hex() for text in self.texts]
        table = {"sample_id": ids, "features": list(values.astype(np.float32))}
        pyarrow.parquet.write_table(pyarrow.table(table), path)
        return f"features:{path}"

    def good(self, dim: int = 8, noise: float = 1.0, seed: int = 1) -> Array:
        """Features of separable classes; less noise separates them better."""
        generator = np.random.default_rng(seed)
        centres = np.random.default_rng(9).normal(size=(3, dim))
        values = centres[self.classes] + noise * generator.normal(size=(ROWS, dim))
        return values.astype(np.float32)

    def noise(self, dim: int = 8) -> Array:
        return np.random.default_rng(2).normal(size=(ROWS, dim)).astype(np.float32)

    def score(self, *teachers: str, **options: Any) -> aft.ScoreResult:
        return aft.score(
            data=str(self.data),
            teachers=teachers,
            features=self.folder / "store",
            features_dtype="fp32",
            out=self.folder / "out",
            progress=False,
            device="cpu",
            **options,
        )


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_log_me_is_that_of_the_features(made: Made) -> None:
    values = made.good()
    found = made.score(made.teacher("good", values))
    train = load_data(str(made.data), progress=False).splits["train"]
    place = {text: i for i, text in enumerate(made.texts)}
    rows = [place[str(train.input(i))] for i in range(len(train))]
    expected = log_me(torch.from_numpy(values[rows]), torch.from_numpy(np.asarray(train.labels)))
    assert found.table[0]["log_me"] == pytest.approx(expected.score, abs=1e-9)
    assert found.document["rows"] == {
        "train": len(train),
        "unlabelled": 0,
        "scored": len(train),
        "compared": len(train),
    }


def test_a_teacher_that_knows_more_is_named(made: Made) -> None:
    good, noise = made.teacher("good", made.good()), made.teacher("noise", made.noise())
    found = made.score(noise, good, student="small:static")
    advice = found.recommendation
    assert advice.verdict == "use" and advice.teachers == (good,)
    assert advice.gap[0] > 2 * advice.gap[1] > 0 and advice.gain is not None
    assert advice.gain[1] < advice.gain[0] < advice.gain[2] and advice.gain[0] > 0
    said = str(advice)
    assert "good.parquet" in said and "noise.parquet" not in said
    assert f"{advice.probe[0]:.3f} ± {advice.probe[1]:.3f}" in said
    assert advice.student is not None
    assert f"{advice.student[0]:.3f} ± {advice.student[1]:.3f}" in said
    assert all(f"{value:+.3f}" in said for value in advice.gain)
    assert len(found.table) == 4 and found.table[-1]["names"] == ["student before training"]


def test_the_score_of_a_text_student_is_that_of_its_linear_start(tmp_path: Path) -> None:
    made = Made(tmp_path, telling=True)
    good = made.teacher("good", made.good())
    linear, drawn = (made.score(good, student=f"small:{name}") for name in ("ngrams", "static"))
    assert linear.document["student"]["weights"] == "linear model"
    assert linear.table[-1]["probe"] > 0.95
    assert linear.table[-1]["neighbours"] is None and drawn.table[-1]["neighbours"] is not None
    assert "\u2013" in linear.text  # its features are fitted to the labels: no other score


def test_more_labels_and_rows_without_labels_are_weighed(made: Made) -> None:
    found = made.score(made.teacher("good", made.good()), student="small:static")
    said = str(found.recommendation)
    half = re.search(r"half of these labels .* ([+-]\d\.\d{3})", said)
    assert half is not None
    gain = found.recommendation.gain
    assert gain is not None
    (more,) = re.findall(r"would be ([+-]\d\.\d{3})", said)
    assert float(more) > gain[0]


def test_teachers_that_know_no_more(tmp_path: Path) -> None:
    made = Made(tmp_path, telling=True)
    noise = made.teacher("noise", made.noise())
    advice = made.score(noise, student="small:static").recommendation
    assert advice.verdict == "don't" and advice.gap[0] < 0
    assert "noise.parquet" in str(advice) and f"{advice.probe[0]:.3f}" in str(advice)
    alone = made.score(noise).recommendation
    assert alone.verdict == "don't" and alone.student is None and alone.gain is None
    assert f"{alone.chance:.3f}" in str(alone)
    # A teacher that is as good as the student is not recommended either.
    good = made.teacher("good", made.good(noise=0.01))
    assert made.score(good, student="small:static").recommendation.verdict == "don't"


def test_of_two_that_are_the_same_one_is_enough(made: Made) -> None:
    values = made.good()
    turned = values @ np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0]
    one, same = made.teacher("one", values), made.teacher("same", turned)
    found = made.score(one, same)
    assert len(found.recommendation.teachers) == 1
    assert found.document["similarity"]["values"][0][1] == pytest.approx(1, abs=1e-3)


def test_two_that_know_different_things_are_both_named(made: Made) -> None:
    first = made.noise()
    first[:, 0] = 3 * (made.classes == 0)
    second = made.noise()[:, ::-1].copy()
    second[:, 0] = 3 * (made.classes == 1)
    found = made.score(made.teacher("first", first), made.teacher("second", second))
    assert len(found.recommendation.teachers) == 2
    said = str(found.recommendation)
    assert "first.parquet" in said and "second.parquet" in said


def test_of_many_teachers_sets_grow_by_the_best(made: Made) -> None:
    teachers = [made.teacher(f"noise{i}", made.noise(3 + i)) for i in range(4)]
    found = made.score(*teachers, made.teacher("good", made.good()))
    sizes = [len(row["teachers"]) for row in found.table]
    assert sizes[:5] == [1] * 5 and sizes[-1] == 5 and len(sizes) < 12
    assert found.recommendation.teachers == (f"features:{made.folder / 'good.parquet'}",)


def test_one_standard_error_decides() -> None:
    def candidate(names: str, score: float) -> Candidate:
        return Candidate(tuple(names), tuple(names), len(names), Probe(score, 0.02, torch.zeros(2)))

    all_of_them = [candidate("a", 0.80), candidate("b", 0.78), candidate("ab", 0.815)]
    best, taken = choose(all_of_them)
    assert best.names == ("a", "b") and taken.names == ("a",)
    assert choose([*all_of_them[:2], candidate("ab", 0.85)])[1].names == ("a", "b")


@pytest.mark.parametrize(("kind", "chance"), [("regression", 0.0), ("multilabel", 0.5)])
def test_other_tasks(tmp_path: Path, kind: str, chance: float) -> None:
    made = Made(tmp_path, kind)
    values = np.concatenate([made.hidden, made.noise(4)], axis=1)
    good, noise = made.teacher("good", values), made.teacher("noise", made.noise())
    found = made.score(good, noise, student="small:static", task=kind)
    row, other, *_ = found.table
    assert found.recommendation.teachers == (good,) and row["probe"] > 0.9
    assert found.document["chance"] == pytest.approx(chance, abs=0.15)
    for score in ("probe", "neighbours", "alignment", "log_me"):
        assert row[score] > other[score]
    assert row["tmi"] is None and set(row["undefined"]) == {"tmi"}
    assert (
        row["undefined"]["tmi"].rstrip(".") in found.text
        and "nan" not in json.dumps(found.to_dict()).lower()
    )


def test_what_is_written(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    teachers = [made.teacher("good", made.good()), made.teacher("<b>", made.noise())]
    flags = ["score", "--data", str(made.data), "--teachers", *teachers, "--no-progress"]
    flags += ["--features", str(made.folder / "store"), "--out", str(made.folder / "out")]
    flags += ["--student", "small:static"]
    assert main([*flags, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((made.folder / "out" / "score.json").read_text())
    assert printed["metric"] == "accuracy" and printed["teachers"][0]["rows_computed"] == 135
    row = printed["table"][0]
    assert set(row["seconds"]) == {"probe", "ridge", "neighbours", "alignment", "log_me", "tmi"}
    assert row["probe_se"] > 0 and row["dim"] == 8
    assert printed["recommendation"]["verdict"] == "use"
    assert main(flags) == 0  # second run in the same folder, with stored features
    text = capsys.readouterr().out
    advice = json.loads((made.folder / "out" / "score.json").read_text())["recommendation"]
    assert "good.parquet" in text and f"{printed['chance']:.3f}" in text
    assert all(sentence in text for sentence in advice["sentences"])
    page = Page(made.folder / "out" / "score.html")
    check_self_contained(page)
    assert page.tags.count("svg") == 1 and "&lt;b&gt;" in page.source
    assert "data.jsonl" in page.text and "good.parquet" in page.text


def test_layers_of_a_transformer(made: Made) -> None:
    bert = f"hf:{make_bert(made.folder / 'bert')}"
    found = made.score(bert, made.teacher("good", made.good()), layers=True)
    (layers,) = found.document["layers"]
    assert [row["layer"] for row in layers["layers"]] == [1, 2]
    assert layers["layers"][0]["teachers"] == [f"{bert}?layer=1"]
    assert layers["layers"][1]["probe"] == found.table[0]["probe"]
    assert "bert" in found.text and "layer 1" in found.text
    page = Page(made.folder / "out" / "score.html")
    assert page.tags.count("svg") == 4 and "bert" in page.text


def test_rows_are_drawn_and_the_rest_is_announced(made: Made) -> None:
    found = made.score(made.teacher("good", made.good()), rows=60)
    assert found.document["rows"]["scored"] == 60
    (teacher,) = found.document["teachers"]
    assert teacher["rows_computed"] == 60 and teacher["rows_left"] == 75
    cost = found.recommendation.sentences[-1]
    assert re.search(r"\b75\b", cost) and re.search(r"\b135\b", cost)


def test_what_is_wrong_is_said(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--teachers"):
        aft.score(data=str(made.data))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=rf"{re.escape(str(tmp_path / 'out'))}.*--out"):
        made.score("features:x.parquet")


def test_rows_without_labels_are_told(made: Made) -> None:
    good = made.teacher("good", made.good())
    found = made.score(good, student="small:static", train_fraction=0.5, unlabelled="left-out")
    count = found.document["rows"]["unlabelled"]
    assert count > 50
    assert re.search(rf"\b{count}\b", found.recommendation.sentences[-1])
