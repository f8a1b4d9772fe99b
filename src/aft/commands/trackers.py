"""Experiment trackers that a run logs to, through Accelerate: TensorBoard, W&B and MLflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accelerate import tracking
from accelerate.utils import is_tensorboard_available

from aft.backbones.checks import explain
from aft.config.commands import TrainConfig
from aft.errors import ConfigError
from aft.training.run_folder import read_metrics


def start_trackers(
    config: TrainConfig, folder: Path, step: int = 0
) -> list[tracking.GeneralTracker]:
    """Start the trackers of a run.

    TensorBoard events of a resumed run go on; W&B and MLflow get a new run with the earlier values.

    Args:
        config: Options of the run.
        folder: The run folder.
        step: Step from which the run resumes.

    Raises:
        ConfigError: If a tracker cannot be started.
    """
    project, title = "aft", folder.as_posix()
    options = config.model_dump(mode="json")
    earlier = [line for line in read_metrics(folder) if line["step"] <= step] if step else []
    trackers = []
    for name in config.log_to or (["tensorboard"] if is_tensorboard_available() else []):
        tracker: Any
        if name == "tensorboard":
            purge = step + 1 if step else None
            tracker = tracking.TensorBoardTracker("tensorboard", folder, purge_step=purge)
        elif name == "wandb":
            tracker = tracking.WandBTracker(
                os.environ.get("WANDB_PROJECT", project),
                dir=folder,
                name=title,
                config=options,
                mode=os.environ.get("WANDB_MODE", "offline"),
                settings={
                    "console": "off",
                    "reinit": "create_new",  # beside a run of the caller
                    "silent": not config.progress,
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
        for line in earlier if name != "tensorboard" else ():
            names = line.keys() - {"step", "split"}
            tracker.log({f"{line['split']}/{one}": line[one] for one in names}, step=line["step"])
    return trackers
