"""The folder of an export: the program, its settings, and the network in each format."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from aft.backbones.checks import first_line
from aft.backbones.network import require
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.tokenization import Tokenization
from aft.data.samples import Samples
from aft.errors import AftError, ExportError
from aft.exporting import graph, native, parity
from aft.exporting.card import CARD, list_files, make_card, table
from aft.exporting.predict import Predictor
from aft.files import sha256_of, write_json
from aft.paths import find_student
from aft.students.run_student import compute_logits
from aft.students.saved import SavedStudent
from aft.students.towers import ColumnPreprocessing, column_folder
from aft.version import __version__

DOCUMENT = "export.json"
FILES = {
    **{"onnx": "model.onnx", "onnx-int8": "model-int8.onnx", "torch": "model.pt2"},
    **{"openvino": "model.xml", "timm": "timm", "transformers": "transformers"},
}
"""The file or folder of each format."""
_LOADS = {
    "onnx": '`onnxruntime.InferenceSession("model.onnx")`',
    "onnx-int8": '`onnxruntime.InferenceSession("model-int8.onnx")`',
    "torch": '`torch.export.load("model.pt2").module()`',
    "openvino": '`openvino.Core().compile_model("model.xml")`',
    "timm": '`timm.create_model("local-dir:timm", pretrained=True)`',
    "transformers": '`from_pretrained("transformers")` of the class in `transformers/config.json`',
}
"""How each format is loaded, for the card."""
_RUNTIME = {"onnx": "onnx", "onnxruntime": "onnx"}
EXTRAS = {
    **{"onnx": _RUNTIME, "onnx-int8": _RUNTIME, "openvino": {**_RUNTIME, "openvino": "openvino"}},
    **{"torch": {}, "timm": {"timm": "vision"}, "transformers": {"transformers": "text"}},
}
"""The libraries that each format needs, with the extra that installs them."""
_CALIBRATION = 256
"""Training rows that show how large the activations of a model of images get."""


def check_format(name: str, student: SavedStudent) -> None:
    """Check that a student can be exported in a format, and that the libraries are installed.

    Raises:
        ExportError: If it cannot.
        ModelError: If a library is missing; it names the extra to install.
    """
    native.check_source(name, student)
    for library, extra in EXTRAS[name].items():
        require(library, extra)


def write_program(folder: Path, student: SavedStudent) -> Predictor:
    """Write ``predict.py`` with ``config.json`` and the tokenizers; returns the program.

    The settings list the networks' inputs in order: their name, the columns that they take, and
    how to prepare them.
    """
    how = student.backbone.preprocessing
    columns = tuple(column.name for column in student.columns)
    if isinstance(how, ColumnPreprocessing):
        parts = [(name, how.takes.get(name, (name,)), part) for name, part in how.parts.items()]
        names = [re.sub(r"\W", "_", name) for name, *_ in parts]
        if len(set(names)) < len(names):
            names = [f"input_{place}" for place in range(len(names))]
    else:
        parts = [("", columns, how)]
        names = ["tokens" if isinstance(how, Tokenization) else "images"]
    inputs = []
    for name, (tower, taken, part) in zip(names, parts, strict=True):
        one: dict[str, Any] = {"name": name, "columns": list(taken)}
        if isinstance(part, Tokenization):
            file = f"{column_folder(tower)}/tokenizer.json" if tower else "tokenizer.json"
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(part.tokenizer_json, "utf-8")
            one |= {"kind": "text", "tokenizer": file, "preprocessing": part.plan()}
        elif isinstance(part, Preprocessing):
            one |= {"kind": "image", "preprocessing": part.describe()}
        else:
            raise ExportError(
                f"{student.backbone.info['spec']} has preprocessing of its own, which only aft "
                "runs; give its function an aft.Preprocessing or aft.Tokenization"
            )
        inputs.append(one)
    config = {
        "version": __version__,
        "task": student.task.describe(),
        "columns": [asdict(column) for column in student.columns],
        "inputs": inputs,
    }
    write_json(folder / "config.json", config, sealed=False)
    shutil.copyfile(Path(__file__).with_name("predict.py"), folder / "predict.py")
    return Predictor(folder)


def write_formats(
    folder: Path,
    student: SavedStudent,
    formats: Sequence[str],
    held_out: Samples,
    training: Samples,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write the network in each format, and compare it with the student.

    Args:
        folder: An empty folder.
        student: The student, on the CPU.
        formats: Keys of :data:`FILES`.
        held_out: The rows to compare with, with the student's columns.
        training: Rows that calibrate 8-bit activations.
        say: Called with a line on what is done next.

    Returns:
        By format what :func:`parity.measure` and :func:`parity.compare` return, and ``file`` and
        ``megabytes``; the first entry, ``student``, is the student itself.

    Raises:
        ExportError: If a format cannot be written, or computes something else.
    """
    predictor = write_program(folder, student)
    inputs = parity.raw_inputs(held_out)
    batches, ones = parity.split(predictor, inputs)
    expected = compute_logits(student.module, student.inputs(held_out), batch_size=parity.BATCH)
    if not np.isfinite(expected).all():
        raise ExportError("the student's outputs are not finite; train again with a lower --lr")
    outputs = graph.Outputs(student).eval()
    _, speed = parity.measure(parity.torch_runner(outputs), batches, ones)
    weights = sum(tensor.nbytes for tensor in student.module.state_dict().values())
    same = parity.compare(expected, expected, held_out.labels, student.task)
    found = {"student": {"file": "", "megabytes": weights / 1e6, **same, **speed}}
    for name in formats:
        say(f"{name}: writing {FILES[name]}, then comparing it on {len(held_out)} rows")
        try:
            _write(name, folder, student, predictor, graph.long_enough(batches[0]), training)
            computed, speed = parity.measure(
                parity.open_export(name, folder, predictor), batches, ones
            )
        except AftError:
            raise
        except Exception as error:  # the libraries raise many types
            raise ExportError(
                f"cannot export {student.backbone.info['spec']} as {name}: {first_line(error)}; "
                "use another --format"
            ) from error
        one = parity.compare(computed, expected, held_out.labels, student.task)
        parity.check(name, one)
        found[name] = {"file": FILES[name], "megabytes": _size(folder, name), **one, **speed}
    if not {"onnx", "onnx-int8"} & {*formats}:  # it runs these only
        (folder / "predict.py").unlink()
    if "onnx" not in formats:
        (folder / FILES["onnx"]).unlink(missing_ok=True)
    return found


def write_document(folder: Path, run: Path, document: dict[str, Any]) -> None:
    """Write ``export.json``, and ``README.md``, which is the card of the student of a run."""
    sums = {name: sha256_of(file) for name, file in list_files(folder).items()}
    write_json(folder / DOCUMENT, {**document, "files": sums})
    loads = [f"- {name}: {_LOADS[name]}" for name in document["formats"] if name in _LOADS]
    use = "\n".join(loads)
    if (folder / "predict.py").exists():
        run_it = "pip install numpy onnxruntime pillow tokenizers\npython predict.py FILE"
        use = f"```bash\n{run_it}\n```\n\n{use}".strip()
    checks = (
        f"## Checks of the export\n\n{show_formats(document['formats'])}\n\n"
        f"Measured on {document['rows']} rows of {document['split']}."
    )
    (folder / CARD).write_text(make_card(find_student(run), folder, use, checks), "utf-8")


def show_formats(formats: dict[str, dict[str, Any]]) -> str:
    """The comparison as a Markdown table."""
    heads = ["format", "difference", "agreement", "score", "MB"]
    rows = [[*heads, "p50 ms", "p95 ms", f"rows/s, batch {parity.BATCH}"]]
    for name, one in formats.items():
        score = one.get("score")
        rows.append(
            [
                name,
                f"{one['largest_difference']:.1e}",
                f"{one['agreement']:.4f}",
                "" if score is None else f"{score:.4f}",
                f"{one['megabytes']:.2f}",
                *(f"{one[key]:.2f}" for key in ("p50_ms", "p95_ms")),
                f"{one['rows_per_second']:,.0f}",
            ]
        )
    return table(rows)


def _write(
    name: str,
    folder: Path,
    student: SavedStudent,
    predictor: Predictor,
    example: graph.Feeds,
    training: Samples,
) -> None:
    onnx = folder / FILES["onnx"]
    if name in ("onnx", "onnx-int8", "openvino") and not onnx.exists():
        metadata = {"version": __version__, "task": predictor.kind, "classes": predictor.names}
        metadata["preprocessing"] = predictor.config["inputs"]
        graph.write_onnx(onnx, student, example, metadata)
    if name == "onnx-int8":
        calibration: list[graph.Feeds] = []
        if any(one["kind"] == "image" for one in predictor.config["inputs"]):
            step = max(1, len(training) // _CALIBRATION)
            chosen = training.subset(np.arange(0, len(training), step)[:_CALIBRATION])
            calibration, _ = parity.split(predictor, parity.raw_inputs(chosen))
        graph.write_int8(folder / FILES[name], onnx, calibration)
    elif name == "openvino":
        graph.write_openvino(folder / FILES[name], onnx)
    elif name == "torch":
        graph.write_program(folder / FILES[name], student, example)
    elif name == "timm":
        native.write_timm(folder / FILES[name], student)
    elif name == "transformers":
        native.write_transformers(folder / FILES[name], student, example)


def _size(folder: Path, name: str) -> float:
    """Megabytes of an export, without the program and the tokenizer."""
    place = folder / FILES[name]
    files = [*place.rglob("*")] if place.is_dir() else [place]
    files += [place.with_suffix(".bin")] if name == "openvino" else []
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
