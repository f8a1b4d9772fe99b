"""Commands as typed functions, whose parameters are the options of a configuration class."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from inspect import Parameter, Signature, cleandoc
from pathlib import Path
from textwrap import fill
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from aft.config.commands import resolve
from aft.config.groups import Options

_WRITTEN = "__annotations__"
P = ParamSpec("P")
C = TypeVar("C", bound=Options)
C_contra = TypeVar("C_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Command(Protocol[P, C_contra, R_co]):
    """A function of a configuration object, perhaps with changes, or of options by keyword.

    Where there is an option ``run``, the required options may come first, in their order.
    """

    __name__: str

    @overload
    def __call__(self, config: C_contra | str | Path, /, *more: Any, **options: Any) -> R_co: ...
    @overload
    def __call__(self, *args: P.args, **options: P.kwargs) -> R_co: ...


def command(kind: Callable[P, C]) -> Callable[[Callable[[C], R]], Command[P, C, R]]:
    """Make a command of a function of its configuration.

    The parameters are those of the class `kind`: for type checkers through its constructor, and at
    run time, for ``help()``, in the signature and the docstring.

    Args:
        kind: The class of the options.
    """
    options = cast("type[Options]", kind)

    def decorate(function: Callable[[C], R]) -> Command[P, C, R]:
        @functools.wraps(function)
        def run(config: C | str | Path | None = None, /, *more: Any, **values: Any) -> R:
            fields = options.model_fields
            if isinstance(config, str | Path) and "run" in fields:
                required = [name for name, field in fields.items() if field.is_required()]
                config, values = None, dict(zip(required, (config, *more), strict=False)) | values
            return function(cast("C", resolve(options, cast("Options | None", config), values)))

        run.__signature__ = _signature(options, function)  # type: ignore[attr-defined]
        start, *rest = re.split(r"\n\n(?=Returns:|Raises:)", cleandoc(function.__doc__ or ""))
        run.__doc__ = "\n\n".join([start, f"Args:\n{_describe(options)}", *rest])
        return cast("Command[P, C, R]", run)

    return decorate


def _signature(kind: type[Options], function: Callable[..., Any]) -> Signature:
    first = Parameter("config", Parameter.POSITIONAL_ONLY, default=None, annotation=kind | None)
    written = {k: v for c in reversed(kind.__mro__) for k, v in vars(c).get(_WRITTEN, {}).items()}
    parameters = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.is_required() else field.default,
            annotation=written.get(name, Any),
        )
        for name, field in kind.model_fields.items()
    ]
    returned = function.__annotations__.get("return", Signature.empty)
    return Signature([first, *parameters], return_annotation=returned)


def _describe(kind: type[Options]) -> str:
    """The parameters of a docstring."""
    first = "config: The options as an object; those given by keyword replace its own."
    described = [f"{name}: {field.description}" for name, field in kind.model_fields.items()]
    return "\n".join(
        fill(" ".join(text.split()), 96, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for text in (first, *described)
    )
