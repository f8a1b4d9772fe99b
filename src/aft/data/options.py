"""Load data as the command-line options specify it."""

from __future__ import annotations

from collections.abc import Sequence

from aft.config.class_names import read_class_names
from aft.config.commands import ScoreConfig, TrainConfig
from aft.config.groups import NOTHING, ReadOptions
from aft.data.loading import DataSet, load_data
from aft.data.readers.find_columns import Columns, InputColumn
from aft.tasks import Task


def asked_columns(options: ReadOptions, usual: Sequence[InputColumn] = ()) -> Columns:
    """The columns that the options name.

    Args:
        options: The options that name columns.
        usual: The input columns of a trained student, searched before the usual names.
    """
    return Columns(
        image=options.image_column,
        text=tuple(options.text_column),
        label=tuple(options.label_column),
        split=options.split_column,
        usual=tuple(usual),
        allow_outside=options.allow_outside,
        delimiter=options.delimiter,
        encoding=options.encoding,
    )


def load_training_data(
    config: TrainConfig | ScoreConfig, task: Task | None = None, *, unlabelled: bool = True
) -> DataSet:
    """Load the data of a training run, or of teacher scores, split with its seed.

    Args:
        config: The options of the run.
        task: The task of the run, if known.
        unlabelled: Whether to read the source of --unlabelled. The splits do not depend on it.

    Raises:
        DataError: See :func:`aft.data.load_data`.
        ConfigError: See :func:`aft.config.class_names.read_class_names`.
    """
    source = config.unlabelled if unlabelled or config.unlabelled == NOTHING else None
    names = config.classes if isinstance(config, TrainConfig) else None
    return load_data(
        config.data,
        asked_columns(config),
        task=config.task,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        train_fraction=config.train_fraction,
        seed=config.seed,
        on_bad_input=config.on_bad_input,
        progress=config.progress,
        known_task=task,
        unlabelled=source,
        classes=read_class_names(names) if names else None,
    )
