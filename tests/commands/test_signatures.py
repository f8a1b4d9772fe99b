"""Commands are typed functions: editors, type checkers and help() know their options."""

from __future__ import annotations

import inspect
import pickle

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


def test_options_are_still_checked() -> None:
    with pytest.raises(ConfigError, match="stepz"):
        aft.train(data="d", student="small:cnn", stepz=3)
    with pytest.raises(ConfigError):
        aft.train(ScoreConfig(data="d"))
