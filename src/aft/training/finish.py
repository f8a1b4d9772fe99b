"""Results of a finished run: scores, predictions and gates."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from aft.backbones.network import licence_of
from aft.config.commands import TrainConfig
from aft.data.loading import DataSet
from aft.errors import StudentError
from aft.features.stored import StoredFeatures
from aft.files import sha256_of, write_json, write_whole, writing
from aft.linear.baselines import describe_baselines
from aft.losses.aft import AFTLoss
from aft.losses.aft_soft import AFTSoftLoss
from aft.metrics import AGREEMENT, bootstrap_intervals, compute_metrics, explain_undefined
from aft.students.predictions import compare_with_labels
from aft.students.run_student import compute_logits
from aft.students.saved import DESCRIPTION, SavedStudent
from aft.training.checkpoints import Progress
from aft.training.prepare import initial_weights
from aft.training.run_folder import CONFIG, EVALUATION, GATES, METRICS, RESULT, STUDENT
from aft.training.schedule import Schedule
from aft.training.transfer_model import TransferModel
from aft.trivial import compare_with_trivial
from aft.version import __version__


def final_split(data: DataSet) -> str:
    """Name of the split for the final score: ``test`` if there is one, else ``validation``."""
    return "test" if "test" in data.splits else "validation"


class Scorer:
    """Computes the outputs of students on the splits of a data set.

    Args:
        config: Options of the run.
        data: The data set.
        device: Device of the students.
    """

    def __init__(self, config: TrainConfig, data: DataSet, device: torch.device) -> None:
        self.config = config
        self.data = data
        self.device = device

    def __call__(self, saved: SavedStudent, split: str) -> NDArray[np.float32]:
        """Outputs of a student on a split, shape ``(n, num_outputs)``."""
        return compute_logits(
            saved.module,
            saved.inputs(self.data.splits[split]),
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
            device=self.device,
            progress=self.config.progress,
        )


def finish(
    out: Path,
    data: DataSet,
    saved: SavedStudent,
    score: Scorer,
    summary: dict[str, Any],
) -> None:
    """Score the student, save it, then write ``result.json``, which marks the run as finished.

    Args:
        out: Folder of the run.
        data: The data set.
        saved: The student.
        score: Computes the student's outputs.
        summary: Content of ``result.json``; the scores are added to it, and notes that compare them
            with a constant predictor and with linear models.
    """
    split = final_split(data)
    for name in dict.fromkeys((split, "validation")):
        samples = data.splits[name]
        labels = np.asarray(samples.labels)
        logits = score(saved, name)
        metrics = compute_metrics(logits, labels, data.task)
        summary["validation" if name == "validation" else "metrics"] = metrics
        if name == split:
            intervals = bootstrap_intervals(logits, labels, data.task)
            summary |= {"split": split, "metrics": metrics, "intervals": intervals}
            train = data.splits["train"].labels
            summary["notes"] += explain_undefined(metrics, labels, data.task, split)
            if train is not None and summary["metric"] != AGREEMENT:
                summary["trivial"] = compare_with_trivial(train, labels, data.task, summary)
                summary["notes"] += filter(None, [summary["trivial"].get("sentence")])
            metric, instead = summary["metric"], summary["baselines"]
            summary["notes"] += describe_baselines(instead, metric, metrics[metric], split)
            table = io.BytesIO()
            pyarrow.parquet.write_table(
                pyarrow.table(compare_with_labels(logits, samples, data.task)), table
            )
            write_whole(out / EVALUATION, table.getvalue())
    saved.about = _about(summary, data, saved)
    saved.save(out / STUDENT)
    written = (CONFIG, METRICS, EVALUATION, GATES, f"{STUDENT}/{DESCRIPTION}")
    files = {name: sha256_of(out / name) for name in written if (out / name).exists()}
    with writing(out, StudentError, "Free some space and run again with --resume"):
        write_json(out / RESULT, {**summary, "files": files})


def _about(summary: Mapping[str, Any], data: DataSet, saved: SavedStudent) -> dict[str, Any]:
    """What a student's folder says about its origin."""
    own = ["version", "student_weights", "num_parameters", "teachers", "loss", "seed", "steps"]
    own += ["training_seconds", "rows", "rows_without_labels"]
    own += ["splits_without_labels", "views", "notes"]
    return {
        **{name: summary[name] for name in own},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "licence": licence_of(saved.backbone.info),
        "data": data.origin(),
        "scores": {one: summary[one] for one in ("metric", "split", "metrics", "intervals")},
        "labels_alone": summary.get("safety_net", {}).get("fell_back", False),
    }


def summarize(
    config: TrainConfig,
    data: DataSet,
    saved: SavedStudent,
    teachers: Sequence[StoredFeatures],
    model: TransferModel,
    progress: Progress,
    schedule: Schedule,
) -> dict[str, Any]:
    """The part of ``result.json`` that describes how the student was trained."""
    return {
        "version": __version__,
        "student": " + ".join(config.student),
        "student_weights": initial_weights(saved),
        "num_parameters": sum(p.numel() for p in saved.module.parameters()),
        "task": data.task.describe(),
        "columns": [asdict(column) for column in data.splits["train"].columns],
        "student_columns": [column.name for column in saved.columns],
        "teachers": [
            {
                **{"spec": one.spec, "dim": one.dim, "folder": one.store.path.name},
                "licence": one.store.identity.get("licence"),
            }
            for one in teachers
        ],
        "loss": None if model.transfer_loss is None else config.loss,
        "beta": model.beta,
        "seed": config.seed,
        "steps": progress.step,
        "best_step": progress.best.step,
        "lr": schedule.lr,
        "head_lr": schedule.head_lr,
        "training_seconds": round(progress.seconds, 3),
        "rows": {name: len(split) for name, split in data.splits.items()},
    }


def save_gates(
    out: Path, model: TransferModel, teachers: Sequence[StoredFeatures]
) -> dict[str, Any]:
    """Save the gates of AFT; returns each teacher's share of the gated kernel."""
    loss = model.transfer_loss
    if not isinstance(loss, AFTLoss | AFTSoftLoss):
        return {}
    gates = {str(i): gate.float().cpu().contiguous() for i, gate in enumerate(loss.gates())}
    write_whole(out / GATES, save(gates))
    some = np.random.default_rng(0).permutation(len(teachers[0].samples))[:1024]
    device = next(iter(loss.state_dict().values())).device
    features = [one.gather(some).to(device) for one in teachers]
    return {"teacher_shares": [round(float(s), 6) for s in loss.kernel_shares(features)]}
