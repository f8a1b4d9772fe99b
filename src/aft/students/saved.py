"""Save and load a trained student with everything needed for prediction."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from aft.backbones.batches import collate, to_device
from aft.backbones.weights import read_object, read_safetensors, reading
from aft.data.readers.find_columns import InputColumn
from aft.errors import StudentError
from aft.students.backbone import Backbone
from aft.students.build import rebuild_backbone
from aft.students.student import Student, new_student
from aft.tasks import Task


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
        """Write ``model.safetensors``, ``student.json`` and :attr:`Backbone.files`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.module.state_dict().items()}
        (folder / "model.safetensors").write_bytes(save(state))
        description = {
            "task": self.task.describe(),
            "columns": [asdict(column) for column in self.columns],
            "preprocessing": self.backbone.preprocessing.describe(),
            "dim": self.module.dim,
            "info": self.backbone.info,
        }
        for name, text in self.backbone.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "student.json").write_text(json.dumps(description, indent=2) + "\n")

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
            StudentError: If `folder` contains no student, the student needs code that is not
                trusted, or a file is damaged.
        """
        folder = Path(folder)
        if (folder / "student" / "student.json").exists():
            folder = folder / "student"
        file, weights = folder / "student.json", folder / "model.safetensors"
        if missing := [one for one in (file, weights) if not one.is_file()]:
            among = " of a comparison" if (folder / "compare.json").exists() else ""
            raise StudentError(
                f"expected the folder of a student or of a finished run{among}, but {missing[0]} "
                "is missing"
            )
        state = read_safetensors(weights, StudentError)
        with reading(file, StudentError):
            description = read_object(file, StudentError)
            task = Task.from_description(description["task"])
            columns = tuple(InputColumn(**column) for column in description["columns"])
            info: dict[str, Any] = description["info"]
            backbone = rebuild_backbone(
                info, description["preprocessing"], folder, trust_remote_code
            )
            backbone.info = info
            module = new_student(backbone, task)
        with reading(weights, StudentError):
            module.load_state_dict(state)
        return cls(module.eval(), task, columns, backbone)
