"""Adaptive feature transfer: the knowledge of large frozen models in small ones.

The verbs of the command line are functions here: :func:`extract`, :func:`score`,
:func:`train`, :func:`compare`, :func:`evaluate`, :func:`predict`, :func:`inspect`, :func:`demo`.
Everything is imported when it is first used, so ``import aft`` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aft import losses as losses
    from aft.compare import compare as compare
    from aft.data import load_data as load_data
    from aft.demo import demo as demo
    from aft.errors import AftError as AftError
    from aft.evaluate import evaluate as evaluate
    from aft.extract import extract as extract
    from aft.inspect import inspect as inspect
    from aft.model import SavedStudent as SavedStudent
    from aft.model import Student as Student
    from aft.model import TransferModel as TransferModel
    from aft.predict import predict as predict
    from aft.score import ScoreResult as ScoreResult
    from aft.score import score as score
    from aft.store import FeatureStore as FeatureStore
    from aft.store import FeatureWriter as FeatureWriter
    from aft.students import load_backbone as load_backbone
    from aft.teachers import Teacher as Teacher
    from aft.teachers import load_teacher as load_teacher
    from aft.train import TrainResult as TrainResult
    from aft.train import train as train

__version__ = "0.1.0"

_VERBS = ("extract", "score", "train", "compare", "evaluate", "predict", "inspect", "demo")
_HOMES = {
    **{verb: f"aft.{verb}" for verb in _VERBS},
    "AftError": "aft.errors",
    "FeatureStore": "aft.store",
    "FeatureWriter": "aft.store",
    "SavedStudent": "aft.model",
    "ScoreResult": "aft.score",
    "Student": "aft.model",
    "Teacher": "aft.teachers",
    "TrainResult": "aft.train",
    "TransferModel": "aft.model",
    "load_backbone": "aft.students",
    "load_data": "aft.data",
    "load_teacher": "aft.teachers",
}

__all__ = ["__version__", "losses", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "losses":
        return importlib.import_module("aft.losses")
    if name not in _HOMES:
        raise AttributeError(f"module 'aft' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(types.ModuleType):
    """A verb has the name of the module it lives in; importing that module must not hide it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _VERBS and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
