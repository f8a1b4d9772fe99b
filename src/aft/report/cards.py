"""Inputs shown on cards: images as data URIs, texts cut to a few lines."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from aft.errors import AftError

if TYPE_CHECKING:
    from PIL.Image import Image

    Part = Image | str | None
    OpenInput = Callable[[int], Part | dict[str, Part]]

THUMBNAIL = 160
MOST_CHARACTERS = 280
MOST_LINES = 8
# Control characters except line breaks, lone surrogates, and noncharacters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_LINE_BREAKS = re.compile("\r\n|[\r\x85\u2028\u2029]")


def show_input(open_input: OpenInput, position: int) -> list[dict[str, Any]] | None:
    """Prepare one input for a card.

    Args:
        open_input: Returns the input of a row: an image, a text, None if it is missing, or a
            dictionary of these by column.
        position: Number of the row.

    Returns:
        For each part its ``name`` (None if there is only one part), and ``picture`` (a data URI)
        or ``text``; both are None if the part is missing. None if the input cannot be opened.
    """
    try:
        value = open_input(position)
        parts = value if isinstance(value, Mapping) else {None: value}
        return [{"name": name, **_show(part)} for name, part in parts.items()]
    except (AftError, OSError):
        return None


def excerpt(text: str) -> str:
    """Cut a text to at most 280 characters and 8 lines, without empty lines.

    Unprintable characters become U+FFFD. A cut is marked with an ellipsis.
    """
    start = _LINE_BREAKS.sub("\n", text.lstrip()[: 20 * MOST_CHARACTERS])
    start = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", start)
    found = [" ".join(line.split()) for line in start.split("\n")]
    lines = [line for line in found if line]
    shown = "\n".join(lines[:MOST_LINES])
    if len(shown) > MOST_CHARACTERS:
        shown = shown[:MOST_CHARACTERS]
        words = re.match(r"(.*)\s", shown, re.DOTALL)
        if words and len(words[1]) > 0.8 * MOST_CHARACTERS:  # otherwise one very long word
            shown = words[1]
    elif len(lines) <= MOST_LINES and len(text.strip()) <= 20 * MOST_CHARACTERS:
        return shown
    return shown.rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _show(part: Part) -> dict[str, str | None]:
    if part is None:
        return {"picture": None, "text": None}
    if isinstance(part, str):
        return {"picture": None, "text": excerpt(part) or None}
    return {"picture": _thumbnail(part), "text": None}


def _thumbnail(image: Image) -> str:
    image = image.convert("RGB")
    small = max(image.size) <= THUMBNAIL // 2
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    kind, options = ("png", {}) if small else ("jpeg", {"quality": 82})
    out = BytesIO()
    image.save(out, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
