"""Checks of a command's options that need neither torch nor the data."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from aft import paths
from aft.backbones.checks import check_columns, check_model
from aft.backbones.specs import split_column
from aft.config import commands as configs
from aft.config import groups
from aft.config.class_names import read_class_names
from aft.config.groups import LossOptions, Options, StudentOptions, check_left_out
from aft.errors import ConfigError, DataError, StudentError, TeacherError
from aft.hub import check_data_set
from aft.training.run_folder import CONFIG, DATA, check_run, free_folder, is_finished, read_options

OPTIONS_FILE, DOCUMENT, IDENTITY = "compare.yaml", "score.json", "teacher.json"
EXPORT = "export.json"
"""The files by which the folders of a comparison, of scores, of features and of an export are
recognised."""
Writing = configs.TrainConfig | configs.CompareConfig | configs.ScoreConfig | configs.DemoConfig
"""Options of a command that writes a folder."""


def check(config: Options) -> None:
    """Check whatever the options and the file system show, before torch is imported.

    That is: paths, whether folders are free to be written, the sources, options and local files of
    models, and options that exclude each other.

    Raises:
        AftError: If an option is invalid.
    """
    sources = _sources(config)
    named = [name for name, source in sources.items() if "://" not in source]  # not by an address
    on_hub = [name for name in named if paths.find_source(sources[name]) is None]
    _check_outputs(config)
    if isinstance(config, configs.TrainConfig):
        _check_train(config)
    elif isinstance(config, configs.CompareConfig):
        _check_compare(config)
    elif isinstance(config, configs.ScoreConfig | configs.ExtractConfig):
        _check_teachers(config)
    elif isinstance(config, configs.PredictConfig):
        _check_predict(config)
    elif isinstance(config, configs.InspectConfig):
        _check_inspect(config)
    elif isinstance(config, configs.PushConfig):
        pushed_folder(config.run)
    elif isinstance(config, configs.ServeConfig):
        paths.find_student(config.run)
    elif isinstance(config, configs.ExportConfig):
        paths.find_student(config.run)
        if paths.check_own_folder(config.out, "export", EXPORT) and not config.overwrite:
            raise ConfigError(
                f"{config.out} holds an export: use another --out, or --overwrite to replace it"
            )
    if isinstance(config, Writing):
        out, first = out_folder(config), os.environ.get("RANK", "0") == "0"
        with paths.locked(out, first and (out / paths.LOCK).exists()):
            check_folder(config, out)
    resumed = config.out if isinstance(config, configs.TrainConfig) and config.resume else None
    if resumed is None or not is_finished(resumed):  # a finished run needs no model
        _check_models(config)
    for name in on_hub:
        check_data_set(sources[name], f"--{name} {sources[name]}: " * (name == "unlabelled"))


def pushed_folder(run: Path) -> Path:
    """The folder that `aft push` writes: that of an export, or of the student of a run.

    Raises:
        StudentError: If it is neither.
    """
    return run if (run / EXPORT).is_file() else paths.find_student(run)


def out_folder(config: Writing) -> Path:
    """The folder of the results: --out, or the usual one for the data."""
    if config.out is not None:
        return Path(config.out)
    if isinstance(config, configs.TrainConfig):
        return free_folder(str(config.data))
    command = type(config).__name__.removesuffix("Config").lower()
    return Path(f"runs/{command}-{paths.result_name(str(config.data))}")


def check_folder(config: Writing, out: Path) -> bool:
    """Whether a folder of results contains earlier ones.

    Raises:
        ConfigError: If it contains other files, or a run that is not to be replaced.
    """
    if isinstance(config, configs.TrainConfig):
        return check_run(out, config)
    if isinstance(config, configs.ScoreConfig):
        return paths.check_own_folder(out, "score", DOCUMENT)
    return paths.check_own_folder(out, "comparison", OPTIONS_FILE)


def place(config: configs.InspectConfig) -> configs.InspectConfig:
    """The options, with `path` assigned to the run, the feature store or the data set."""
    if config.path is None:
        return config
    given = [name for name in ("data", "run") if getattr(config, name) is not None]
    if given:
        raise ConfigError(f"expected a path or --{given[0]}, got both")
    path = Path(config.path).expanduser()
    if (path / "compare.json").is_file():
        raise ConfigError(f"{path} is a comparison: read its report.md, or inspect a run inside it")
    if (path / CONFIG).is_file() and (path / DATA).is_file():
        return config.model_copy(update={"run": path})
    if (path / "student.json").is_file():
        if not (path.parent / CONFIG).is_file():
            raise ConfigError(f"{path} is a student without its run; use aft predict --run {path}")
        return config.model_copy(update={"run": path.parent})
    if (path / IDENTITY).is_file():
        return config.model_copy(update={"features": path.parent})
    if any(path.glob(f"*/{IDENTITY}")):
        return config.model_copy(update={"features": path})
    return config.model_copy(update={"data": config.path})


def _sources(config: Options) -> dict[str, str]:
    """The data sources outside memory among the options, by option."""
    if isinstance(config, configs.DemoConfig):
        return {}
    if isinstance(config, configs.InspectConfig):
        config = place(config)
    if isinstance(config, configs.EvaluateConfig):
        paths.find_student(config.run)
        found = {"data": config.data or read_options(config.run).data}
    elif isinstance(config, configs.ExportConfig) and config.data is None:
        return {}  # the command itself says what is missing
    elif isinstance(config, configs.PredictConfig) and config.data == paths.STDIO:
        return {}
    else:
        found = {name: getattr(config, name, None) for name in ("data", "unlabelled")}
    no_source = (None, groups.LEFT_OUT, groups.NOTHING)
    found = {name: source for name, source in found.items() if source not in no_source}
    for name, source in found.items():
        if source == groups.IN_MEMORY:
            raise DataError(
                f"the {name} of this run were in memory, so no file has them; give them again from "
                f"Python, as in aft.evaluate(run=…, {name}=…)"
            )
    return {name: one for name, one in found.items() if not isinstance(one, groups.InMemory)}


def _check_outputs(config: Options) -> None:
    """Check that what the command writes can be written; without --out, in the usual folder."""
    if hasattr(config, "out"):
        is_file = isinstance(config, configs.PredictConfig)
        if not is_file or str(config.out) != paths.STDIO:
            paths.check_writable(config.out or Path("runs"), "--out", is_file)
    if isinstance(config, configs.InspectConfig):
        for option in ("ids", "labels"):
            if (file := getattr(config, option)) is not None:
                paths.check_writable(file, f"--{option}", is_file=True)
    elif (features := getattr(config, "features", None)) and not features.is_dir():
        paths.check_writable(features, "--features")  # an existing one may only be read


def _check_models(config: Options) -> None:
    for option, kind in (("teachers", TeacherError), ("student", StudentError)):
        for text in getattr(config, option, ()):
            check_model(split_column(text)[1], kind)
    if isinstance(config, StudentOptions) and config.student:
        check_columns(config.student, config.student_layers, config.fusion, config.from_)


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
    check_left_out(config.unlabelled, config.train_fraction)
    for name in config.log_to:
        if find_spec(name) is None:
            install = f"pip install 'adaptive-feature-transfer[{name}]'"
            raise ConfigError(f"--log-to {name} needs {name}, which is not installed: {install}")

    if config.class_template is not None and config.classes is None:
        raise ConfigError("--class-template is the text around the --classes: give them, too")
    if config.classes is not None:
        read_class_names(config.classes)
        _check_classes(config)


def _check_classes(config: configs.TrainConfig) -> None:
    if not config.teachers or config.beta == 0 or config.loss not in groups.SOFT:
        raise ConfigError(
            f"--classes needs --teachers, a --beta above 0 and --loss {' or '.join(groups.SOFT)}, "
            f"got {len(config.teachers)} teachers, --beta {config.beta} and --loss {config.loss}"
        )
    if config.task not in ("auto", "classification"):
        raise ConfigError(f"--classes is for classification, got --task {config.task}")
    if (config.class_template or "{}").count("{}") != 1:
        raise ConfigError(
            "expected --class-template with one {} in place of the class, got "
            f"{config.class_template!r}"
        )


def _check_compare(config: configs.CompareConfig) -> None:
    methods = [method for method in dict.fromkeys(config.methods) if method != groups.ALONE]
    if not methods:
        raise ConfigError("--methods: expected a method other than alone, e.g. --methods alone aft")
    if config.unlabelled == groups.LEFT_OUT and max(config.train_fractions) >= 1:
        raise ConfigError(
            "--unlabelled left-out uses the rows that --train-fractions leaves out: expected "
            f"fractions below 1, got {max(config.train_fractions):g}"
        )
    if not config.teachers:
        raise ConfigError(f"{methods[0]} needs --teachers: expected at least one, got none")
    for method in methods:
        for option, value in groups.VARIANTS.get(method, {}).items():
            if getattr(config, option) == value:
                raise ConfigError(f"{method} is aft with --{option} {value}: omit one of them")


def _check_teachers(config: configs.ScoreConfig | configs.ExtractConfig) -> None:
    command = "score" if isinstance(config, configs.ScoreConfig) else "extract"
    if not config.teachers:
        raise ConfigError(f"{command} needs --teachers, e.g. --teachers timm:tf_efficientnet_lite0")
    if isinstance(config, configs.ScoreConfig):
        check_left_out(config.unlabelled, config.train_fraction)


def _check_predict(config: configs.PredictConfig) -> None:
    to_file = str(config.out) != paths.STDIO
    if to_file and config.out.suffix not in paths.PREDICTIONS:
        ends = ", ".join(paths.PREDICTIONS)
        raise ConfigError(f"expected --out to end in one of {ends}, or to be -, got {config.out}")
    if to_file and config.out.exists() and not config.overwrite:
        raise ConfigError(f"{config.out} exists: use another --out, or --overwrite to replace it")
    paths.find_student(config.run)


def _check_inspect(config: configs.InspectConfig) -> None:
    if config.verify and config.data is not None and not config.teachers:
        raise ConfigError("--verify needs --teachers, the teachers whose features to recompute")
    columns = config.text_column or config.label_column or config.image_column
    if columns and config.path is None and config.data is None:
        raise ConfigError(f"columns {' '.join(columns)} need data: put PATH before the options")
    config = place(config)
    if config.ids is not None and config.data is None:
        raise ConfigError("--ids needs --data")
    if config.labels is not None:
        if config.data is None:
            raise ConfigError("--labels needs --data")
        if not config.teachers:
            raise ConfigError("--labels needs --teachers, whose features predict the labels")
        if config.labels.suffix != ".csv":
            raise ConfigError(f"expected --labels to end in .csv, got {config.labels}")
    if config.run is not None and not (config.run / CONFIG).exists():
        raise ConfigError(f"{config.run} is not a run of aft: expected a config.yaml, found none")
