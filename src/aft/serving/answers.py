"""Answers of a student, and of a linear model on its teachers' features beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aft.config.commands import check_code
from aft.config.groups import IN_MEMORY
from aft.data.options import load_training_data
from aft.data.samples import Samples, match_columns
from aft.errors import ConfigError
from aft.features.engine import choose_engine
from aft.features.extraction import store_identity
from aft.features.run_teacher import Compute, compute_features
from aft.features.store import FeatureStore
from aft.features.stored import StoredFeatures, features_folder, open_teacher
from aft.files import strict_json
from aft.losses.heads import LinearHead, fit_task_head
from aft.serving.questions import Question
from aft.students.predictions import list_predictions, probabilities_of
from aft.students.run_student import compute_logits
from aft.students.saved import SavedStudent
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher
from aft.training.run_folder import CONFIG, check_content, read_options
from aft.training.transfer_loss import MOST_FITTED_ROWS


@dataclass(frozen=True)
class TeachersHead:
    """A linear model on the features of the teachers of a run.

    Attributes:
        teachers: Each teacher, with the stored features of the training rows.
        head: The linear model on the features of all, side by side.
        how: How teachers are run on inputs whose features are not stored.
    """

    teachers: list[tuple[Teacher | FeatureTable, StoredFeatures]]
    head: LinearHead
    how: Compute

    @classmethod
    def fit(cls, run: Path, student: SavedStudent, trust_remote_code: bool) -> TeachersHead:
        """Load the teachers of a run, and fit the linear model to the stored training rows.

        Args:
            run: The run folder.
            student: Its student, on the device that the teachers run on, too.
            trust_remote_code: Whether to run Python code that the run names.

        Raises:
            AftError: If the run has no teachers, its data or features have changed or are
                missing, or a teacher cannot be loaded or reads other columns than the student.
        """
        if not (run / CONFIG).exists():
            raise ConfigError(f"--with-teachers needs a run, which has a {CONFIG}; {run} has none")
        options, task, device = read_options(run), student.task, student.device
        if not options.teachers or options.data == IN_MEMORY:
            lack = "its data were in memory" if options.teachers else "it has no teachers"
            raise ConfigError(f"--with-teachers cannot be used with {run}: {lack}")
        named = {"teachers": list(options.teachers)}
        check_code(str(run / CONFIG), named, {"trust_remote_code": trust_remote_code})
        data = load_training_data(options, task, unlabelled=False)
        check_content(run, data.content)
        train = match_columns(data.splits["train"], student.columns)
        if train.labels is None:
            raise ConfigError(f"--with-teachers needs labels, but no row of {run} has one")
        rows = np.sort(np.random.default_rng(0).permutation(len(train))[:MOST_FITTED_ROWS])
        folder, found = features_folder(options.features), []
        for text in options.teachers:
            teacher, samples = open_teacher(text, train, trust_remote_code)
            teacher = choose_engine(teacher, samples, options, folder, device)
            identity = store_identity(teacher, options.features_dtype, options.extract_precision)
            store = FeatureStore.open(folder, identity, create=False)
            found.append((teacher, StoredFeatures(text, store, samples, [])))
        features = torch.cat([stored.gather(rows) for _, stored in found], dim=1)
        labels = torch.from_numpy(np.asarray(train.labels)[rows])
        head = fit_task_head(features, labels, task.kind, task.num_outputs)
        how = Compute(num_workers=0, device=device, precision=options.extract_precision)
        return cls(found, head, how)

    def logits(self, samples: Samples) -> NDArray[np.float64]:
        """Outputs of the linear model ``(n, C)``; NaN where a table of features lacks the input.

        Args:
            samples: Inputs with the student's columns; stored features are used if there are any.
        """
        features = []
        for teacher, stored in self.teachers:
            own = samples.only(*(column.name for column in stored.samples.columns))
            present, places = own.present.any(axis=1), stored.store.locate(own.ids)
            found = stored.statistics().mean.repeat(len(own), 1)  # where the input is missing
            kept, new = np.flatnonzero(places >= 0), np.flatnonzero(present & (places < 0))
            found[kept] = stored.store.gather(own.ids[kept])
            if isinstance(teacher, FeatureTable):
                found[new] = torch.nan
            elif len(new):
                size = min(len(new), self.how.batch_size)  # batches are filled up to it
                how = replace(self.how, batch_size=size)
                for rows, values in compute_features(teacher, own, new, how):
                    found[rows] = values
            features.append(found)
        joined = torch.cat(features, dim=1).double()
        return (joined @ self.head.weight.T.double() + self.head.bias.double()).numpy()


@dataclass(frozen=True)
class Answerer:
    """Answers questions with a student.

    Attributes:
        student: The student, on its device.
        batch_size: Most inputs per forward pass.
        teachers: The linear model on the teachers' features, if it is wanted.
    """

    student: SavedStudent
    batch_size: int
    teachers: TeachersHead | None = None

    def answer(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        """The answers as JSON values: ``predictions`` and, if there are any, ``teachers``.

        Both have one dictionary per input, as :meth:`SavedStudent.predict` returns them, with
        ``probabilities`` by class if asked for; None where the teachers have no answer.

        Raises:
            DataError: If an input cannot be read.
        """
        student, rows = self.student, [row for one in questions for row in one.rows]
        values = [list(column) for column in zip(*rows, strict=True)]
        names = [column.name for column in student.columns]
        samples = student.read(dict(zip(names, values, strict=True)) if names[1:] else values[0])
        inputs, size = student.inputs(samples), self.batch_size
        logits = compute_logits(student.module, inputs, batch_size=size, device=student.device)
        found: dict[str, NDArray[Any]] = {"predictions": logits}
        if self.teachers is not None:
            found["teachers"] = self.teachers.logits(samples)
        ends = np.cumsum([len(one.rows) for one in questions])[:-1]
        parts = {name: np.split(outputs, ends) for name, outputs in found.items()}
        return [
            {name: self._describe(part[i], one.probabilities) for name, part in parts.items()}
            for i, one in enumerate(questions)
        ]

    def _describe(self, logits: NDArray[Any], probabilities: bool) -> Any:
        task = self.student.task
        found = list_predictions(logits, task)
        if probabilities and task.kind != "regression":
            for one, row in zip(found, probabilities_of(logits, task), strict=True):
                one["probabilities"] = dict(zip(task.names, row.tolist(), strict=True))
        known = np.isfinite(logits).all(axis=1).tolist()
        return strict_json([one if ok else None for one, ok in zip(found, known, strict=True)])
