"""Check what an error message names, without quoting its sentences."""

from __future__ import annotations


def says(error: BaseException, *values: object) -> bool:
    """Whether the message contains every value: an option, a path, a number, an allowed value."""
    message = str(error)
    return all(str(value) in message for value in values)
