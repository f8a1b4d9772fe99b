from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

import aft
from aft.cli import COMMANDS, main
from aft.config import commands as configs
from aft.config.parsing import arrange, make_parser, parse_flags
from aft.errors import ConfigError
from aft.features.shards import map_shard
from aft.training.trainer import Trainer
from helpers.errors import says

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
        assert name == "path" or f"--{name.rstrip('_').replace('_', '-')}" in out
        assert field.description
    assert "None" not in out and "typing" not in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_one_group(command: str) -> None:
    kind = COMMANDS[command].options
    arranged = arrange(kind)
    assert all(arranged.values())  # no empty group
    counts = Counter(name for names in arranged.values() for name in names)
    assert counts == Counter(list(kind.model_fields))
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    assert arranged.get("required", []) == required
    parser = make_parser(command, kind)
    shown = {group.title: group for group in parser._action_groups if group._group_actions}
    assert list(arranged) == [name for name in shown if name in arranged]
    for title, names in arranged.items():
        actions = shown[title]._group_actions
        assert [action.dest for action in actions] == names
        assert all(action.help and "None" not in action.help for action in actions)


def test_flags_are_words_until_they_are_checked() -> None:
    kind = configs.TrainConfig
    words = ["--batch_size", "8", "--teachers", "a", "b", "--no-progress", "--beta=auto"]
    expected = {"batch_size": "8", "teachers": ["a", "b"], "progress": False, "beta": "auto"}
    assert parse_flags("train", kind, words) == expected
    repeated = ["--teachers", "a", "--teachers", "b", "--beta", "-1e-3"]
    assert parse_flags("train", kind, repeated) == {"teachers": ["a", "b"], "beta": "-1e-3"}
    values = {**expected, "data": "x", "student": "s"}
    config = configs.resolve(kind, None, values)
    assert (config.batch_size, config.teachers, config.beta) == (8, ("a", "b"), "auto")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["trian"], "did you mean"),
        (["train", "--betta", "3"], "did you mean --beta"),
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
    complains("./nowhere", *tiny, "--data", "./nowhere")
    complains("'tim'", *tiny, "--teachers", "tim:resnet18", "--overwrite")
    complains("resnet81", *tiny, "--teachers", "timm:resnet81?weights=random", "--overwrite")
    complains("'resnet18'", *tiny, "--teachers", "resnet18", "--overwrite")
    complains("small:cnn", *tiny, "--student", "small:ccn", "--overwrite")
    complains("--epochs", *tiny, "--epochs", 3, "--overwrite")
    shutil.move(data / "train" / "circle", tmp_path / "kept")
    complains("circle", *tiny, "--overwrite")
    shutil.move(tmp_path / "kept", data / "train" / "circle")
    for picture in (data / "test").rglob("*.png"):
        picture.unlink()
    complains("test", *tiny, "--overwrite")
    assert run("evaluate", "--run", tmp_path / "nothing") == 1
    assert str(tmp_path / "nothing") in capsys.readouterr().err


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
    assert run("train", "--config", file, *tiny, "--seed", 7, "--overwrite") == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["overwrite"] is False  # it is no property of the run
    again = tmp_path / "again"
    assert run("train", f"--config={tmp_path / 'run' / 'config.yaml'}", "--out", again) == 0
    first, second = (p / "student" / "model.safetensors" for p in (tmp_path / "run", again))
    assert first.read_bytes() == second.read_bytes()


def test_wrong_files(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "run.yaml"
    assert run("train", "--config", file) == 1
    assert str(file) in capsys.readouterr().err
    for content, named in (("betta: 3", "betta"), ("beta: [3", "YAML"), ("- beta", "list")):
        file.write_text(f"{content}\n")
        assert run("train", "--config", file) == 1
        error = capsys.readouterr().err
        assert str(file) in error and named in error
    file.write_text("beta: high\n")
    assert run("train", "--config", file) == 1
    assert "beta='high'" in capsys.readouterr().err


def test_options_in_python_are_checked_alike() -> None:
    with pytest.raises(ConfigError) as error:
        aft.train(data="x", student="small:cnn", betta=3)
    assert says(error.value, "betta")
    with pytest.raises(ConfigError) as error:
        aft.train(data="x")
    assert says(error.value, "student")
    config = configs.resolve(configs.TrainConfig, None, {"data": "x", "student": "small:cnn"})
    assert configs.resolve(configs.TrainConfig, config, {"beta": 9}).beta == 9


def test_extract_inspect_and_verify(
    picture_folder: Folder, tmp_path: Path, capsys: Capture
) -> None:
    data, features = picture_folder(train=5, test=2, size=24), tmp_path / "features"
    teacher = "timm:resnet10t.c3_in1k?weights=random&size=32"
    flags = ["--features", features, "--teachers", teacher, "--no-progress"]
    assert run("inspect", "--features", features) == 0
    assert str(features) in capsys.readouterr().out
    assert run("extract", "--data", data, *flags) == 0
    assert run("extract", "--data", data, "--splits", "train", "test", "--json", *flags) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["rows in store"] == 21 and found["dim"] == 512
    assert run("inspect", "--features", features) == 0
    out = capsys.readouterr().out
    assert "21 " in out and "512 fp16" in out
    assert run("inspect", "--data", data, "--verify", *flags) == 0
    smallest = float(capsys.readouterr().out.rsplit(maxsplit=1)[-1])
    assert smallest == pytest.approx(1, abs=1e-4)
    shard = next(features.rglob("part-*.safetensors"))
    tensors = load_file(shard)
    save_file({**tensors, "features": tensors["features"].flip(1).contiguous()}, shard)
    map_shard.cache_clear()  # as in a new process
    assert run("inspect", "--data", data, "--verify", "--verify-samples", 15, *flags) == 1
    error = capsys.readouterr().err
    assert str(shard.parents[1]) in error and "15 of 15" in error


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
    assert " x 12 " in capsys.readouterr().out
    short = {name: values[:10] for name, values in table.items()}
    pyarrow.parquet.write_table(pyarrow.table(short), tmp_path / "made.parquet")
    assert run("train", *flags, *train, "--overwrite") == 1
    error = capsys.readouterr().err
    assert short["sample_id"][0] in error and "triangle/000.png" in error


def test_bad_images_are_listed_in_the_run(
    tiny: list[object], tmp_path: Path, capsys: Capture
) -> None:
    (Path(str(tiny[1])) / "train" / "circle" / "broken.png").write_bytes(b"\x89PNG broken")
    assert run("train", *tiny) == 0
    said = capsys.readouterr().err
    assert "1 unreadable" in said
    assert "train/circle/broken.png" in (tmp_path / "run" / "bad_inputs.csv").read_text()
    assert run("train", *tiny, "--overwrite", "--on-bad-input", "fail") == 1
    assert "broken.png" in capsys.readouterr().err


def test_inspect_finds_out_what_a_path_is(
    tiny: list[object], tmp_path: Path, capsys: Capture
) -> None:
    data, features, out = str(tiny[1]), tmp_path / "features", tmp_path / "run"
    teacher = "timm:resnet10t.c3_in1k?weights=random&size=32"
    assert run("train", *tiny, "--teachers", teacher, "--views", "clean") == 0

    def shown(*arguments: object) -> dict[str, object]:
        capsys.readouterr()
        assert run("inspect", *arguments, "--json", "--no-progress") == 0
        return dict(json.loads(capsys.readouterr().out))

    assert shown(out)["run"] == shown("--run", out)["run"]
    assert shown(data)["data"] == shown("--data", data)["data"]
    stores = shown("--features", features)["stores"]
    assert shown(features)["stores"] == stores and len(stores) == 1  # type: ignore[arg-type]
    (store,) = (path.parent for path in features.rglob("teacher.json"))
    assert shown(store)["stores"] == stores
    for kind, path in (("run", out), ("data", data), ("stores", features), ("stores", store)):
        assert set(shown(path)) == {"lines", kind}
    assert run("inspect", out, "--run", out) == 1
    assert "--run" in capsys.readouterr().err
    assert run("inspect", tmp_path / "nothing") == 1
    assert str(tmp_path / "nothing") in capsys.readouterr().err
    assert run("inspect", "--label-column", "label", data) == 1  # both are taken for columns
    assert data in capsys.readouterr().err
    shutil.copytree(out / "student", tmp_path / "moved")
    assert run("inspect", tmp_path / "moved") == 1
    assert f"--run {tmp_path / 'moved'}" in capsys.readouterr().err
    assert run("train", *tiny, "--out", data + "/train/circle/000.png/run") == 1
    assert "000.png" in capsys.readouterr().err


def test_inspect_shows_one_store_of_several(tmp_path: Path, picture_folder: Folder) -> None:
    data, features = str(picture_folder(train=5, test=2, size=24)), tmp_path / "features"
    teachers = [f"timm:resnet10t.c3_in1k?weights=random&size={size}" for size in (32, 64)]
    aft.extract(data=data, teachers=tuple(teachers), features=features, progress=False)
    first, second = sorted(path.parent for path in features.rglob("teacher.json"))
    assert len(aft.inspect(path=str(features))["stores"]) == 2
    for store in (first, second):
        (one,) = aft.inspect(path=str(store))["stores"]
        assert one["path"] == str(store)


MISTAKES = {
    "data": ("--data", "./nowhere", "--student", "small:cnn"),
    "unlabelled": ("--data", ".", "--student", "small:cnn", "--unlabelled", "./nowhere"),
    "spec": ("--data", ".", "--student", "small"),
    "value": ("--data", ".", "--student", "small:cnn", "--beta", "-1"),
    "flag": ("--data", ".", "--student", "small:cnn", "--betta", "1"),
    "exclusive": ("--data", ".", "--student", "small:cnn", "--steps", "2", "--epochs", "3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_that_need_no_torch_import_none(mistake: str, tmp_path: Path) -> None:
    code = (
        "import json, sys; from aft.cli import main; code = main(json.loads(sys.argv[1])); "
        "print(code, *sorted({'torch', 'numpy', 'PIL', 'sklearn'} & set(sys.modules)))"
    )
    words = json.dumps(["train", *MISTAKES[mistake]])
    done = subprocess.run(
        [sys.executable, "-c", code, words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["2" if mistake in ("value", "flag") else "1"], done.stdout
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 2
    named = {"spec": "small", "value": "beta", "flag": "--betta", "exclusive": "--epochs"}
    assert named.get(mistake, "./nowhere") in done.stderr


def cpu_seconds(*arguments: str) -> float:
    """User and system time of `aft`, the median of three runs."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "aft", *arguments], capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(found)


def test_a_mistake_is_said_as_fast_as_the_help() -> None:
    cpu_seconds("--version")  # writes the bytecode, where it is missing
    assert cpu_seconds("train", *MISTAKES["data"]) <= 1.6 * cpu_seconds("--help")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_picture_that_vanishes_while_training(
    tiny: list[object], capsys: Capture, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    fit = Trainer.fit

    def fit_without_squares(*arguments: Any) -> Any:
        for picture in Path(str(tiny[1])).rglob("train/square/*.png"):
            picture.unlink()
        return fit(*arguments)

    monkeypatch.setattr(Trainer, "fit", fit_without_squares)
    assert run("train", *tiny, "--num-workers", num_workers) == 1
    error = capsys.readouterr().err.splitlines()
    assert "train/square/" in error[-1] and not any("Traceback" in line for line in error)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_characters_that_the_console_lacks(
    picture_folder: Folder, encoding: str, flags: tuple[str, ...]
) -> None:
    root = picture_folder(train=4, test=0) / "train"
    for shape, name in (("circle", "\u732b"), ("square", "\U0001f600"), ("triangle", "\xe9")):
        (root / shape).rename(root / name)
    command = [sys.executable, "-m", "aft", "inspect", "--data", str(root), *flags]
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode(encoding)
    if flags:
        counts = json.loads(out)["data"]["rows_per_class"]["train"]
        assert counts.keys() == {"\u732b", "\U0001f600", "\xe9"}
    else:
        assert ("\u732b" if encoding == "utf-8" else "\\u732b") in out


OUTPUTS = {
    "train": ("--data", "d.csv", "--student", "small:ngrams", "--out"),
    "compare": ("--data", "d.csv", "--student", "small:ngrams", "--teachers", "st:x", "--out"),
    "score": ("--data", "d.csv", "--teachers", "st:x", "--out"),
    "predict": ("--run", "run", "--data", "d.csv", "--out"),
    "export": ("--run", "run", "--data", "d.csv", "--out"),
    "extract": ("--data", "d.csv", "--teachers", "st:x", "--features"),
    "inspect": ("--data", "d.csv", "--ids"),
    "demo": ("--out",),
}


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize("problem", ["file", "read-only", "missing"])
def test_outputs_are_checked_before_anything_is_computed(
    command: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("text,label\na,b\n")
    folder = tmp_path / "place"
    if problem == "file":
        folder.write_text("x")
    elif problem == "read-only":
        folder.mkdir()
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: path != folder and access(path, mode))
    else:
        (tmp_path / "lost").symlink_to("nowhere")
        folder = tmp_path / "lost"
    out = folder / "x.csv"
    done: list[object] = []
    for name in ("load_inputs", "load_data"):
        monkeypatch.setattr(f"aft.data.loading.{name}", lambda *_, **__: done.append(1))
    assert run(command, *OUTPUTS[command], out) == 1
    error = capsys.readouterr().err
    assert OUTPUTS[command][-1] in error and str(folder) in error and len(error.splitlines()) == 1
    assert not done and not out.exists()


def test_an_output_of_the_wrong_kind(tmp_path: Path, tiny: list[object], capsys: Capture) -> None:
    (tmp_path / "p.csv").mkdir()
    flags = ("--run", "run", "--data", tiny[1], "--overwrite", "--out")
    assert run("predict", *flags, tmp_path / "p.csv") == 1
    assert str(tmp_path / "p.csv") in capsys.readouterr().err
    for name in ("a\0b", "caf\udce9"):
        assert run("train", *tiny, "--out", tmp_path / name) == 1
        assert "--out" in capsys.readouterr().err


def test_the_command_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aft", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("aft ")
