"""What a finished run leaves: scores, predictions, gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from aft.config.commands import TrainConfig
from aft.data.loading import DataSet
from aft.devices import choose_num_workers
from aft.features.stored import StoredFeatures
from aft.losses.aft import AFTLoss
from aft.losses.aft_soft import AFTSoftLoss
from aft.metrics import compute_metrics
from aft.students.predictions import compare_with_labels
from aft.students.run_student import compute_logits
from aft.students.saved import SavedStudent
from aft.training.run_folder import (
    write_json,
)
from aft.training.transfer_model import TransferModel


def final_split(data: DataSet) -> str:
    """The split of the final score."""
    return "test" if "test" in data.splits else "validation"


class Scorer:
    """Outputs of students for the splits of a data set.

    Args:
        config: Options of the run.
        data: The data set.
        device: Where the students are.
    """

    def __init__(self, config: TrainConfig, data: DataSet, device: torch.device) -> None:
        self.config = config
        self.data = data
        self.device = device

    def __call__(
        self,
        saved: SavedStudent,
        split: str,
        model: TransferModel | None = None,
        teachers: Sequence[StoredFeatures] = (),
    ) -> NDArray[np.float32]:
        """Outputs ``(n, num_outputs)``; with `model` and `teachers` of one that keeps these."""
        return compute_logits(
            model or saved.module,
            saved.transform,
            self.data.splits[split].only(*(column.name for column in saved.columns)),
            teachers=teachers,
            batch_size=self.config.batch_size,
            num_workers=choose_num_workers(self.config.num_workers, self.device),
            device=self.device,
            progress=self.config.progress,
        )


def finish(
    out: Path,
    config: TrainConfig,
    data: DataSet,
    saved: SavedStudent,
    summary: dict[str, Any],
    device: torch.device,
    model: TransferModel,
    kept: Mapping[str, Sequence[StoredFeatures]],
) -> None:
    """Score the best checkpoint, then write ``result.json``, which makes the run finished.

    Args:
        out: The run's folder.
        config: Its options.
        data: Its data.
        saved: The student.
        summary: What ``result.json`` is to hold; scores are added.
        device: Where the student is.
        model: The student in its model, which is scored if it keeps its teachers.
        kept: Teachers' features of the splits, where the model keeps its teachers.
    """
    split, score = final_split(data), Scorer(config, data, device)
    for name in dict.fromkeys((split, "validation")):
        samples = data.splits[name]
        logits = score(saved, name, model if kept else None, kept.get(name, ()))
        metrics = compute_metrics(logits, np.asarray(samples.labels), data.task)
        summary["validation" if name == "validation" else "metrics"] = metrics
        if name == split:
            summary |= {"split": split, "metrics": metrics}
            pyarrow.parquet.write_table(
                pyarrow.table(compare_with_labels(logits, samples, data.task)),
                out / "evaluation.parquet",
            )
    write_json(out / "result.json", summary)


def save_gates(
    out: Path,
    loss: AFTLoss | AFTSoftLoss,
    teachers: list[StoredFeatures],
    summary: dict[str, Any],
) -> None:
    """Keep the learned gates, and what share of the gated kernel each teacher has."""
    gates = {str(i): gate.float().cpu().contiguous() for i, gate in enumerate(loss.gates())}
    save_file(gates, out / "feature_weights.safetensors")
    some = np.random.default_rng(0).permutation(len(teachers[0].samples))[:1024]
    device = next(iter(loss.state_dict().values())).device
    features = [one.gather(some).to(device) for one in teachers]
    summary["teacher_shares"] = [round(float(s), 6) for s in loss.kernel_shares(features)]
