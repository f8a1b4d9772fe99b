"""Model specifications of teachers and students: ``source:name?option=value&option=value``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from aft.errors import ConfigError

_COLUMN = re.compile(r"([^:=?]+)=(.+)", re.DOTALL)
_COMMON = {"model", "student", "weights", "checkpoint"}  # generic folder names
_LONG_PATH = re.compile(r"(?<![\w./])(?:/[^/\s?&=|;,]+)+((?:/[^/\s?&=|;,]+){2})")


def split_column(text: str) -> tuple[str | None, str]:
    """Split ``column=source:name`` into the input column and the model specification.

    Returns:
        The column, or None if there is none, and the specification.
    """
    match = _COLUMN.fullmatch(text)
    return (match[1].strip(), match[2]) if match else (None, text)


def short_name(text: str) -> str:
    """Short display name: ``vit_small`` for ``image=timm:vit_small.in1k?size=96``."""
    source, _, name = split_column(text)[1].partition("?")[0].partition(":")
    folder, _, name = name.rpartition(":")[2].rstrip("/").rpartition("/")
    if name in _COMMON and folder:
        name = folder.rpartition("/")[2]
    return name.partition(".")[0] if source == "timm" else name


def shorten_paths(text: str) -> str:
    """Shorten every long path in a text to its last two parts: ``…/models/bert``."""
    return _LONG_PATH.sub("\N{HORIZONTAL ELLIPSIS}\\1", text)


@dataclass(frozen=True)
class Spec:
    """A parsed model specification.

    Attributes:
        source: Source of the model, e.g. ``timm``.
        name: Name of the model in this source, e.g. ``resnet18.a1_in1k`` or a path.
        options: The options after the question mark, e.g. ``{"weights": "random", "size": "96"}``.
    """

    source: str
    name: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Parse ``source:name?key=value&key=value``.

        Raises:
            ConfigError: If there is no ``source:`` or no name, or an option has no value.
        """
        head, _, query = text.partition("?")
        source, colon, name = head.partition(":")
        if not colon or not source or not name:
            raise ConfigError(
                f"expected a model as source:name, e.g. timm:resnet18.a1_in1k, got {text!r}"
            )
        options = {}
        for option in query.split("&") if query else ():
            key, equals, value = option.partition("=")
            if not (key and equals and value):
                raise ConfigError(
                    f"expected options as ?key=value&key=value after {head!r}, got {query!r}"
                )
            options[key] = value
        return cls(source, name, options)

    def without(self, *names: str) -> Spec:
        """A copy without the given options."""
        return Spec(
            self.source, self.name, {k: v for k, v in self.options.items() if k not in names}
        )

    def __str__(self) -> str:
        query = "&".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.source}:{self.name}" + (f"?{query}" if query else "")
