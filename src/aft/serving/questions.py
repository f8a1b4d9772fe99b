"""Questions: the inputs of one request, read from its body. No string in it names a file."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from aft.data.readers.find_columns import InputColumn
from aft.errors import AftError

JSON = "application/json"


class Refused(AftError):
    """A request that gets no prediction.

    Attributes:
        status: Status code of the answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Limits of requests; a request above one of them is refused with a sentence.

    Attributes:
        inputs: Most inputs per request.
        body_bytes: Largest body of a request.
        waiting: Most inputs that wait or are being answered.
    """

    inputs: int
    body_bytes: int
    waiting: int


class Question(NamedTuple):
    """The inputs of one request.

    Attributes:
        rows: For each input one value per column of the student: a text, the bytes of an image
            file, or None if it is missing.
        probabilities: Whether to answer with the probability of every class.
        teachers: Whether to answer with the linear model on the teachers' features, too.
    """

    rows: list[tuple[str | bytearray | None, ...]]
    probabilities: bool = False
    teachers: bool = False


def read_question(
    body: bytes, content_type: str, columns: Sequence[InputColumn], limits: Limits
) -> Question:
    """Read the body of a request: JSON, or the file of one image.

    Args:
        body: The body.
        content_type: The header of this name.
        columns: The input columns of the student.
        limits: The limits of requests.

    Raises:
        Refused: If the body is not one of these, or has inputs that the student does not take.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/") and [column.modality for column in columns] == ["image"]:
        return Question([(_image(body, "the body"),)])
    if kind != JSON:
        images = " or, for a student of images, image/png, image/jpeg and so on"
        raise Refused(415, f"expected the content type {JSON}{images}, got {kind or 'none'}")
    asked = _parse(body)
    if not isinstance(asked, dict) or "inputs" not in asked:
        raise Refused(422, 'expected a JSON object with "inputs", as in {"inputs": [...]}')
    if unknown := [name for name in asked if name not in ("inputs", *_SWITCHES)]:
        known = ", ".join(("inputs", *_SWITCHES))
        raise Refused(422, f"unknown name {unknown[0]!r:.80}; expected {known}")
    for name in _SWITCHES:
        if not isinstance(asked.get(name, False), bool):
            raise Refused(422, f"expected true or false for {name}, got {asked[name]!r:.80}")
    inputs = asked["inputs"]
    if not isinstance(inputs, list) or not inputs:
        raise Refused(422, "expected a list of at least one input for inputs")
    if len(inputs) > limits.inputs:
        raise Refused(413, f"expected at most {limits.inputs} inputs, got {len(inputs)}")
    rows = [_row(value, columns, f"input {i}") for i, value in enumerate(inputs)]
    return Question(rows, **{name: asked.get(name, False) for name in _SWITCHES})


_SWITCHES = ("probabilities", "teachers")


def _parse(body: bytes) -> Any:
    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no JSON value")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None


def _row(
    value: Any, columns: Sequence[InputColumn], where: str
) -> tuple[str | bytearray | None, ...]:
    names = [column.name for column in columns]
    if not isinstance(value, dict):
        if len(columns) > 1:
            given = type(value).__name__
            raise Refused(422, f"{where}: expected an object with {', '.join(names)}, got {given}")
        value = {names[0]: value}
    if unknown := [name for name in value if name not in names]:
        known = ", ".join(names)
        raise Refused(422, f"{where}: unknown column {unknown[0]!r:.80}; expected {known}")
    if all(value.get(name) is None for name in names):
        raise Refused(422, f"{where}: expected a value of {' or '.join(names)}, got none")
    return tuple(_value(value.get(column.name), column, where) for column in columns)


def _value(value: Any, column: InputColumn, where: str) -> str | bytearray | None:
    where = f"{where}, {column.name}"
    if value is None:
        return None
    if not isinstance(value, str):
        wanted = "text" if column.modality == "text" else "image in base64"
        raise Refused(422, f"{where}: expected a {wanted}, got {type(value).__name__}")
    try:
        value.encode()
        if column.modality == "text":
            return value
        start, comma, rest = value.partition(",")
        coded = rest if comma and start.startswith("data:image/") else value
        return _image(base64.b64decode("".join(coded.split()), validate=True), where)
    except UnicodeEncodeError:  # JSON allows half a surrogate pair, UTF-8 does not
        raise Refused(422, f"{where}: the text is not Unicode") from None
    except ValueError:
        raise Refused(
            422,
            f"{where}: expected the content of an image file in base64, plain or as a data URL; "
            "paths and addresses are not read",
        ) from None


def _image(content: bytes, where: str) -> bytearray:
    if not content:
        raise Refused(422, f"{where}: the image is empty")
    return bytearray(content)  # a type that is never read as the name of a file
