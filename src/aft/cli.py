"""The command line: `aft VERB --option value`.

Exit codes: 0 done, 1 something is wrong (said in a line or two), 2 the command line itself is
wrong, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any

from aft.config import commands as configs
from aft.config.groups import Options
from aft.errors import AftError


@dataclass(frozen=True)
class Verb:
    """A verb: its options, the module with the function of the same name, how to print results."""

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
    lines += [f"skipped {file}: {fault}" for file, fault in result["skipped"]]
    lines += [f"no {name} in {count} of them" for name, count in result["missing"].items()]
    return "\n".join(lines)


VERBS = {
    "extract": Verb(configs.ExtractConfig, lambda found: "\n".join(map(_show_pairs, found))),
    "score": Verb(
        configs.ScoreConfig, lambda result: str(result.text), lambda result: result.to_dict()
    ),
    "train": Verb(
        configs.TrainConfig,
        lambda result: _show_pairs({"split": result.split, **result.metrics, "run": result.out}),
        lambda result: {"out": str(result.out), **result.summary},
    ),
    "compare": Verb(
        configs.CompareConfig, lambda found: Path(found["markdown"]).read_text("utf-8")
    ),
    "evaluate": Verb(configs.EvaluateConfig, _show_pairs),
    "predict": Verb(configs.PredictConfig, _show_predictions),
    "inspect": Verb(configs.InspectConfig, lambda found: "\n".join(found["lines"])),
    "demo": Verb(configs.DemoConfig, lambda found: Path(found["markdown"]).read_text("utf-8")),
}


class UsageError(Exception):
    """The command line itself is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from aft.version import __version__

        print(f"aft {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in VERBS:
        close = difflib.get_close_matches(name, VERBS, 1)
        hint = f"did you mean aft {close[0]}?" if close else f"known are {', '.join(VERBS)}"
        return _fail("aft", f"unknown verb {name!r}; {hint}", 2)
    try:
        return _run(name, rest)
    except UsageError as error:
        return _fail(f"aft {name}", f"{str(error).rstrip('.')} (see aft {name} --help)", 2)
    except AftError as error:
        return _fail(f"aft {name}", str(error), 1)
    except KeyboardInterrupt as stop:
        return _fail(f"aft {name}", str(stop) or "stopped; the same command goes on", 130)
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f" ({error.filename})" if error.filename else ""
            return _fail(f"aft {name}", f"the disk is full{place}; make room and run again", 1)
        if isinstance(error, PermissionError):
            return _fail(f"aft {name}", f"no permission for {error.filename}", 1)
        raise


def _run(name: str, arguments: list[str]) -> int:
    verb = VERBS[name]
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--json"]
    file, arguments = _take_option(arguments, "--config")
    values = configs.read_config_file(Path(file), verb.options) if file else {}
    config = _parse(name, verb.options, arguments, values)
    result = getattr(importlib.import_module(f"aft.commands.{name}"), name)(config)
    if os.environ.get("RANK", "0") != "0":  # under torchrun one process speaks for all
        return 0
    if as_json:
        print(json.dumps(verb.as_json(result), ensure_ascii=False, default=str))
    else:
        print(verb.show(result))
    return 0


def _parse(name: str, kind: type[Options], arguments: list[str], values: dict[str, Any]) -> Options:
    """Flags over the values of a configuration file over the defaults."""
    import tyro
    from pydantic import ValidationError

    required = [field for field, info in kind.model_fields.items() if info.is_required()]
    stand_ins = {field: "-" for field in required if field not in values}
    checked = configs.resolve(kind, None, {**stand_ins, **values})
    default = kind.model_construct(**{**dict(checked), **dict.fromkeys(stand_ins, tyro.MISSING)})
    complaint = io.StringIO()
    wants_help = any(argument in ("-h", "--help") for argument in arguments)
    try:
        with contextlib.redirect_stderr(complaint) if not wants_help else contextlib.nullcontext():
            config, unknown = tyro.cli(
                kind,
                prog=f"aft {name}",
                description=_description(kind),
                args=arguments,
                default=default,
                return_unknown_args=True,
            )
    except ValidationError as error:
        raise UsageError(configs.explain(error)) from None
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(complaint.getvalue(), kind)) from None
    if unknown:
        raise UsageError(_explain_unknown(unknown, kind))
    return config


def _take_option(arguments: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of ``--option value`` or ``--option=value``, and the other arguments."""
    for i, argument in enumerate(arguments):
        if argument == option:
            if i + 1 == len(arguments) or arguments[i + 1].startswith("--"):
                raise UsageError(f"{option} needs a file")
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2], arguments[:i] + arguments[i + 1 :]
    return None, arguments


def _explain_unknown(unknown: list[str], kind: type[Options]) -> str:
    flags = [f"--{field.replace('_', '-')}" for field in kind.model_fields]
    first = unknown[0].partition("=")[0]
    if not first.startswith("-"):
        return f"unexpected argument {first!r}"
    close = difflib.get_close_matches(first, flags, 1)
    return f"unknown flag {first}" + (f"; did you mean {close[0]}?" if close else "")


def _one_line(box: str, kind: type[Options]) -> str:
    """The sentence in a framed complaint of the parser, less its title and explanations."""
    lines = [line.strip("│| ") for line in box.splitlines()[1:]]
    blocks = [
        [line for line in block if line]
        for is_rule, block in itertools.groupby(lines, lambda line: set(line) <= set("─-╰╯"))
        if not is_rule
    ]
    text = " ".join(blocks[0]).rstrip(".") if blocks else box.strip()
    for block in blocks:
        if block[0].startswith("Unrecognized"):
            return _explain_unknown(block[1:], kind)
    if text.startswith("Missing from"):
        flags = [line.split()[0] for line in blocks[0] if line.startswith("--")]
        return f"missing {' and '.join(dict.fromkeys(flags))}"
    if found := re.search(
        r"validation errors? for \w+ (\w+)(?:\.\S+)? (.*?) \[.*input_value=(.*?),", text
    ):
        name, problem, value = found.groups()
        flag, value = f"--{name.replace('_', '-')}", value.lstrip("([")
        return f"{flag}: {problem[0].lower()}{problem[1:]}, got {value}"
    if found := re.search(r"parsing (--\S+): no type matching (\S+) .*? from \[(.*?)\]", text):
        name, expected, value = found.groups()
        return f"{name}: expected {expected.removeprefix('{None}|')}, got {value}"
    return text


def _description(kind: type[Options]) -> str:
    return (
        cleandoc(kind.__doc__ or "")
        + "\n\nEvery option can also stand in a YAML file given with --config FILE; flags override "
        "it. --json prints the result as JSON."
    )


def _overview() -> str:
    lines = [
        "usage: aft VERB [options]",
        "",
        "Get what large frozen models know about your data into a small model.",
        "",
    ]
    for name, verb in VERBS.items():
        summary = (verb.options.__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:<10}{summary}")
    lines += [
        "",
        "Start with `aft demo`, or on your own pictures or texts:",
        "  aft train --data pictures/ --student torchvision:resnet18 "
        "--teachers timm:tf_efficientnet_lite0",
        "  aft train --data reviews.csv --student small:static "
        "--teachers st:sentence-transformers/all-MiniLM-L6-v2",
        "Each verb explains its options: aft train --help",
    ]
    return "\n".join(lines)


def _fail(who: str, message: str, code: int) -> int:
    print(f"{who}: {message}", file=sys.stderr)
    return code
