"""Save and load a trained student with everything needed for prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from aft.backbones.batches import collate, to_device
from aft.data.readers.find_columns import InputColumn
from aft.data.samples import Samples
from aft.errors import StudentError
from aft.files import check_files, read_json, reading, write_json, write_whole, writing
from aft.paths import find_student
from aft.students.backbone import Backbone
from aft.students.build import rebuild_backbone
from aft.students.inputs import StudentInputs
from aft.students.student import Student, new_student
from aft.tasks import Task

WEIGHTS, DESCRIPTION = "model.safetensors", "student.json"
CURE = "Copy the student again from where it came, or train it again"


@dataclass
class SavedStudent:
    """A student with everything needed for prediction.

    Attributes:
        module: The network.
        task: The task.
        columns: The input columns that it takes.
        backbone: Holds the preprocessing and the origin of the weights.
    """

    module: Student
    task: Task
    columns: tuple[InputColumn, ...]
    backbone: Backbone

    @property
    def transform(self) -> Callable[[Any], Any]:
        """Maps a sample's input to the network's input."""
        return self.backbone.preprocessing.evaluate()

    def inputs(self, samples: Samples) -> StudentInputs:
        """Its inputs for samples, of whose columns it uses its own."""
        own = samples.only(*(column.name for column in self.columns))
        return StudentInputs(own, self.transform)

    def logits(self, inputs: Sequence[Any], batch_size: int = 64) -> Tensor:
        """Compute the outputs for inputs in memory, on the network's device.

        Args:
            inputs: PIL images or texts; for several columns dictionaries by column name, in which
                missing values may be None or left out.
            batch_size: Inputs per batch.

        Returns:
            ``(n, num_outputs)`` on the CPU; for regression the predicted values.
        """
        prepare = self.transform
        names = [column.name for column in self.columns]
        if len(names) > 1:
            inputs = [{name: one.get(name) for name in names} for one in inputs]
        device = next(self.module.parameters()).device
        outputs = []
        with torch.inference_mode():
            for start in range(0, len(inputs), batch_size):
                batch = collate([prepare(one) for one in inputs[start : start + batch_size]])
                outputs.append(self.module(to_device(batch, device)).logits.float().cpu())
        return torch.cat(outputs)

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors``, :attr:`Backbone.files`, and their description.

        ``student.json``, which is written last, holds the SHA-256 of the other files.

        Raises:
            StudentError: If a file cannot be written.
        """
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
        """Load a saved student; needs neither teachers nor internet access.

        Args:
            folder: A run folder, or the ``student`` folder in it.
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
        return cls(module.eval(), task, columns, backbone)


def check_student(folder: Path) -> dict[str, Any]:
    """Compare the files of a saved student with their checksums; returns its description.

    Raises:
        StudentError: If a file is missing or damaged.
    """
    description = read_json(folder / DESCRIPTION, StudentError, CURE)
    with reading(folder, StudentError, CURE):
        check_files(folder, description.get("files", {}))
    return description
