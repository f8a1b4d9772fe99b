"""Checks of a command's options that need neither torch nor the data."""

from __future__ import annotations

import os
from pathlib import Path

from aft.backbones.specs import Spec, split_column
from aft.config import commands as configs
from aft.config.groups import ALONE, LEFT_OUT, NOTHING, VARIANTS, LossOptions, Options
from aft.errors import ConfigError
from aft.paths import check_writable, find_source


def check(config: Options) -> None:
    """Check paths, the form of model specifications, and options that exclude each other.

    Nothing is computed before a folder or file to write is known to be writable.

    Raises:
        AftError: If an option is invalid.
    """
    for source in _sources(config):
        find_source(source)
    _check_outputs(config)
    for text in (*getattr(config, "teachers", ()), *getattr(config, "student", ())):
        Spec.parse(split_column(text)[1])
    if isinstance(config, configs.TrainConfig):
        _check_train(config)
    elif isinstance(config, configs.CompareConfig):
        _check_compare(config)
    elif isinstance(config, configs.ScoreConfig | configs.ExtractConfig):
        _check_teachers(config)
    elif isinstance(config, configs.PredictConfig):
        _check_predict(config)
    elif isinstance(config, configs.InspectConfig):
        if config.verify and config.data is not None and not config.teachers:
            raise ConfigError("--verify needs --teachers, the teachers whose features to recompute")
        columns = config.text_column or config.label_column or config.image_column
        if columns and config.path is None and config.data is None:
            raise ConfigError(f"columns {' '.join(columns)} need data: put PATH before the options")


def _sources(config: Options) -> list[str]:
    """The data sources among the options."""
    if isinstance(config, configs.DemoConfig | configs.InspectConfig):
        return []
    found = [getattr(config, "data", None), getattr(config, "unlabelled", None)]
    return [source for source in found if source not in (None, LEFT_OUT, NOTHING)]


def _check_outputs(config: Options) -> None:
    """Check that what the command writes can be written; without --out, in the usual folder."""
    if hasattr(config, "out"):
        is_file = isinstance(config, configs.PredictConfig)
        check_writable(config.out or Path("runs"), "--out", is_file)
    if isinstance(config, configs.InspectConfig):
        if config.ids is not None:
            check_writable(config.ids, "--ids", is_file=True)
    elif (features := getattr(config, "features", None)) and not features.is_dir():
        check_writable(features, "--features")  # an existing one may be complete, and only be read


def _check_train(config: configs.TrainConfig) -> None:
    if config.resume and config.overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")
    if config.resume and config.out is None:
        raise ConfigError("--resume needs --out, the folder of the run to resume")
    if config.loss not in ("aft", "aft-soft"):
        plain = {name: field.default for name, field in LossOptions.model_fields.items()}
        for name in ("kernel", "weights", "combine"):
            if getattr(config, name) != plain[name]:
                raise ConfigError(
                    f"--{name} is an option of --loss aft and aft-soft, got --loss {config.loss}"
                )
    if isinstance(config.views, int) and config.augment == "none":
        raise ConfigError(
            "--views needs random views, but --augment none disables them: omit one of them"
        )
    if config.combine == "product" and len(config.teachers) < 2:
        raise ConfigError(
            f"expected at least 2 --teachers for --combine product, got {len(config.teachers)}"
        )
    if config.steps is not None and config.epochs is not None:
        raise ConfigError(
            f"expected --steps or --epochs, got both ({config.steps}, {config.epochs})"
        )


def _check_compare(config: configs.CompareConfig) -> None:
    _check_one_process("compare")
    methods = [method for method in dict.fromkeys(config.methods) if method != ALONE]
    if not methods:
        raise ConfigError("--methods: expected a method other than alone, e.g. --methods alone aft")
    if config.unlabelled == LEFT_OUT and max(config.train_fractions) >= 1:
        raise ConfigError(
            "--unlabelled left-out uses the rows that --train-fractions leaves out: expected "
            f"fractions below 1, got {max(config.train_fractions):g}"
        )
    if not config.teachers:
        raise ConfigError(f"{methods[0]} needs --teachers: expected at least one, got none")
    for method in methods:
        for option, value in VARIANTS.get(method, {}).items():
            if getattr(config, option) == value:
                raise ConfigError(f"{method} is aft with --{option} {value}: omit one of them")


def _check_teachers(config: configs.ScoreConfig | configs.ExtractConfig) -> None:
    command = "score" if isinstance(config, configs.ScoreConfig) else "extract"
    if not config.teachers:
        raise ConfigError(f"{command} needs --teachers, e.g. --teachers timm:tf_efficientnet_lite0")
    if isinstance(config, configs.ScoreConfig):
        _check_one_process(command)


def _check_one_process(command: str) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{command} needs a single process: run it without torchrun")


def _check_predict(config: configs.PredictConfig) -> None:
    if config.out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"expected --out to end in .csv or .parquet, got {config.out}")
    if config.out.exists() and not config.overwrite:
        raise ConfigError(f"{config.out} exists: use another --out, or --overwrite to replace it")
