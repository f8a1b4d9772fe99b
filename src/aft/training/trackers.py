"""Experiment trackers that a run logs to, through Accelerate: TensorBoard, W&B and MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import tracking
from accelerate.utils import is_tensorboard_available

from aft.backbones.checks import explain
from aft.errors import ConfigError


def start_trackers(
    names: Sequence[str],
    folder: Path,
    options: Mapping[str, Any],
    step: int,
    earlier: Sequence[tuple[int, Mapping[str, float]]],
) -> list[tracking.GeneralTracker]:
    """Start the trackers of a run.

    TensorBoard events of a resumed run go on; W&B and MLflow get a new run with the earlier values.

    Args:
        names: Trackers; without any, TensorBoard if it is installed.
        folder: The run folder.
        options: Options of the run, for W&B and MLflow.
        step: Step from which the run resumes.
        earlier: Step and values of each earlier line of the log.

    Raises:
        ConfigError: If a tracker cannot be started.
    """
    names = names or ["tensorboard"] * is_tensorboard_available()
    project, title = "aft", folder.as_posix()
    trackers = []
    for name in names:
        tracker: Any
        if name == "tensorboard":
            purge = step + 1 if step else None
            tracker = tracking.TensorBoardTracker("tensorboard", folder, purge_step=purge)
        elif name == "wandb":
            tracker = tracking.WandBTracker(
                os.environ.get("WANDB_PROJECT", project),
                dir=folder,
                name=title,
                config=dict(options),
                mode=os.environ.get("WANDB_MODE", "offline"),
                settings={
                    "console": "off",
                    "reinit": "create_new",  # beside a run of the caller
                    "silent": not options.get("progress", True),
                },
            )
        else:
            tracker = tracking.MLflowTracker(project, run_name=title)
        try:
            tracker.start()
            if name == "mlflow":
                tracker.store_init_configuration(options)
        except Exception as error:  # settings and servers of others
            raise ConfigError(f"--log-to {name} cannot be started: {explain(error)}") from error
        trackers.append(tracker)
        for at, values in () if name == "tensorboard" else earlier:
            tracker.log(values, step=at)
    return trackers
