"""Load a teacher from its specification ``source:name?option=value``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint

from aft.backbones.checks import FAULTS, check_teacher, explain, loading, teacher_plugins
from aft.backbones.specs import Spec
from aft.errors import ModelError, TeacherError
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher, freeze


def _network(module: str) -> Callable[[Spec, bool], Teacher]:
    """Loader for a backbone module with ``build(spec)``; the module is imported on first use."""

    def load(spec: Spec, trust_remote_code: bool) -> Teacher:
        build = importlib.import_module(f"aft.backbones.{module}").build
        options = {"trust_remote_code": True} if trust_remote_code and module in _HUBS else {}
        return freeze(build(spec, **options))

    return load


def _python(spec: Spec, trust_remote_code: bool) -> Teacher:
    from aft.teachers import user_function

    return user_function.load(spec)


def _table(spec: Spec, trust_remote_code: bool) -> FeatureTable:
    return FeatureTable.load(spec)


_HUBS = ("huggingface", "sentence_transformers")  # models may contain custom code
_SOURCES: dict[str, Callable[[Spec, bool], Teacher | FeatureTable]] = {
    "features": _table,
    "hf": _network("huggingface"),
    "onnx": _network("onnx"),
    "python": _python,
    "st": _network("sentence_transformers"),
    "timm": _network("timm"),
    "torchvision": _network("torchvision"),
}


def load_teacher(spec: str, *, trust_remote_code: bool = False) -> Teacher | FeatureTable:
    """Load a teacher from its specification.

    Args:
        spec: ``source:name?option=value&…`` with the source ``timm``, ``torchvision``, ``hf``
            (transformers), ``st`` (sentence-transformers), ``onnx`` (a file), ``features`` (a
            file of precomputed features), ``python`` (a function in a file) or a source that an
            installed package registers in the entry-point group ``aft.teachers``: a callable
            that takes a :class:`aft.backbones.specs.Spec` and returns a :class:`Teacher` or a
            :class:`FeatureTable`.
        trust_remote_code: Whether to run Python code that is part of a model. The file of a
            ``python:`` teacher, which the specification names, runs without it.

    Returns:
        A frozen model in eval mode, or a table of precomputed features.

    Raises:
        TeacherError: If the source is unknown or the teacher cannot be loaded.
        ConfigError: If the specification does not have the form ``source:name?option=value``.
    """
    parsed = check_teacher(spec)
    with loading(parsed, TeacherError):
        if parsed.source in _SOURCES:
            return _SOURCES[parsed.source](parsed, trust_remote_code)
        return _from_plugin(teacher_plugins()[parsed.source], parsed)


def _from_plugin(point: EntryPoint, spec: Spec) -> Teacher | FeatureTable:
    package = point.dist.name if point.dist else point.value
    try:
        teacher = point.load()(spec)
    except (ModelError, TeacherError):
        raise
    except FAULTS as error:
        raise TeacherError(
            f"package {package} failed to load teacher {spec}: {explain(error)}"
        ) from error
    if not isinstance(teacher, Teacher | FeatureTable):
        raise TeacherError(
            f"expected package {package} to return a Teacher or a FeatureTable for {spec}, "
            f"got {type(teacher).__name__}"
        )
    return teacher
