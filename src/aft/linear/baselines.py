"""What people would use instead of a student: linear models that are fitted in seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from aft.backbones.small_texts import WORD
from aft.data.samples import Samples
from aft.errors import InputError
from aft.linear.models import SparseRows, fit_linear
from aft.linear.rows import PreparedRows, label_targets, soft_targets
from aft.losses.heads import fit_task_head
from aft.losses.soft_labels import SoftLabelLoss
from aft.metrics import compute_metrics, metric_words
from aft.students.run_student import run_student
from aft.students.student import Student
from aft.tasks import Task

TF_IDF, START, TAUGHT = "tf-idf", "start-features", "taught-tf-idf"
WORDS = {
    TF_IDF: "TF-IDF with a linear model",
    START: "a linear model on the student's starting features",
    TAUGHT: "TF-IDF with a linear model, taught by the soft labels",
}
MOST_ROWS = 20_000
"""Nothing is fitted to more rows than these, since it would no longer take seconds."""
_MOST_FEATURES = 100_000
_MOST_WEIGHTS = 20_000_000


@dataclass(frozen=True)
class Baselines:
    """Fits linear models to the rows of a run and scores them.

    Attributes:
        student: The student with its initial weights.
        task: The task.
        train: The labelled rows.
        held_out: The validation split and the final split, by name.
        device: Device of the student.
        log_prior: Log frequencies of the classes, if outputs are for equally frequent classes.
    """

    student: Student
    task: Task
    train: PreparedRows
    held_out: dict[str, PreparedRows]
    device: torch.device
    log_prior: Tensor | None = None

    def score(
        self, pretrained: bool, soft: SoftLabelLoss | None, pool: PreparedRows | None
    ) -> list[dict[str, Any]]:
        """Score the linear models that apply to the data and the student.

        These are TF-IDF vectors of words and word pairs with a linear model, if the student reads
        texts; the same taught by the soft labels, if there are any; and a linear model on the
        features of a pre-trained student before training. All are fitted to the training rows. The
        regularization of the first two is chosen on the validation rows, that of the last by
        cross-validation.

        Args:
            pretrained: Whether the student starts from pre-trained weights.
            soft: Makes the soft labels.
            pool: Rows without labels.

        Returns:
            For each its ``name``, ``words``, the ``metrics`` of the final split and of the
            ``validation`` split, and ``seconds``.
        """
        found = []
        rows = len(self.train.samples) + (0 if pool is None else len(pool.samples))
        texts = any(column.modality == "text" for column in self.train.samples.columns)
        if texts and len(self.train.samples) <= MOST_ROWS:
            found.append(self._entry(TF_IDF, [(self.train, None)]))
        if texts and soft is not None and rows <= MOST_ROWS:
            taught = [(part, soft) for part in (self.train, pool) if part is not None]
            found.append(self._entry(TAUGHT, [(self.train, None), *taught]))
        if pretrained and len(self.train.samples) <= MOST_ROWS:
            found.append(self._entry(START, None))
        return [one for one in found if one]

    def _entry(
        self, name: str, parts: Sequence[tuple[PreparedRows, SoftLabelLoss | None]] | None
    ) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            outputs = self._on_features() if parts is None else self._on_texts(parts)
        except InputError:  # for example constant targets
            return {}
        if not outputs:
            return {}
        if self.log_prior is not None:
            outputs = {split: values - self.log_prior for split, values in outputs.items()}
        scores = {
            split: compute_metrics(
                outputs[split].double().numpy(),
                np.asarray(self.held_out[split].samples.labels),
                self.task,
            )
            for split in self.held_out
        }
        return {
            "name": name,
            "words": WORDS[name],
            "metrics": scores[list(scores)[-1]],
            "validation": scores["validation"],
            "seconds": round(time.perf_counter() - started, 2),
        }

    def _on_texts(
        self, parts: Sequence[tuple[PreparedRows, SoftLabelLoss | None]]
    ) -> dict[str, Tensor]:
        """Outputs of a linear model on TF-IDF vectors; none if the texts have no words.

        Args:
            parts: Rows to fit to, with their labels (None) or soft labels.
        """
        task, rescale = self.task, self.student.rescale
        most = min(_MOST_FEATURES, _MOST_WEIGHTS // task.num_outputs)
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), token_pattern=WORD, sublinear_tf=True, max_features=most
        )
        texts = [text for rows, _ in parts for text in _texts(rows.samples)]
        try:
            vectors = SparseRows([csr_array(vectorizer.fit_transform(texts))])
        except ValueError:  # no words
            return {}
        targets = [
            label_targets(rows.samples, task, rescale)
            if soft is None
            else soft_targets(soft, rows, rescale)
            for rows, soft in parts
        ]
        new = {
            split: SparseRows([csr_array(vectorizer.transform(_texts(rows.samples)))])
            for split, rows in self.held_out.items()
        }
        expected = label_targets(self.held_out["validation"].samples, task, rescale)
        model = fit_linear(vectors, torch.cat(targets), new["validation"], expected, task.kind)
        return {split: rescale(model(x)) for split, x in new.items()}

    def _on_features(self) -> dict[str, Tensor]:
        """Outputs of a linear model on the features of the student before training."""
        features = {split: self._run(rows) for split, rows in self.held_out.items()}
        labels = torch.from_numpy(np.asarray(self.train.samples.labels))
        plain = PreparedRows(self.train.samples, self.held_out["validation"].transform)
        head = fit_task_head(self._run(plain), labels, self.task.kind, self.task.num_outputs)
        return {
            split: x.to(head.weight) @ head.weight.T + head.bias for split, x in features.items()
        }

    def _run(self, rows: PreparedRows) -> Tensor:
        self.student.to(self.device)
        batches = run_student(self.student, rows.inputs, device=self.device)
        return torch.cat([features.float().cpu() for _, features in batches])


def describe_baselines(
    found: Sequence[Mapping[str, Any]], metric: str, score: float, split: str
) -> list[str]:
    """A sentence about each linear model, beside the score of the student.

    Args:
        found: The result of :meth:`Baselines.score`.
        metric: The metric of the run; higher is better.
        score: The score of the student.
        split: Name of the final split.
    """
    sentences = []
    for one in found:
        other = one["metrics"][metric]
        better = "better than" if other > score else "the student has"
        sentences.append(
            f"{one['words']}: {metric_words(metric)} on {split} {other:.3f}, {better} "
            f"{'the student with ' if other > score else ''}{score:.3f}"
        )
    return sentences


def _texts(samples: Samples) -> list[str]:
    """The texts of each sample; several columns are joined."""
    names = [column.name for column in samples.columns if column.modality == "text"]
    kept = samples.only(*names)
    joined = []
    for i in range(len(kept)):
        value = kept.input(i)
        parts = value.values() if isinstance(value, dict) else [value]
        joined.append("\n".join(part for part in parts if isinstance(part, str)))
    return joined
