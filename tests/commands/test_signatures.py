"""Commands are typed functions: editors, type checkers and help() know their options."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

import aft
from aft.cli import COMMANDS
from aft.config.commands import ScoreConfig
from aft.errors import ConfigError


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_signature_list_every_option(name: str) -> None:
    function, kind = getattr(aft, name), COMMANDS[name].options
    signature = inspect.signature(function)
    assert list(signature.parameters) == ["config", *kind.model_fields]
    for option, field in kind.model_fields.items():
        default = signature.parameters[option].default
        assert default == (inspect.Parameter.empty if field.is_required() else field.default)
        assert f"\n    {option}: {(field.description or '').split()[0]}" in function.__doc__
    assert signature.return_annotation and function.__doc__.count("\n\nArgs:\n") == 1
    assert function.__name__ == name and pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize("option", ["out", "features"])
def test_results_have_no_address(option: str, tmp_path: Path) -> None:
    """It would otherwise be a local folder with a colon in its name."""
    (tmp_path / "d.csv").write_text("text,label\na,x\nb,y\n")
    options = {"data": str(tmp_path / "d.csv"), "student": "small:ngrams", option: "s3://b/c"}
    with pytest.raises(ConfigError, match=f"--{option}.*s3:/"):
        aft.train(**{"out": tmp_path / "run", **options})
    assert not Path("s3:").exists()


def test_options_are_still_checked() -> None:
    with pytest.raises(ConfigError, match="stepz"):
        aft.train(data="d", student="small:cnn", stepz=3)
    with pytest.raises(ConfigError):
        aft.train(ScoreConfig(data="d"))
