"""Reading texts: UTF-8 of any length becomes a string, or a sentence says what is wrong with it."""

from __future__ import annotations

from aft.errors import DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LOOKED_AT = 1024


def read_text(content: bytes) -> str:
    """Decode the UTF-8 bytes of a text.

    Raises:
        DataError: If they are not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"cannot read the text: {find_fault(content)}") from None


def is_empty(content: bytes) -> bool:
    """Whether a text has no characters, or white space only."""
    if content and 0x20 < content[0] < 0x80:
        return False
    return not content or content.decode("utf-8", "replace").isspace()


def find_fault(content: bytes) -> str | None:
    """Say what keeps `content` from being a text in UTF-8, or None if it is one.

    Positions count bytes from 0.
    """
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte, half = content[error.start], content[error.start : error.start + 3]
        try:  # Python and JSON know surrogates, UTF-8 does not
            code = ord(half.decode("utf-8", "surrogatepass"))
        except (UnicodeDecodeError, TypeError):
            return f"not UTF-8: byte 0x{byte:02x} at {error.start}"
        if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, in Python's way of keeping it
            return f"not UTF-8: byte 0x{code & 0xFF:02x} at {error.start}"
        return f"half a surrogate pair, \\u{code:04x}, at {error.start}"
    return None


def find_encoding_fault(start: bytes) -> str | None:
    """Say whether a file that starts with these bytes is in UTF-16 or UTF-32, else None."""
    odd, even = start[1:_LOOKED_AT:2], start[:_LOOKED_AT:2]
    many_zeros = max(odd.count(0), even.count(0)) > len(start[:_LOOKED_AT]) // 4
    if start.startswith(_UTF_16_MARKS) or (len(start) > 3 and many_zeros):
        return "it is in UTF-16 or UTF-32; convert it to UTF-8"
    return None


def without_mark(content: bytes) -> bytes:
    """The content of a file without the byte order mark that some programs write first."""
    return content.removeprefix(_BYTE_ORDER_MARK)
