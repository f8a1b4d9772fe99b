"""Exports compared with the student on held-out rows: outputs, predictions, score and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aft.data.readers.rows import VALUE
from aft.data.samples import Samples, image_source
from aft.data.texts import read_text
from aft.errors import ExportError
from aft.exporting.graph import Feeds
from aft.exporting.predict import Predictor
from aft.metrics import MAIN_METRIC, compute_metrics, standard_error
from aft.tasks import Task

Runner = Callable[[Feeds], NDArray[np.float32]]
"""Computes the outputs of a network for a batch."""
TOLERANCE = 1e-4
"""Largest difference of an output of a float export, relative to the largest output."""
AGREEMENT = 0.98
"""Smallest share of equal predictions of an export with 8-bit weights."""
BATCH = 32
_ONE_BY_ONE = 100
_SECONDS = 2.0
"""Time to measure the latency, and the throughput, of an export."""


def raw_inputs(samples: Samples) -> list[dict[str, Any]]:
    """The inputs of samples, by column: texts, and paths or bytes of images, not yet decoded."""

    def value(row: int, column: int) -> Any:
        if not samples.present[row, column]:
            return None
        found = samples.values[column][row][VALUE]
        if samples.columns[column].modality == "image":
            return image_source(found)
        return read_text(found) if isinstance(found, bytes) else str(found)

    names = [column.name for column in samples.columns]
    return [
        {name: value(row, column) for column, name in enumerate(names)}
        for row in range(len(samples))
    ]


def open_export(name: str, folder: Path, predictor: Predictor) -> Runner:
    """Load an export as its users do.

    Args:
        name: The format.
        folder: Folder of all exports.
        predictor: The program for this folder; runs ONNX models.
    """
    if name in ("onnx", "onnx-int8"):
        file = "model.onnx" if name == "onnx" else "model-int8.onnx"
        return Predictor(folder, file).run
    if name == "openvino":
        import openvino

        compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU")
        return lambda feeds: np.array(compiled(list(feeds.values()))[0])
    if name == "torch":
        return torch_runner(torch.export.load(folder / "model.pt2").module())
    if name == "timm":
        import timm

        return torch_runner(timm.create_model(f"local-dir:{folder / name}", pretrained=True).eval())
    from aft.exporting.native import run_transformers

    return torch_runner(run_transformers(folder / name, predictor.config["inputs"][0]["kind"]))


def torch_runner(network: Callable[..., Any]) -> Runner:
    """Run a network of torch on arrays."""

    def run(feeds: Feeds) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = network(*map(torch.from_numpy, feeds.values())).numpy()
        return found

    return run


def measure(
    run: Runner, batches: Sequence[Feeds], ones: Sequence[Feeds]
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The outputs of an export for the held-out rows, and its speed on this processor.

    Args:
        run: The export.
        batches: All rows, :data:`BATCH` at a time.
        ones: Some rows one by one.

    Returns:
        Outputs, and ``p50_ms`` and ``p95_ms`` (latency of a batch of 1) and ``rows_per_second``
        (in batches of 32), of the network alone.
    """
    outputs = np.concatenate([run(batch) for batch in batches])
    run(ones[0])
    times = list(_times(run, ones))
    whole = [batch for batch in batches if len(next(iter(batch.values()))) == BATCH] or batches
    spent = list(_times(run, whole))
    rows = [len(next(iter(batch.values()))) for batch in whole]
    return outputs, {
        "p50_ms": 1000 * float(np.percentile(times, 50)),
        "p95_ms": 1000 * float(np.percentile(times, 95)),
        "rows_per_second": sum(rows[: len(spent)]) / sum(spent),
    }


def _times(run: Runner, batches: Sequence[Feeds]) -> Iterator[float]:
    end = time.perf_counter() + _SECONDS
    for batch in batches:
        start = time.perf_counter()
        run(batch)
        yield time.perf_counter() - start
        if time.perf_counter() > end:
            return


def split(predictor: Predictor, inputs: Sequence[Any]) -> tuple[list[Feeds], list[Feeds]]:
    """Prepared inputs in batches, and the first of them one by one."""
    batches = [
        predictor.prepare(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)
    ]
    return list(batches), [predictor.prepare([one]) for one in inputs[:_ONE_BY_ONE]]


def compare(
    outputs: NDArray[np.float32],
    expected: NDArray[np.float32],
    labels: NDArray[Any] | None,
    task: Task,
) -> dict[str, Any]:
    """How far the outputs of an export are from those of the student.

    Returns:
        ``largest_difference`` of an output; ``relative_difference``, relative to the largest
        output if that is above 1; ``agreement``, the share of equal predictions, for regression
        the share of the variance that is the same; with labels ``score`` and ``score_of_student``.
    """
    difference = float(np.abs(outputs.astype(np.float64) - expected).max(initial=0))
    if task.kind == "classification":
        agreement = float((outputs.argmax(1) == expected.argmax(1)).mean())
    elif task.kind == "multilabel":
        agreement = float(((outputs > 0) == (expected > 0)).mean())
    else:
        spread = max(float(expected.var(0).mean()), 1e-12)
        agreement = 1 - float(np.square(outputs - expected).mean()) / spread
    found = {
        "largest_difference": difference,
        "relative_difference": difference / max(1.0, float(np.abs(expected).max(initial=0))),
        "agreement": agreement,
    }
    if labels is not None:
        metric = MAIN_METRIC[task.kind]
        for name, values in (("score", outputs), ("score_of_student", expected)):
            found[name] = compute_metrics(values, labels, task)[metric]
        found["standard_error"] = standard_error(metric, expected, labels, task)
    return found


def check(name: str, found: dict[str, Any]) -> None:
    """Check that an export computes what the student computes.

    A float export may differ by :data:`TOLERANCE`. One with 8-bit weights has :data:`AGREEMENT`,
    or loses less than a standard error of the score.

    Raises:
        ExportError: If it does not.
    """
    if name != "onnx-int8":
        if not found["relative_difference"] <= TOLERANCE:
            raise ExportError(
                f"the export as {name} computes other outputs than the student: expected a "
                f"relative difference of at most {TOLERANCE:g}, got "
                f"{found['relative_difference']:.2g}; use another --format"
            )
        return
    loss = found.get("score_of_student", np.inf) - found.get("score", 0.0)
    if not found["agreement"] >= AGREEMENT and not loss <= found.get("standard_error", 0.0):
        raise ExportError(
            f"8-bit weights change the predictions: expected an agreement of {AGREEMENT:g} with "
            f"the student or a loss of at most a standard error, got an agreement of "
            f"{found['agreement']:.3f}; use --format onnx"
        )
