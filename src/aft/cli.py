"""The command line: `aft COMMAND --option value`.

Exit codes: 0 success, 1 error (with a short message), 2 invalid command line, 130 interrupted with
Ctrl-C.
"""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aft.config import commands as configs
from aft.config.groups import Options
from aft.config.parsing import UsageError, parse_flags
from aft.errors import AftError, ConfigError, did_you_mean
from aft.files import strict_json
from aft.version import __version__


@dataclass(frozen=True)
class Command:
    """A command: its options and the functions that print its result."""

    options: type[Options]
    show: Callable[[Any], str]
    as_json: Callable[[Any], Any] = lambda result: result


def _show_pairs(result: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    width = max(len(name) for name in result)
    return "\n".join(f"{name:<{width}}  {text(value)}" for name, value in result.items())


def _show_predictions(result: dict[str, Any]) -> str:
    lines = [f"{result['rows']} rows  ->  {result['out']}"]
    skipped = [f"skipped {file}: {fault}" for file, fault in result["skipped"]]
    lines += skipped[:20]
    lines += [f"{len(skipped) - 20} more were skipped; --json lists all"] * (len(skipped) > 20)
    lines += [f"no {name} in {count} of them" for name, count in result["missing"].items()]
    return "\n".join(lines)


def _show_markdown(result: dict[str, Any]) -> str:
    return Path(result["markdown"]).read_text("utf-8")


COMMANDS = {
    "train": Command(
        configs.TrainConfig,
        lambda result: _show_pairs({"split": result.split, **result.metrics, "run": result.out}),
        lambda result: {"out": str(result.out), **result.summary},
    ),
    "compare": Command(configs.CompareConfig, _show_markdown),
    "score": Command(
        configs.ScoreConfig, lambda result: str(result.text), lambda result: result.to_dict()
    ),
    "extract": Command(configs.ExtractConfig, lambda found: "\n".join(map(_show_pairs, found))),
    "evaluate": Command(configs.EvaluateConfig, _show_pairs),
    "predict": Command(configs.PredictConfig, _show_predictions),
    "export": Command(configs.ExportConfig, lambda found: f"{found['table']}\n\n{found['out']}"),
    "push": Command(configs.PushConfig, _show_pairs),
    "serve": Command(configs.ServeConfig, _show_pairs),
    "inspect": Command(configs.InspectConfig, lambda found: "\n".join(found["lines"])),
    "demo": Command(configs.DemoConfig, _show_markdown),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files and classes may be any characters
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"aft {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"; expected one of {', '.join(COMMANDS)}"
        return _fail("aft", f"unknown command {name!r}{hint}", 2)
    try:
        return _run(name, rest)
    except UsageError as error:
        return _fail(f"aft {name}", f"{str(error).rstrip('.')} (see aft {name} --help)", 2)
    except AftError as error:
        return _fail(f"aft {name}", str(error), 1)
    except KeyboardInterrupt as stop:
        message = str(stop) or "interrupted; run the same command again to resume"
        return _fail(f"aft {name}", message, 130)
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            place = f" ({error.filename})" if error.filename else ""
            return _fail(f"aft {name}", f"the disk is full{place}; free some space and retry", 1)
        if error.filename is None:
            raise
        return _fail(f"aft {name}", f"cannot use {error.filename}: {error.strerror}", 1)


def _run(name: str, arguments: list[str]) -> int:
    command = COMMANDS[name]
    flags = parse_flags(name, command.options, arguments)
    file, as_json = flags.pop("config", None), flags.pop("json", False)
    values = configs.read_config_file(Path(file), command.options) if file else {}
    configs.check_code(f"--config {file}", values, flags)
    config = _resolve(command.options, flags, values)
    importlib.import_module("aft.commands.checks").check(config)  # before torch is imported
    result = getattr(importlib.import_module(f"aft.commands.{name}"), name)(config)
    if os.environ.get("RANK", "0") != "0":  # with torchrun, only rank 0 prints
        return 0
    to_stdout = isinstance(config, configs.PredictConfig) and str(config.out) == "-"
    text = json.dumps(strict_json(command.as_json(result)), default=str) if as_json else None
    print(command.show(result) if text is None else text, file=sys.stderr if to_stdout else None)
    return 0


def _resolve(kind: type[Options], flags: dict[str, Any], values: dict[str, Any]) -> Options:
    """Merge options: flags override the configuration file, which overrides the defaults."""
    required = [field for field, info in kind.model_fields.items() if info.is_required()]
    missing = [f"--{name.replace('_', '-')}" for name in required if name not in flags | values]
    stand_ins = {name: "-" for name in required if name not in values}
    configs.resolve(kind, None, {**stand_ins, **values})  # errors in the file itself
    if missing:
        raise UsageError(f"missing {' and '.join(missing)}")
    try:
        return configs.resolve(kind, None, {**values, **flags})
    except ConfigError as error:
        raise UsageError(str(error)) from None


def _overview() -> str:
    lines = [
        "usage: aft COMMAND [options]",
        "",
        "Train small models with the knowledge of large frozen models.",
        "",
    ]
    for name, command in COMMANDS.items():
        summary = (command.options.__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:<10}{summary}")
    lines += [
        "",
        "Start with `aft demo`, or with your own images or texts:",
        "  aft train --data photos/ --student torchvision:resnet18 "
        "--teachers timm:tf_efficientnet_lite0",
        "  aft train --data reviews.csv --student small:ngrams "
        "--teachers st:sentence-transformers/all-MiniLM-L6-v2",
        "Options of a command: aft train --help",
    ]
    return "\n".join(lines)


def _fail(who: str, message: str, code: int) -> int:
    print(f"{who}: {message}", file=sys.stderr)
    return code
