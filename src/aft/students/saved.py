"""Save and load a trained student with everything needed for prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from aft.backbones.preprocessing import Preprocessing
from aft.config.groups import InMemory
from aft.data.loading import load_inputs
from aft.data.readers.find_columns import Columns, InputColumn
from aft.data.samples import Samples, match_columns
from aft.errors import DataError, StudentError
from aft.files import check_files, read_json, reading, write_json, write_whole, writing
from aft.paths import find_student
from aft.students.backbone import Backbone
from aft.students.build import rebuild_backbone
from aft.students.inputs import StudentInputs
from aft.students.predictions import list_predictions, probabilities_of
from aft.students.run_student import run_student
from aft.students.student import Student, new_student
from aft.students.towers import ColumnPreprocessing
from aft.tasks import Task

WEIGHTS, DESCRIPTION, ABOUT = "model.safetensors", "student.json", "about"
CURE = "Copy the student again from where it came, or train it again"


@dataclass
class SavedStudent:
    """A student with everything needed for prediction.

    Attributes:
        module: The network.
        task: The task.
        columns: The input columns that it takes.
        backbone: Holds the preprocessing and the origin of the weights.
        about: Where it comes from, as JSON values: ``version``, ``date``, ``licence``,
            ``teachers``, ``data``, ``scores`` and ``training``; empty if it was not recorded.
    """

    module: Student
    task: Task
    columns: tuple[InputColumn, ...]
    backbone: Backbone
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def transform(self) -> Callable[[Any], Any]:
        """Maps a sample's input to the network's input."""
        return self.backbone.preprocessing.evaluate()

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.module.parameters()).device

    def inputs(self, samples: Samples) -> StudentInputs:
        """Its inputs for samples, of whose columns it uses its own."""
        own = samples.only(*(column.name for column in self.columns))
        return StudentInputs(own, self.transform)

    def predict(self, inputs: Any, batch_size: int = 64) -> list[dict[str, Any]]:
        """Predict labels, as `aft predict` does for the same inputs in files.

        Args:
            inputs: Images or texts, as in :func:`aft.data.readers.in_memory.read_in_memory`: a
                list, an array, a column of a data frame, or a table with the student's columns.
                One text, path or image, or a dictionary with one value per column, is one input.
            batch_size: Inputs per batch.

        Returns:
            One dictionary per input, so a list of one for one input. Classification: ``label`` and
            ``probability``; multi-label: lists of these, for probabilities above 0.5; regression:
            the value of each target.

        Raises:
            DataError: If an input cannot be read; it names the position.
        """
        return list_predictions(self._run(inputs, batch_size)[0].numpy(), self.task)

    def predict_proba(self, inputs: Any, batch_size: int = 64) -> NDArray[np.float64]:
        """The probability of each class of ``task.names``, ``(n, num_classes)``.

        Arguments are those of :meth:`predict`.

        Raises:
            DataError: If an input cannot be read.
            StudentError: If the task is regression.
        """
        if self.task.kind == "regression":
            raise StudentError("a regression student has no probabilities; use predict")
        return probabilities_of(self._run(inputs, batch_size)[0].numpy(), self.task)

    def embed(self, inputs: Any, batch_size: int = 64) -> NDArray[np.float32]:
        """Features, the input of the last layer, ``(n, dim)``; as :meth:`predict` otherwise."""
        return self._run(inputs, batch_size)[1].numpy()

    def logits(self, inputs: Any, batch_size: int = 64) -> Tensor:
        """The outputs, ``(n, num_outputs)`` on the CPU; as :meth:`predict` otherwise."""
        return self._run(inputs, batch_size)[0]

    def _run(self, inputs: Any, batch_size: int) -> tuple[Tensor, Tensor]:
        """Logits and features of inputs in memory, on the CPU."""
        if hasattr(inputs, "__len__") and not len(inputs) and not isinstance(inputs, str | bytes):
            return torch.zeros(0, self.task.num_outputs), torch.zeros(0, self.module.dim)
        own = self.inputs(self.read(inputs))
        batches = run_student(self.module, own, batch_size=batch_size, device=self.device)
        logits, features = zip(*batches, strict=True)
        return torch.cat(logits).float().cpu(), torch.cat(features).float().cpu()

    def read(self, inputs: Any) -> Samples:
        """Inputs as :meth:`predict` takes them, at least one, as samples with its columns.

        Raises:
            DataError: If an input cannot be read; it names the position.
        """
        columns = Columns(usual=self.columns)
        samples, report = load_inputs(InMemory(inputs), columns, progress=False)
        for name, fault in report.bad_inputs:
            raise DataError(f"cannot read {name}: {fault}")
        return match_columns(samples, self.columns)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, :attr:`Backbone.files`, and their description.

        ``student.json``, which is written last, holds the SHA-256 of the other files.

        Raises:
            StudentError: If a file cannot be written.
        """
        folder = Path(folder)
        state = {k: v.detach().cpu().contiguous() for k, v in self.module.state_dict().items()}
        texts = {name: text.encode() for name, text in self.backbone.files.items()}
        files = {WEIGHTS: save(state), **texts}
        description = {
            "task": self.task.describe(),
            "columns": [asdict(column) for column in self.columns],
            "preprocessing": self.backbone.preprocessing.describe(),
            "dim": self.module.dim,
            "info": self.backbone.info,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
            "shapes": {
                "inputs": _shape(self.backbone.preprocessing),
                "outputs": ["rows", self.task.num_outputs],
            },
            ABOUT: self.about,
        }
        with writing(folder, StudentError, "Free some space and run again with --resume"):
            for name, data in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_whole(folder / name, data)
            write_json(folder / DESCRIPTION, description)

    @classmethod
    def load(
        cls, folder: str | Path, trust_remote_code: bool | Collection[str] = False
    ) -> SavedStudent:
        """Load a saved student; needs no teachers, and internet access only to download it.

        Args:
            folder: A run folder, the ``student`` folder in it, or ``hf://user/name``, perhaps with
                ``@revision``, for one that `aft push` wrote to the Hub.
            trust_remote_code: Whether to run Python code that the student needs: the file of a
                ``python:`` function, or code that is part of a hub model. Or the specifications
                that the user gave, of which the files of ``python:`` students may run.

        Raises:
            StudentError: If `folder` contains no student, a file of it is damaged, or the student
                needs code that is not trusted.
        """
        folder = find_student(folder)
        description = check_student(folder)
        with reading(folder / DESCRIPTION, StudentError, CURE):
            task = Task.from_description(description["task"])
            columns = tuple(InputColumn(**column) for column in description["columns"])
            info, preprocessing = description["info"], description["preprocessing"]
            backbone = rebuild_backbone(info, preprocessing, folder, trust_remote_code)
            backbone.info = info
            module = new_student(backbone, task)
        with reading(folder / WEIGHTS, StudentError, CURE):
            module.load_state_dict(load_file(folder / WEIGHTS))
        return cls(module.eval(), task, columns, backbone, description.get(ABOUT, {}))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the files that :meth:`save` writes, so that a pickle depends on no folder."""
        with TemporaryDirectory() as folder:
            self.save(folder)
            paths = [path for path in Path(folder).rglob("*") if path.is_file()]
            return _unpickle, ({str(p.relative_to(folder)): p.read_bytes() for p in paths},)


load_student = SavedStudent.load


def _unpickle(files: dict[str, bytes]) -> SavedStudent:
    """The student of these files, on the CPU."""
    with TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        return SavedStudent.load(folder, trust_remote_code=True)  # as a pickle may run any code


def _shape(prepare: Any) -> Any:
    """Shape of a batch of inputs."""
    if isinstance(prepare, ColumnPreprocessing):
        return {name: _shape(part) for name, part in prepare.parts.items()}
    is_image = isinstance(prepare, Preprocessing)
    return ["rows", 3, prepare.size, prepare.size] if is_image else ["rows", "tokens"]


def check_student(folder: Path, name: str = DESCRIPTION) -> dict[str, Any]:
    """Compare the files of a saved student with their checksums; returns its description.

    Args:
        folder: The folder of the student, or of its export.
        name: The file of the description.

    Raises:
        StudentError: If a file is missing or damaged.
    """
    description = read_json(folder / name, StudentError, CURE)
    with reading(folder, StudentError, CURE):
        check_files(folder, description.get("files", {}))
    return description
