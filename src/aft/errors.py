"""Errors for users. Messages say what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AftError(Exception):
    """Base class of all user errors of `aft`; the command line prints them without a traceback."""


class ConfigError(AftError):
    """An option, a configuration file or a combination of options is wrong."""


class DataError(AftError, ValueError):
    """The data set cannot be read or cannot be used for the task."""


class ModelError(AftError):
    """A model cannot be built or its weights do not match.

    :func:`aft.teachers.load_teacher` re-raises it as ``TeacherError`` and
    :func:`aft.students.load_backbone` as ``StudentError``.
    """


class TeacherError(AftError):
    """A teacher cannot be loaded or returns unusable features."""


class StudentError(AftError):
    """A student cannot be built, loaded or trained."""


class ExportError(AftError):
    """A student cannot be exported or pushed, or the export computes something else."""


class StoreError(AftError):
    """The feature store on disk is incompatible, damaged or not writable."""


class InputError(AftError, ValueError):
    """A tensor or argument given to a loss or function has the wrong shape, type or value."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the closest known words; empty if none is close."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
