"""Questions: the inputs of one request, read from its body. No string in it names a file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, FailFast, ValidationError

from aft.data.readers.find_columns import InputColumn
from aft.errors import AftError

JSON = "application/json"
_SHOWN = 300
"""Most characters of a message that quotes a request."""


class Refused(AftError):
    """A request that gets no prediction; `status` is the status code of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message[:_SHOWN])
        self.status = status


class Question(NamedTuple):
    """The inputs of one request.

    Attributes:
        rows: For each input one value per column of the student: a text, the content of an image
            file, or None if it is missing.
        probabilities: Whether to answer with the probability of every class.
    """

    rows: list[tuple[str | bytearray | None, ...]]
    probabilities: bool


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Annotated[list[str | dict[str, str | None]], FailFast()]
    probabilities: bool = False


def read_question(
    body: bytes, content_type: str, columns: Sequence[InputColumn], most_inputs: int
) -> Question:
    """Read the body of a request: JSON, or the file of one image.

    Args:
        body: The body.
        content_type: The header of this name.
        columns: The input columns of the student.
        most_inputs: Most inputs per request.

    Raises:
        Refused: If the body is not one of these, or has inputs that the student does not take.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/") and [column.modality for column in columns] == ["image"]:
        return Question([(_image(body, "the body"),)], False)
    if kind != JSON:
        images = " or, for a student of images, image/png, image/jpeg and so on"
        raise Refused(415, f"expected the content type {JSON}{images}, got {kind or 'none'}")
    try:
        asked = _Body.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"][:2]) or "the body"
        status = 400 if first["type"] == "json_invalid" else 422
        raise Refused(status, f"{place}: {first['msg']}") from None
    if not 0 < len(asked.inputs) <= most_inputs:
        status = 413 if asked.inputs else 422
        raise Refused(status, f"expected 1 to {most_inputs} inputs, got {len(asked.inputs)}")
    rows = [_row(value, columns, f"input {i}") for i, value in enumerate(asked.inputs)]
    return Question(rows, asked.probabilities)


def _row(value: str | dict[str, str | None], columns: Sequence[InputColumn], where: str) -> Any:
    names = [column.name for column in columns]
    given = {names[0]: value} if isinstance(value, str) and len(names) == 1 else value
    some = isinstance(given, dict) and any(one is not None for one in given.values())
    if not isinstance(given, dict) or not some or given.keys() - names:
        raise Refused(422, f"{where}: expected values of {', '.join(names)}, got {value!r}")
    return tuple(
        text if text is None or column.modality == "text" else _decode(text, where)
        for column in columns
        for text in [given.get(column.name)]
    )


def _decode(text: str, where: str) -> bytearray:
    """The image in base64, which may be part of a data URL."""
    start, comma, rest = text.partition(",")
    coded = rest if comma and start.startswith("data:image/") else text
    try:
        return _image(base64.b64decode("".join(coded.split()), validate=True), where)
    except ValueError:
        raise Refused(
            422,
            f"{where}: expected the content of an image file in base64 or as a data URL, not a "
            "path or an address",
        ) from None


def _image(content: bytes, where: str) -> bytearray:
    if not content:
        raise Refused(422, f"{where}: the image is empty")
    return bytearray(content)  # a type that is never read as the name of a file
