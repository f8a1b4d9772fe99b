from __future__ import annotations

import json
from pathlib import Path

import pytest

from aft.config.commands import TrainConfig
from aft.errors import ConfigError
from aft.training.run_folder import open_run


def begun(out: Path, *names: str) -> TrainConfig:
    out.mkdir()
    for name in (".lock", *names):
        (out / name).write_text("{" if name.endswith("tmp") else json.dumps({"content": {}}))
    return TrainConfig(data="films.csv", student="small:ngrams", out=out)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (".data.json.6ab7e1bd.host-1.tmp",),
        ("data.json",),
        ("data.json", ".config.yaml.6ab7e1bd.host-1.tmp"),
        ("data.json", "bad_inputs.csv", ".config.yaml.6ab7e1bd.host-1.tmp"),
    ],
)
def test_a_run_that_was_killed_at_its_start_can_begin_again(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    config = begun(tmp_path / "run", *names)
    open_run(tmp_path / "run", config)


@pytest.mark.parametrize("names", [("notes.txt",), (".notes.txt.1.tmp",), ("data.json", "a.txt")])
def test_files_of_others_are_left_alone(tmp_path: Path, names: tuple[str, ...]) -> None:
    config = begun(tmp_path / "run", *names)
    with pytest.raises(ConfigError):
        open_run(tmp_path / "run", config)
    assert {one.name for one in (tmp_path / "run").iterdir()} == {".lock", *names}
