from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

import aft
from aft.cli import COMMANDS, main
from aft.config import commands as configs
from aft.config.parsing import arrange
from aft.errors import ConfigError
from aft.features.shards import map_shard

Folder = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def tiny(picture_folder: Folder, tmp_path: Path) -> list[object]:
    """Flags of a run of two steps."""
    data = picture_folder(train=8, test=3, size=24)
    return [
        *("--data", data, "--student", "small:cnn-tiny?size=16", "--steps", 2, "--batch-size", 8),
        *("--out", tmp_path / "run", "--features", tmp_path / "features", "--no-progress"),
        *("--device", "cpu"),
    ]


def test_overview(capsys: Capture) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)
    assert run() == 2 and run("--version") == 0
    assert aft.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for name, field in COMMANDS[command].options.model_fields.items():
        assert name == "path" or f"--{name.replace('_', '-')}" in out
        assert field.description
    assert "None" not in out and "typing" not in out
    grouped = [name for names in arrange(COMMANDS[command].options).values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS[command].options.model_fields)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["trian"], "aft train"),
        (["train", "--betta", "3"], "--beta?"),
        (["train", "--data", "x"], "--student"),
        (["train", "--data"], "--data"),
        (["train", "--data", "x", "--student", "s", "--beta", "-1"], "beta='-1'"),
        (["train", "--data", "x", "--student", "s", "--steps", "many"], "steps='many'"),
        (["train", "--data", "x", "--student", "s", "--kernel", "cubic"], "'linear' or 'rbf'"),
        (["train", "--config"], "--config"),
        (["predict", "pictures"], "'pictures'"),
    ],
)
def test_wrong_command_lines_exit_with_2(
    arguments: list[str], complaint: str, capsys: Capture
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error and len(error.splitlines()) <= 2


def test_everything_else_exits_with_1(tiny: list[object], tmp_path: Path, capsys: Capture) -> None:
    def complains(expected: str, *arguments: object) -> None:
        assert run("train", *arguments) == 1
        error = capsys.readouterr().err
        assert expected in error
        assert "Traceback" not in error
        assert not (tmp_path / "run" / "result.json").exists()

    data = Path(str(tiny[1]))
    complains("no folder or file ./nowhere", *tiny, "--data", "./nowhere")
    complains("unknown source 'tim'", *tiny, "--teachers", "tim:resnet18", "--overwrite")
    complains("resnet81", *tiny, "--teachers", "timm:resnet81?weights=random", "--overwrite")
    complains("source:name", *tiny, "--teachers", "resnet18", "--overwrite")
    complains("small:cnn", *tiny, "--student", "small:ccn", "--overwrite")
    complains("--epochs", *tiny, "--epochs", 3, "--overwrite")
    shutil.move(data / "train" / "circle", tmp_path / "kept")
    complains("not in train: circle", *tiny, "--overwrite")
    shutil.move(tmp_path / "kept", data / "train" / "circle")
    for picture in (data / "test").rglob("*.png"):
        picture.unlink()
    complains("test split", *tiny, "--overwrite")
    assert run("evaluate", "--run", tmp_path / "nothing") == 1
    assert "expected a finished run" in capsys.readouterr().err


def test_a_typo_does_not_touch_a_run(tiny: list[object], tmp_path: Path, capsys: Capture) -> None:
    assert run("train", *tiny) == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    assert run("train", *tiny, "--overwritte") == 2
    assert run("train", *tiny) == 1
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_json_goes_to_stdout_alone(tiny: list[object], tmp_path: Path, capsys: Capture) -> None:
    assert run("train", *tiny, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["steps"] == 2 and 0 <= printed["metrics"]["accuracy"] <= 1
    assert run("evaluate", "--run", tmp_path / "run", "--json", "--no-progress") == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["accuracy"] == printed["metrics"]["accuracy"]
    assert run("inspect", "--run", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"]["seed"] == 0


def test_flags_override_the_file(tiny: list[object], tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"student": "small:cnn-tiny?size=16", "seed": 5, "beta": 2}))
    assert run("train", "--config", file, *tiny, "--seed", 7) == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["seed"] == 7 and saved["beta"] == 2.0 and saved["steps"] == 2
    again = tmp_path / "again"
    assert run("train", f"--config={tmp_path / 'run' / 'config.yaml'}", "--out", again) == 0
    first, second = (p / "student" / "model.safetensors" for p in (tmp_path / "run", again))
    assert first.read_bytes() == second.read_bytes()


def test_wrong_files(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "run.yaml"
    assert run("train", "--config", file) == 1
    assert "cannot read the configuration" in capsys.readouterr().err
    file.write_text("betta: 3\n")
    assert run("train", "--config", file) == 1
    assert "unknown options: betta" in capsys.readouterr().err
    file.write_text("beta: [3\n")
    assert run("train", "--config", file) == 1
    assert "is not YAML" in capsys.readouterr().err
    file.write_text("beta: high\n")
    assert run("train", "--config", file) == 1
    assert "beta='high': input should be a valid number" in capsys.readouterr().err


def test_options_in_python_are_checked_alike() -> None:
    with pytest.raises(ConfigError, match="unknown option betta"):
        aft.train(data="x", student="small:cnn", betta=3)
    with pytest.raises(ConfigError, match="student is missing"):
        aft.train(data="x")
    config = configs.resolve(configs.TrainConfig, None, {"data": "x", "student": "small:cnn"})
    assert configs.resolve(configs.TrainConfig, config, {"beta": 9}).beta == 9


def test_extract_inspect_and_verify(
    picture_folder: Folder, tmp_path: Path, capsys: Capture
) -> None:
    data, features = picture_folder(train=5, test=2, size=24), tmp_path / "features"
    teacher = "timm:resnet10t.c3_in1k?weights=random&size=32"
    flags = ["--features", features, "--teachers", teacher, "--no-progress"]
    assert run("inspect", "--features", features) == 0
    assert "no features" in capsys.readouterr().out
    assert run("extract", "--data", data, *flags) == 0
    assert run("extract", "--data", data, "--splits", "train", "test", "--json", *flags) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["rows in store"] == 21 and found["dim"] == 512
    assert run("inspect", "--features", features) == 0
    assert "21 samples x 512 fp16" in capsys.readouterr().out
    assert run("inspect", "--data", data, "--verify", *flags) == 0
    assert "cosine at least 1.0" in capsys.readouterr().out.replace("0.99999", "1.0")
    shard = next(features.rglob("part-*.safetensors"))
    tensors = load_file(shard)
    save_file({**tensors, "features": tensors["features"].flip(1).contiguous()}, shard)
    map_shard.cache_clear()  # as in a new process
    assert run("inspect", "--data", data, "--verify", "--verify-samples", 15, *flags) == 1
    assert "differ" in capsys.readouterr().err


def test_features_made_elsewhere(picture_folder: Folder, tmp_path: Path, capsys: Capture) -> None:
    """Ids out, a matrix made by whatever, features in, a student trained on them."""
    import pyarrow
    import pyarrow.parquet

    data, ids = picture_folder(train=6, test=3, size=24), tmp_path / "ids.csv"
    assert run("inspect", "--data", data, "--ids", ids) == 0
    with ids.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 27 and {row["split"] for row in rows} == {"train", "test"}
    matrix = np.random.default_rng(0).normal(size=(27, 12)).astype(np.float32)
    table = {"sample_id": [row["sample_id"] for row in rows], "features": list(matrix)}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "made.parquet")
    flags = ["--data", data, "--teachers", f"features:{tmp_path / 'made.parquet'}"]
    flags += ["--features", tmp_path / "store", "--no-progress"]
    assert run("extract", *flags) == 0
    train = ["--student", "small:cnn-tiny?size=16", "--steps", 2, "--out", tmp_path / "run"]
    assert run("train", *flags, *train) == 0
    assert run("inspect", "--features", tmp_path / "store") == 0
    assert "samples x 12" in capsys.readouterr().out
    short = {name: values[:10] for name, values in table.items()}
    pyarrow.parquet.write_table(pyarrow.table(short), tmp_path / "made.parquet")
    assert run("train", *flags, *train, "--overwrite") == 1
    error = capsys.readouterr().err
    assert "it names its rows like" in error and "triangle/000.png" in error


def test_bad_images_are_listed_in_the_run(
    tiny: list[object], tmp_path: Path, capsys: Capture
) -> None:
    (Path(str(tiny[1])) / "train" / "circle" / "broken.png").write_bytes(b"\x89PNG broken")
    assert run("train", *tiny) == 0
    assert "1 unreadable or empty inputs skipped" in capsys.readouterr().err
    assert "train/circle/broken.png" in (tmp_path / "run" / "bad_inputs.csv").read_text()
    assert run("train", *tiny, "--overwrite", "--on-bad-input", "fail") == 1
    assert "broken.png" in capsys.readouterr().err


def test_the_command_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aft", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("aft ")
