"""Load a teacher from its specification ``source:name?option=value``."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint

from aft.backbones.checks import FAULTS, MODULES, check_model, explain, loading, teacher_plugins
from aft.backbones.specs import Spec
from aft.errors import ModelError, TeacherError
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher, freeze


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
    parsed = check_model(spec, TeacherError)
    with loading(parsed, TeacherError):
        if parsed.source == "features":
            return FeatureTable.load(parsed)
        if parsed.source == "python":
            from aft.teachers import user_function

            return user_function.load(parsed)
        if parsed.source in MODULES:
            build = importlib.import_module(f"aft.backbones.{MODULES[parsed.source]}").build
            may_run_code = trust_remote_code and parsed.source in ("hf", "st")
            return freeze(build(parsed, **({"trust_remote_code": True} if may_run_code else {})))
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
