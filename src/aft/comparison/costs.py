"""Floating-point operations of the student and of every teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from aft.config.commands import CompareConfig
from aft.data.samples import Samples, match_columns
from aft.devices import choose_device
from aft.features.run_teacher import Compute, compute_features
from aft.features.stored import open_teacher
from aft.students.run_student import run_student
from aft.training.run_folder import TrainResult

COUNTED_ROWS = 16
BACKWARD = 2
"""A backward pass costs about twice the forward pass (as in Kaplan et al. 2020, 2001.08361)."""


def measure_costs(config: CompareConfig, samples: Samples, run: TrainResult) -> dict[str, Any]:
    """Measure the operations of student training and of one teacher pass over the training rows.

    Matrix products, convolutions and attention are counted, a multiply-add as two operations;
    look-ups and element-wise operations are not. The count is the mean over a few rows. It is None
    for models that torch does not run, such as an ONNX teacher, and for a table of features.

    Args:
        config: Options of the comparison.
        samples: Training rows.
        run: A finished run of the student on the labels alone.

    Returns:
        ``student`` with ``flops`` (forward pass per row), ``training_flops`` (a complete run) and
        ``rows_seen`` (by the run, with repetitions);
        ``teachers``, each with ``spec``, ``flops`` (per row), ``rows`` and ``total_flops``.

    Raises:
        AftError: If a model cannot be loaded.
    """
    device = choose_device(config.device)
    student = run.student(config.trust_remote_code or config.student)
    some = _some(samples)
    inputs = match_columns(samples.subset(some), student.columns)
    one_by_one = run_student(
        student.module.to(device), student.inputs(inputs), batch_size=1, device=device
    )
    flops = _count(one_by_one, len(some))
    seen = min(config.batch_size, run.summary["rows"]["train"]) * run.summary["steps"]
    teachers = []
    for text in config.teachers:
        teacher, own = open_teacher(text, samples, config.trust_remote_code)
        rows = np.flatnonzero(own.present.any(axis=1))
        chosen = rows[_some(rows)]
        how = Compute(1, config.extract_batch_tokens, 0, device)
        cost = _count(compute_features(teacher, own, chosen, how), len(chosen))
        total = None if cost is None else cost * len(rows)
        teachers.append({"spec": text, "flops": cost, "rows": len(rows), "total_flops": total})
    training = training_operations(flops, seen)
    student_costs = {"flops": flops, "training_flops": training, "rows_seen": seen}
    return {"student": student_costs, "teachers": teachers}


def training_operations(flops: float | None, inputs: int | None) -> float | None:
    """Operations of training a student on so many inputs, without the transfer loss itself.

    Args:
        flops: Operations of a forward pass per input.
        inputs: Number of inputs, with repetitions.
    """
    return None if flops is None or inputs is None else (1 + BACKWARD) * flops * inputs


def _some(rows: Any) -> Any:
    return np.sort(np.random.default_rng(0).permutation(len(rows))[:COUNTED_ROWS])


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Operations of attention on a CPU, which torch's counter does not include."""
    return int(sdpa_flop_count(query, key, value))


_UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def _count(batches: Iterable[Any], rows: int) -> float | None:
    """Operations per row while iterating over the batches; None if torch counts none."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operation is not counted
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
            for _ in batches:
                pass
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    total = counter.get_total_flops()
    return total / rows if total and rows else None
