"""Estimators of scikit-learn: ``fit`` calls :func:`aft.train`, ``predict`` its student."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from inspect import Parameter, Signature, signature
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from aft.commands.train import train
from aft.config.commands import TrainConfig, resolve
from aft.data.readers.label_values import merge_names, read_words
from aft.devices import choose_device
from aft.errors import DataError, did_you_mean
from aft.students.saved import SavedStudent
from aft.tasks import class_name, infer_task

_SET_BY_FIT = {
    *("data", "task", "label_column", "seed", "out", "resume", "overwrite", "report"),
    *("test_fraction", "delimiter", "encoding", "allow_outside", "shard_student"),
    *("classes", "class_template"),
}
"""Options of `aft train` that are no parameters: ``fit`` sets them, or they are of files. The
classes are those of ``y``."""
_DEFAULTS = {"on_bad_input": "fail", "baselines": False}
"""Defaults that are not those of `aft train`."""
_TURN = Lock()
"""Training uses the random numbers and the standard error of the process: threads take turns."""


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What the estimators share."""

    student_: SavedStudent

    def __init__(
        self,
        student: str | Sequence[str] = "small:ngrams",
        *,
        teachers: str | Sequence[str] = (),
        unlabelled: Any = None,
        loss: str = "aft-soft",
        beta: float | str = "auto",
        epochs: float | None = None,
        steps: int | None = None,
        batch_size: int = 64,
        lr: float | None = None,
        device: str = "auto",
        random_state: Any = 0,
        progress: bool = False,
        **options: Any,
    ) -> None:
        self.student = student
        self.teachers = teachers
        self.unlabelled = unlabelled
        self.loss = loss
        self.beta = beta
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.device = device
        self.random_state = random_state
        self.progress = progress
        for name, default in _OTHERS.items():
            setattr(self, name, options.pop(name, default))
        for name in options:
            hint = did_you_mean(name, self._get_param_names())
            raise TypeError(f"{type(self).__name__} has no parameter {name!r}{hint}")

    def _train(self, X: Any, y: Any, labels: NDArray[Any], task: str) -> None:
        """Train a student and keep it in memory."""
        self._check(X, reset=True)
        check_consistent_length(X, labels)
        if self.split_column is None and "split" in _columns(X):
            raise DataError(
                "fit trains on all rows, but a column split would hold some out: drop or rename "
                "it, or name it as split_column"
            )
        options = self.get_params(deep=False)
        seed = options.pop("random_state")
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31)
        options |= {"seed": int(seed), "task": task, "report": False}
        options["data"] = (X, _label_columns(y, labels))
        messages = sys.stderr if self.progress else io.StringIO()
        with _TURN, TemporaryDirectory() as folder, redirect_stderr(messages):
            result = train(resolve(TrainConfig, None, {**options, "out": Path(folder) / "run"}))
            trusted = options["trust_remote_code"] or np.atleast_1d(self.student).tolist()
            self.student_ = result.student(trusted)
        self.summary_ = result.summary

    def _check(self, X: Any, reset: bool) -> None:
        """Check that a data frame has the columns of ``fit``, and that others are no matrix."""
        if hasattr(X, "columns"):
            validate_data(self, X, reset=reset, skip_check_array=True)
        elif getattr(X, "ndim", 1) == 2:
            raise DataError(
                "expected texts, images or a data frame of these, got a matrix of shape "
                f"{X.shape}; there are no students for dense or sparse matrices"
            )

    def _fitted(self, X: Any) -> SavedStudent:
        """The student, after a check of its inputs."""
        check_is_fitted(self)
        self._check(X, reset=False)
        self.student_.module.to(choose_device(self.device))
        return self.student_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "student_")  # the option `from_` has an underscore, too

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = tags.input_tags.three_d_array = True
        tags.input_tags.two_d_array = False
        return tags


_OWN = signature(_Estimator.__init__).parameters
_OTHERS = {
    name: _DEFAULTS.get(name, field.default)
    for name, field in TrainConfig.model_fields.items()
    if name not in _SET_BY_FIT and name not in _OWN
}
_Estimator.__init__.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        *(one for one in _OWN.values() if one.kind != Parameter.VAR_KEYWORD),
        *(Parameter(n, Parameter.KEYWORD_ONLY, default=value) for n, value in _OTHERS.items()),
    ]
)


class AFTClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A classifier of images or texts: a small student, trained with the help of teachers.

    Args:
        student: The small model, as in :func:`aft.train`: ``small:cnn`` for images.
        teachers: Frozen teachers, such as ``st:sentence-transformers/all-MiniLM-L6-v2``. Their
            features are stored by the content of rows: cross-validation computes each row once.
        unlabelled: Inputs without labels for the transfer loss.
        loss: The transfer loss.
        beta: Its weight.
        epochs: Passes over the rows.
        steps: Training steps, instead of `epochs`.
        batch_size: Labelled rows per step.
        lr: Peak learning rate.
        device: Where to compute, in ``fit`` and ``predict``.
        random_state: An integer is the ``seed`` of :func:`aft.train`; None and generators of numpy
            draw one.
        progress: Show progress bars and the messages of :func:`aft.train`.
        **options: Other options of :func:`aft.train`, which are parameters like these.

    Attributes:
        classes_: The classes, in sorted order; for multi-label the column numbers.
        student_: The :class:`aft.SavedStudent`; ``student_.save(FOLDER)`` writes what
            :func:`aft.export` takes.
        summary_: The content of the run's ``result.json``.
        feature_names_in_: The columns of `X`, if it is a data frame; with `n_features_in_`.
    """

    def fit(self, X: Any, y: Any) -> AFTClassifier:
        """Train a student.

        Args:
            X: `n` texts or images, as in :meth:`aft.SavedStudent.predict`; a data frame for
                several columns.
            y: `n` classes, or 0/1 labels of shape ``(n, num_classes)``.

        Returns:
            The estimator.

        Raises:
            ValueError: If the lengths differ, or `y` holds no classes.
            AftError: As :func:`aft.train`.
        """
        several = type_of_target(y, input_name="y", raise_unknown=True) == "multilabel-indicator"
        labels = validate_data(self, y=y, multi_output=several)
        check_classification_targets(y)
        if several:
            self._train(X, y, labels, "multilabel")
            self.classes_ = np.arange(labels.shape[1])
            self._places: Any = slice(None)
            return self
        classes = np.unique(labels)
        names = list(map(class_name, classes.tolist()))
        read = merge_names(read_words(labels.tolist()), "y")[0]
        found = infer_task({"y": read}, None, "classification").names
        if set(found) != set(names):
            raise ValueError(
                f"expected classes that differ in words, got {classes}: read as {found}"
            )
        self._train(X, y, labels, "classification")
        self.classes_ = classes
        self._places = [self.student_.task.names.index(name) for name in names]
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each of ``classes_``, ``(n, num_classes)``.

        Raises:
            NotFittedError: Before ``fit``.
            DataError: If an input cannot be read.
        """
        return self._fitted(X).predict_proba(X)[:, self._places]

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class ``(n,)``, or 0/1 labels; as :meth:`predict_proba` otherwise."""
        probabilities = self.predict_proba(X)
        if self.student_.task.kind == "multilabel":
            return (probabilities > 0.5).astype(int)
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class AFTRegressor(MultiOutputMixin, RegressorMixin, _Estimator):  # type: ignore[misc]
    """A regressor of images or texts; parameters and attributes are those of the classifier."""

    def fit(self, X: Any, y: Any) -> AFTRegressor:
        """Train a student; arguments are those of :meth:`AFTClassifier.fit`.

        Args:
            X: Texts or images.
            y: Numbers, ``(n,)`` or ``(n, num_targets)``.
        """
        labels = validate_data(self, y=y, multi_output=True, y_numeric=True)
        self._train(X, y, labels, "regression")
        self._one = labels.ndim == 1
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The targets, of the shape of ``y``; errors are those of the classifier."""
        values = self._fitted(X).logits(X).double().numpy()
        return values[:, 0] if self._one else values


def _columns(X: Any) -> list[str]:
    """The names of the columns of a data frame in lower case; none for other inputs."""
    return [str(name).lower() for name in getattr(X, "columns", ())]


def _label_columns(y: Any, labels: NDArray[Any]) -> dict[str, list[Any]]:
    """The columns of labels; names are those of a series or a data frame."""
    if labels.ndim == 1:
        return {str(getattr(y, "name", None) or "label"): labels.tolist()}
    names = getattr(y, "columns", [f"label_{i}" for i in range(labels.shape[1])])
    return {str(name): labels[:, i].tolist() for i, name in enumerate(names)}
