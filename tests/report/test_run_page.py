from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aft.errors import AftError, DataError
from aft.report import write_run_report
from aft.report.tables import (
    class_scores,
    confusion,
    difference_rows,
    find_changes,
    label_scores,
    most_confused,
)
from aft.training.run_folder import read_run
from helpers.errors import says
from helpers.report_pages import Page, check_self_contained, picture
from helpers.run_folders import make_run

STRANGE = ("<script>alert('x')</script>", "ひまわり", 'a $^{b}$ & "c"', "زهرة")


def test_a_run_of_classification(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        names=STRANGE,
        teachers=(("torchvision:resnet50?weights=/models/モデル<b>.pth", 64), ("timm:vit", 32)),
        bad_inputs=60,
        notes=["2 held-out inputs are also in train: <a> = b"],
    )
    path = write_run_report(run, picture)
    assert path == run / "report.html"
    page = Page(path)
    check_self_contained(page)
    result = json.loads((run / "result.json").read_text())
    right = round(120 * result["metrics"]["accuracy"])
    (lead,) = page.by_class["lead"]
    for value in (result["metrics"]["accuracy"], *result["intervals"]["accuracy"]):
        assert f"{value:.3f}" in lead
    assert "120 rows" in lead and "test" in lead
    assert f"step {result['best_step']} of 1000" in page.text
    assert "caution" not in page.by_class
    assert page.headings[1:] == [
        "Learning curves",
        "Teacher gates",
        "Share of each teacher",
        "Confusion matrix",
        "Scores per class",
        "Examples",
        f"12 most confident of {120 - right} mistakes",
        f"6 of {right} correct predictions",
        "Data",
        "Unreadable inputs",
        "Settings",
    ]
    for spec, share in zip(
        ("torchvision:resnet50?weights=/models/モデル<b>.pth", "timm:vit"),
        result["teacher_shares"],
        strict=True,
    ):
        assert page.row(spec) == [f"{share:.3f}"]
    for name in STRANGE:
        assert name in page.text
    assert "モデル<b>.pth" in page.text
    assert "2 held-out inputs are also in train: <a> = b" in page.text
    assert sum(cells[0].startswith("train/bad") for cells in page.rows if cells) == 50
    assert "50 of 60" in page.text
    assert page.tags.count("svg") == 5  # three curves, two teachers
    assert page.tags.count("img") == 12 + 6
    assert write_run_report(run, picture).read_text() == page.source


@pytest.mark.parametrize(
    ("options", "shown", "charts"),
    [
        ({"teachers": (), "split": "validation"}, "Confusion matrix", 2),
        ({"teachers": ()}, "Learning curves", 2),
        ({"looks": 1}, "Learning curves", 4),
        ({"names": [f"class {i}" for i in range(100)], "rows": 300}, "Most frequent mistakes", 4),
        ({"skill": 1.0}, "Confusion matrix", 4),
        ({"kind": "multilabel"}, "Scores per label", 4),
        ({"kind": "regression", "names": ("weight", "高さ")}, "Predicted against true values", 6),
    ],
    ids=[
        "validation",
        "no teachers",
        "one look",
        "100 classes",
        "perfect",
        "multilabel",
        "numbers",
    ],
)
@pytest.mark.parametrize("pictures", [True, False], ids=["pictures", "no pictures"])
def test_every_kind_of_run(
    tmp_path: Path, options: dict[str, Any], shown: str, charts: int, pictures: bool
) -> None:
    run = make_run(tmp_path / "run", **options)
    page = Page(write_run_report(run, picture if pictures else None))
    check_self_contained(page)
    assert shown in page.headings
    assert ("Teacher gates" in page.headings) == (options.get("teachers") != ())
    # a score on the validation split is optimistic: the page warns, and names the remedy
    warned = ["--test-fraction" in text for text in page.by_class.get("caution", [])]
    assert warned == ([True] if options.get("split") == "validation" else [])
    assert page.tags.count("svg") == charts
    assert ("img" in page.tags) == pictures


METRICS = {
    "classification": ("accuracy", "balanced accuracy", "macro F1", "log loss (lower is better)"),
    "multilabel": ("mean average precision", "micro F1", "log loss (lower is better)"),
    "regression": ("R²", "RMSE (lower is better)", "MAE (lower is better)"),
}


@pytest.mark.parametrize("kind", METRICS)
def test_all_metrics_are_shown(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", kind=kind, names=("a", "b"))
    page = Page(write_run_report(run, None))
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    (tiles,) = page.by_class["tiles"]
    assert tiles == " ".join(
        f"{value:.3f} {name} 95% interval {value - 0.05:.3f} to {value + 0.05:.3f}"
        for value, name in zip(metrics.values(), METRICS[kind], strict=True)
    )


@pytest.mark.parametrize(
    ("metric", "name"), [("balanced_accuracy", "Balanced accuracy"), ("macro_f1", "Macro F1")]
)
def test_the_interval_is_that_of_the_metric(tmp_path: Path, metric: str, name: str) -> None:
    run = make_run(tmp_path / "run")
    path = run / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "metric": metric}))
    (lead,) = Page(write_run_report(run, None)).by_class["lead"]
    assert lead.startswith(f"{name} {result['metrics'][metric]:.3f} ")
    assert all(f"{end:.3f}" in lead for end in result["intervals"][metric])


@pytest.mark.parametrize("kind", METRICS)
def test_a_constant_predictor(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", kind=kind, names=("a", "b"))
    result = json.loads((run / "result.json").read_text())
    trivial = {"metric": next(iter(result["metrics"])), "score": 0.123}
    for entry, notes in (
        (trivial, []),
        ({**trivial, "sentence": "no better than 0.123 & so"}, ["no better than 0.123 & so"]),
    ):
        (run / "result.json").write_text(json.dumps({**result, "trivial": entry, "notes": notes}))
        page = Page(write_run_report(run, picture))
        check_self_contained(page)
        (shown,) = (text for text in page.paragraphs if "0.123" in text)
        assert (shown in page.by_class.get("caution", [])) == ("sentence" in entry)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_initial_weights_that_were_kept(tmp_path: Path, split: str) -> None:
    run = make_run(tmp_path / "run", split=split)
    assert "initial weights)" not in write_run_report(run, picture).read_text()
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "best_step": 0}))
    page = Page(write_run_report(run, picture))
    check_self_contained(page)
    assert "step 0 of 1000" in page.text and "initial weights)" in page.text
    (label,) = re.findall(r"aria-label=\"(accuracy on the validation [^\"]*)", page.source)
    assert "0.320 at step 0" in label  # the score of its own evaluation


@pytest.mark.parametrize("fell_back", [True, False])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_safety_net(tmp_path: Path, fell_back: bool, split: str) -> None:
    run = make_run(tmp_path / "run", fell_back=fell_back, split=split)
    page = Page(write_run_report(run, picture))
    check_self_contained(page)
    found = json.loads((run / "result.json").read_text())["safety_net"]
    sentence = found["sentence"][0].upper() + found["sentence"][1:]
    assert page.text.count(sentence) == 1  # not among the notes on the data again
    finals = [f"{found[name]['final']:.3f}" for name in ("with_transfer", "alone")]
    (line,) = (words for words in page.paragraphs if sentence in words)
    assert all((final in line) == (split == "test") for final in finals)
    assert (line in page.by_class.get("caution", [])) == fell_back
    assert len(page.by_class["key"]) == 2  # of one chart
    assert page.text.count("not kept") == (4 if fell_back else 0)
    assert page.tags.count("svg") == 4
    kept = found["alone" if fell_back else "with_transfer"]
    (label,) = re.findall(r"aria-label=\"(accuracy on the validation [^\"]*)", page.source)
    assert f"at step {kept['best_step']};" in label and "labels alone" in label


def test_a_run_with_nothing_but_its_result(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for path in run.iterdir():
        if path.name != "result.json":
            path.unlink()
    page = Page(write_run_report(run, picture))
    check_self_contained(page)
    assert "svg" not in page.tags


def test_pictures_that_are_gone_are_left_out(tmp_path: Path) -> None:
    def gone(position: int) -> Image.Image:
        raise FileNotFoundError(position)

    page = Page(write_run_report(make_run(tmp_path / "run"), gone))
    assert len(page.by_class["none"]) > 1
    assert "img" not in page.tags


def test_a_long_log_makes_a_small_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    line = '{{"step": {}, "split": "train", "task_loss": 1.5, "transfer_loss": 0.5}}\n'
    (run / "metrics.jsonl").write_text("".join(line.format(i) for i in range(1, 20_001)))
    assert write_run_report(run).stat().st_size < 300_000


def test_a_score_that_is_no_number_is_not_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", kind="regression", names=("weight",))
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(re.sub(r'"r2": [-\d.e]+', '"r2": NaN', text))
    assert Page(write_run_report(run)).tags.count("svg") == 4


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        write_run_report(tmp_path)
    assert says(caught.value, "result.json", tmp_path)


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(AftError) as caught:
        write_run_report(make_run(tmp_path / "run"))
    assert says(caught.value, missing, "pip install", "[report]")


def test_tables_of_a_run(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    run.rows["label"] = ["apple", "apple", "apple", "banana"]
    run.rows["predicted"] = ["apple", "banana", "banana", "banana"]
    counts = confusion(run)
    assert counts.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    assert most_confused(counts, run.task.names) == [
        {"true": "apple", "predicted": "banana", "count": 2, "share": 2 / 3}
    ]
    scores = class_scores(run, counts)
    assert [row["name"] for row in scores] == ["apple", "banana", "cherry"]
    assert [row["recall"] for row in scores] == [1 / 3, 1.0, None]
    assert [row["precision"] for row in scores] == [1.0, 1 / 3, None]


def test_less_confusion_is_good_wherever_it_is() -> None:
    rows = difference_rows(np.array([[4, -4], [2, -2]]))
    assert rows == [[(4, 1.0), (-4, 1.0)], [(2, -0.5), (-2, -0.5)]]


def test_label_scores(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", kind="multilabel", names=("a", "b", "c")))
    table: dict[str, list[Any]] = {"label": ["a", "a|b", "", "a"], "predicted": ["a", "a", "a", ""]}
    table |= {"probability_a": [0.9, 0.8, 0.7, 0.1], "probability_b": [0.1, 0.9, 0.2, 0.3]}
    table |= {"probability_c": [0.5, 0.5, 0.5, 0.5]}
    assert label_scores(replace(run, rows=table)) == [
        {"name": "a", "rows": 3, "score": pytest.approx((1 + 1 + 3 / 4) / 3)},
        {"name": "b", "rows": 1, "score": 1.0},
        {"name": "c", "rows": 0, "score": None},
    ]


def test_changes_are_matched_by_file_and_counted_both_ways(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))

    def predict(predicted: str, files: str = "pqrs") -> Any:
        rows = {"file": list(files), "label": ["x"] * 4, "predicted": list(predicted)}
        return replace(run, rows=rows)

    # file by file: p is gained twice, q is lost once, r is right once both ways, s never
    baseline = [predict("yxxy"), predict("zxyz")]
    transfer = [predict("xxxy"), predict("yxyx", files="srqp")]
    changes = find_changes(baseline, transfer)
    assert changes is not None
    assert (changes.both, changes.gained, changes.lost, changes.neither) == (2, 3, 1, 2)
    assert [(row["file"], row["position"], row["seeds"]) for row in changes.gains] == [
        ("p", 0, 2),
        ("r", 2, 1),
    ]
    assert [(row["file"], row["other"]) for row in changes.losses] == [("q", "y")]
    assert find_changes(baseline, [predict("xxxx", "abcd"), predict("xxxx", "abcd")]) is None
