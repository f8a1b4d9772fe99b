"""Classes that are given by their names: their texts and embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aft.backbones.specs import Spec, split_column
from aft.config.commands import TrainConfig
from aft.config.groups import InMemory
from aft.data.loading import DataSet, load_inputs
from aft.data.samples import Samples, match_columns
from aft.errors import ConfigError
from aft.features.stored import StoredFeatures
from aft.losses.class_names import EmbeddedClasses

ABOUT, PHOTO = "this text is about {}", "a photo of {}"
"""Templates of texts about the classes of texts and of images."""


def class_rows(config: TrainConfig, data: DataSet) -> Samples | None:
    """The classes as rows, with their texts in the text column of the data.

    None without names of classes or without a text column, and if the teachers are soft labels.

    Raises:
        DataError: If the data have two text columns.
    """
    columns = data.splits["train"].columns
    given = any("soft" in _spec(teacher).options for teacher in config.teachers)
    if data.classes is None or given or all(one.modality == "image" for one in columns):
        return None
    texts = _texts(config.class_template or ABOUT, data)
    return match_columns(load_inputs(InMemory(texts), progress=False)[0], columns)


def embed_classes(
    config: TrainConfig, data: DataSet, rows: Sequence[StoredFeatures]
) -> list[EmbeddedClasses | None]:
    """The classes in the space of each teacher; None for teachers that cannot read their names.

    Empty without names of classes, and if the teachers are soft labels.

    Args:
        config: Options of the run.
        data: The data set.
        rows: The features of :func:`class_rows`, for each teacher; or none.

    Raises:
        ConfigError: If no teacher can read the names.
        ModelError: If an ``hf:`` teacher of images has no text tower.
    """
    specs = [_spec(teacher) for teacher in config.teachers]
    if data.classes is None or any("soft" in spec.options for spec in specs):
        return []
    found: list[EmbeddedClasses | None] = []
    for place, spec in enumerate(specs):
        if rows and rows[place].present.all():
            found.append(EmbeddedClasses(rows[place].gather(np.arange(len(rows[place].samples)))))
        elif spec.source == "hf":
            from aft.backbones.huggingface_classes import embed_texts

            texts = _texts(config.class_template or PHOTO, data)
            found.append(EmbeddedClasses(*embed_texts(spec, texts, config.trust_remote_code)))
        else:
            found.append(None)
    if all(one is None for one in found):
        raise ConfigError(
            "--classes needs a teacher that reads the names of the classes: one of texts for data "
            "with texts, or an image-text model such as hf:openai/clip-vit-base-patch32; got "
            f"{', '.join(config.teachers)}"
        )
    return found


def _texts(template: str, data: DataSet) -> list[str]:
    assert data.classes is not None
    return [template.replace("{}", text) for text in data.classes.texts]


def _spec(teacher: str) -> Spec:
    return Spec.parse(split_column(teacher)[1])
