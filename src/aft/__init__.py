"""Adaptive feature transfer: the knowledge of large frozen models in small ones.

The commands of the command line are functions here: :func:`extract`, :func:`score`,
:func:`train`, :func:`compare`, :func:`evaluate`, :func:`predict`, :func:`export`, :func:`push`,
:func:`serve`, :func:`inspect`, :func:`demo`.
Everything is imported when it is first used, so ``import aft`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aft.version import __version__ as __version__

if TYPE_CHECKING:
    from aft import losses as losses
    from aft.backbones.preprocessing import Preprocessing as Preprocessing
    from aft.backbones.specs import Spec as Spec
    from aft.backbones.tokenization import Tokenization as Tokenization
    from aft.commands.compare import compare as compare
    from aft.commands.demo import demo as demo
    from aft.commands.estimators import AFTClassifier as AFTClassifier
    from aft.commands.estimators import AFTRegressor as AFTRegressor
    from aft.commands.evaluate import evaluate as evaluate
    from aft.commands.export import export as export
    from aft.commands.extract import extract as extract
    from aft.commands.inspect import inspect as inspect
    from aft.commands.predict import predict as predict
    from aft.commands.push import push as push
    from aft.commands.score import ScoreResult as ScoreResult
    from aft.commands.score import score as score
    from aft.commands.serve import serve as serve
    from aft.commands.train import train as train
    from aft.data.loading import load_data as load_data
    from aft.data.loading import sample_ids as sample_ids
    from aft.data.views import make_views as make_views
    from aft.errors import AftError as AftError
    from aft.features.extraction import extract_features as extract_features
    from aft.features.store import FeatureStore as FeatureStore
    from aft.features.store import FeatureWriter as FeatureWriter
    from aft.features.with_features import WithFeatures as WithFeatures
    from aft.students.backbone import load_backbone as load_backbone
    from aft.students.saved import SavedStudent as SavedStudent
    from aft.students.saved import load_student as load_student
    from aft.students.student import Student as Student
    from aft.teachers.loading import load_teacher as load_teacher
    from aft.teachers.teacher import Teacher as Teacher
    from aft.training.run_folder import TrainResult as TrainResult
    from aft.training.transfer_model import TransferModel as TransferModel

_COMMANDS = (
    *("extract", "score", "train", "compare", "evaluate", "predict"),
    *("export", "push", "serve", "inspect", "demo"),
)
_HOMES = {
    **{command: f"aft.commands.{command}" for command in _COMMANDS},
    "AFTClassifier": "aft.commands.estimators",
    "AFTRegressor": "aft.commands.estimators",
    "AftError": "aft.errors",
    "FeatureStore": "aft.features.store",
    "FeatureWriter": "aft.features.store",
    "Preprocessing": "aft.backbones.preprocessing",
    "SavedStudent": "aft.students.saved",
    "ScoreResult": "aft.commands.score",
    "Spec": "aft.backbones.specs",
    "Student": "aft.students.student",
    "Teacher": "aft.teachers.teacher",
    "Tokenization": "aft.backbones.tokenization",
    "TrainResult": "aft.training.run_folder",
    "TransferModel": "aft.training.transfer_model",
    "WithFeatures": "aft.features.with_features",
    "extract_features": "aft.features.extraction",
    "load_backbone": "aft.students.backbone",
    "load_data": "aft.data.loading",
    "load_student": "aft.students.saved",
    "load_teacher": "aft.teachers.loading",
    "make_views": "aft.data.views",
    "sample_ids": "aft.data.loading",
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
