"""A run is tied to its data and teachers, its files prove themselves, and its folder is its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aft
from aft.errors import AftError, ConfigError, DataError, StudentError
from aft.paths import LOCK, locked
from aft.students.saved import SavedStudent
from aft.training.run_folder import TrainResult, read_run
from aft.training.trainer import Trainer
from helpers.errors import says
from helpers.text_data import make_text_table
from helpers.training import TEACHERS, assert_same, weights

Change = Callable[[list[dict[str, Any]]], None]
CHANGES: dict[str, Change] = {
    "a label": lambda rows: rows[4].update(label=rows[5]["label"]),
    "a text": lambda rows: rows[4].update(text="match goal orbit"),
    "a row less": lambda rows: rows.__delitem__(7),
    "a row more": lambda rows: rows.append({**rows[0], "text": "salt moon goal"}),
    "two rows exchanged": lambda rows: rows.insert(3, rows.pop(9)),
    "a test label": lambda rows: rows[-1].update(label=rows[-2]["label"]),
    "names of classes": lambda rows: (
        [row.update(label=f"{row['label']}s") for row in rows if "label" in row] and None
    ),
}


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """A very small run with a teacher."""
    (tmp_path / "teacher.py").write_text(TEACHERS)
    return {
        "data": str(make_text_table(tmp_path / "texts.jsonl", train=36, test=12)),
        "teachers": (f"python:{tmp_path}/teacher.py:words",),
        "student": "small:static?dim=8",
        "out": tmp_path / "run",
        "features": tmp_path / "features",
        "steps": 6,
        "eval_every": 3,
        "batch_size": 8,
        "baselines": False,
        "device": "cpu",
        "progress": False,
    }


def change(options: dict[str, Any], how: str) -> None:
    path = Path(options["data"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    CHANGES[how](rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def interrupt(options: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Begin a run, and kill it after its first checkpoint."""
    real = Trainer.save

    def save(trainer: Trainer) -> None:
        real(trainer)
        raise SystemError("killed")

    with patch.context() as one:
        one.setattr(Trainer, "save", save)
        with pytest.raises(SystemError):
            aft.train(**options)


@pytest.mark.parametrize("how", CHANGES)
def test_changed_data_are_refused(options: dict[str, Any], how: str) -> None:
    aft.train(**options)
    change(options, how)
    with pytest.raises(ConfigError) as error:
        aft.train(**options, resume=True)
    assert says(error.value, options["out"], "outputs" if "names" in how else "rows")
    with pytest.raises(AftError):
        aft.evaluate(run=options["out"], progress=False)


def test_an_unfinished_run_is_not_resumed_on_other_data(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(options, monkeypatch)
    whole = Path(options["data"]).read_text()
    change(options, "a row less")
    with pytest.raises(ConfigError) as error:
        aft.train(**options, resume=True)
    assert says(error.value, "36 rows", "35 rows")
    Path(options["data"]).write_text(whole)
    aft.train(**options, resume=True)


def test_an_unfinished_run_is_not_resumed_with_another_teacher(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(options, monkeypatch)
    (tmp_path / "teacher.py").write_text(TEACHERS.replace("manual_seed(0)", "manual_seed(1)"))
    with pytest.raises(StudentError) as error:
        aft.train(**options, resume=True)
    assert says(error.value, "last.pt", *(one.name for one in options["features"].iterdir()))
    (tmp_path / "teacher.py").write_text(TEACHERS)
    aft.train(**options, resume=True)


def test_a_comparison_does_not_mix_data_or_teachers(
    options: dict[str, Any], tmp_path: Path
) -> None:
    asked = {name: value for name, value in options.items() if name != "baselines"}
    asked |= {"methods": ("alone", "aft-soft"), "seeds": 2, "probes": False}
    aft.compare(**asked)
    (tmp_path / "teacher.py").write_text(TEACHERS.replace("manual_seed(0)", "manual_seed(1)"))
    shutil.rmtree(options["out"] / "runs" / "aft-soft-seed1")
    with pytest.raises(ConfigError) as error:
        aft.compare(**asked)
    assert says(error.value, options["teachers"][0], "aft-soft-seed1")
    (tmp_path / "teacher.py").write_text(TEACHERS)
    change(options, "a label")
    with pytest.raises(ConfigError) as error:
        aft.compare(**asked)
    assert says(error.value, "train", "alone")


@pytest.mark.parametrize(
    "name", ["checkpoints/last.pt", "checkpoints/best.safetensors", "data.json", "config.yaml"]
)
def test_a_damaged_file_of_an_unfinished_run(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is named, or the student is the same."""
    aft.train(**options)
    expected = weights(options["out"])
    shutil.rmtree(options["out"])
    interrupt(options, monkeypatch)
    file = options["out"] / name
    content = bytearray(file.read_bytes())
    content[2 * len(content) // 3] ^= 4
    file.write_bytes(content)
    refused = None
    try:
        aft.train(**options, resume=True)
    except AftError as error:
        refused = error
    if refused is None:
        assert_same(weights(options["out"]), expected)
    else:
        assert says(refused, options["out"])


def test_a_value_that_no_option_has_is_named_with_its_file(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(options, monkeypatch)
    file = options["out"] / "config.yaml"
    file.write_text(file.read_text().replace("progress: false", "progress: fahse"))
    with pytest.raises(ConfigError) as error:
        aft.train(**options, resume=True)
    assert says(error.value, file, "fahse")


@pytest.mark.parametrize("name", ["student.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_a_damaged_student_is_named(options: dict[str, Any], name: str, share: float) -> None:
    out = aft.train(**options).out
    file = out / "student" / name
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(StudentError) as error:
        SavedStudent.load(out)
    assert says(error.value, out / "student")
    with pytest.raises(AftError):
        aft.inspect(run=out, verify=True)


@pytest.mark.parametrize("name", ["evaluation.parquet", "feature_weights.safetensors"])
def test_a_damaged_result_is_named(options: dict[str, Any], name: str) -> None:
    out = aft.train(**options).out
    content = (out / name).read_bytes()
    (out / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError) as error:
        read_run(out)
    assert says(error.value, out, name)


def test_a_torn_result_is_named_and_made_again(options: dict[str, Any]) -> None:
    out = aft.train(**options).out
    expected, before = weights(out), TrainResult.load(out).metrics
    (out / "result.json").write_bytes((out / "result.json").read_bytes()[:100])
    with pytest.raises(ConfigError) as error:
        aft.train(**options, resume=True)
    assert says(error.value, out / "result.json", "--resume")
    (out / "result.json").unlink()
    assert aft.train(**options, resume=True).metrics == before
    assert_same(weights(out), expected)


def test_runs_of_older_versions_stay_readable(options: dict[str, Any]) -> None:
    out = aft.train(**options).out
    for name in ("result.json", "data.json", "student/student.json"):
        values = json.loads((out / name).read_text())
        for key in ("sha256", "files", "content"):
            values.pop(key, None)
        (out / name).write_text(json.dumps(values))
    assert aft.train(**options, resume=True).out == out
    assert read_run(out).rows and SavedStudent.load(out).task.names
    assert aft.inspect(run=out, verify=True)["run"]["seed"] == 0


def test_a_folder_in_use_is_refused(options: dict[str, Any]) -> None:
    code = (
        "import sys, time, pathlib; from aft.paths import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('in', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(options["out"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(ConfigError) as error:
            aft.train(**options)
        other.kill()
    assert says(error.value, options["out"])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with locked(options["out"]):  # the lock of a dead process is none
            break
    assert aft.train(**options).metrics
    assert aft.train(**options, overwrite=True).metrics
    assert (options["out"] / LOCK).exists()


def test_a_failed_start_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "run"):
        raise ZeroDivisionError
    assert not (tmp_path / "a" / "run").exists()


def test_files_of_another_run_are_refused(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**options, "seed": 1, "out": tmp_path / "other"}
    for one in (options, other):
        interrupt(one, monkeypatch)
    last = [one["out"] / "checkpoints" / "last.pt" for one in (options, other)]
    content = last[0].read_bytes()
    shutil.copy(last[1], last[0])
    with pytest.raises(StudentError) as error:
        aft.train(**options, resume=True)
    assert says(error.value, last[0])
    last[0].write_bytes(content)
    for one in (options, other):
        aft.train(**one, resume=True)
    shutil.copy(other["out"] / "result.json", options["out"] / "result.json")
    with pytest.raises(ConfigError) as damaged:
        TrainResult.load(options["out"])
    assert says(damaged.value, options["out"] / "result.json", "config.yaml")


def test_a_run_that_was_killed_before_it_wrote_its_options_starts_again(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt  # unlike an error, it leaves all files as they are

    with monkeypatch.context() as patch:
        patch.setattr("aft.training.run_folder.write_config_file", kill)
        with pytest.raises(KeyboardInterrupt):
            aft.train(**options)
    out = options["out"]
    assert sorted(one.name for one in out.iterdir()) == [LOCK, "data.json"]
    assert aft.train(**options, resume=True).metrics
    (out.parent / "own").mkdir()
    (out.parent / "own" / "data.json").write_text('{"mine": 1}')
    with pytest.raises(ConfigError):
        aft.train(**{**options, "out": out.parent / "own"})
    assert (out.parent / "own" / "data.json").read_text() == '{"mine": 1}'


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_did_not_begin_may_start_on_other_data(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    for broken in ("aft.training.run_folder.write_config_file", "aft.commands.train.make_student"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                aft.train(**options)
        change(options, "a row less")
    assert aft.train(**options, overwrite=overwrite).metrics
