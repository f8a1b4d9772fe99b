"""Read UTF-8 texts, and describe what is wrong with those that cannot be decoded."""

from __future__ import annotations

from aft.errors import DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_CHECKED_BYTES = 1024
NOT_UTF_8 = "not UTF-8 (perhaps Latin-1)"
"""How the fault of a text with bytes of another encoding begins."""
_POINTER = b"version https://git-lfs.github.com/"


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
    """Whether a text is empty or only white space."""
    if content and 0x20 < content[0] < 0x80:
        return False
    return not content or content.decode("utf-8", "replace").isspace()


def find_fault(content: bytes) -> str | None:
    """Return why `content` is not a UTF-8 text, or None if it is one.

    Positions are byte offsets from 0.
    """
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte, half = content[error.start], content[error.start : error.start + 3]
        try:  # Python and JSON allow surrogates, UTF-8 does not
            code = ord(half.decode("utf-8", "surrogatepass"))
        except (UnicodeDecodeError, TypeError):
            return f"{NOT_UTF_8}: byte 0x{byte:02x} at {error.start}"
        if 0xDC80 <= code <= 0xDCFF:  # an invalid byte, as Python's "surrogateescape" stores it
            return f"{NOT_UTF_8}: byte 0x{code & 0xFF:02x} at {error.start}"
        return f"not UTF-8: unpaired surrogate \\u{code:04x} at {error.start}"
    return None


def find_encoding_fault(start: bytes) -> str | None:
    """Return a message if a file that starts with these bytes is UTF-16 or UTF-32, else None.

    A pointer of Git LFS, which stands for another file, has a message too.
    """
    odd, even = start[1:_CHECKED_BYTES:2], start[:_CHECKED_BYTES:2]
    many_zeros = max(odd.count(0), even.count(0)) > len(start[:_CHECKED_BYTES]) // 4
    if start.startswith(_UTF_16_MARKS) or (len(start) > 3 and many_zeros):
        return "the encoding is UTF-16 or UTF-32; convert the file to UTF-8"
    return find_pointer(start)


def find_pointer(start: bytes) -> str | None:
    """Return a message if a file that starts with these bytes is a pointer of Git LFS."""
    if start.startswith(_POINTER):
        return "only a pointer of Git LFS; run git lfs pull in its folder to get the file"
    return None


def without_mark(content: bytes) -> bytes:
    """The content of a file without a leading UTF-8 byte order mark."""
    return content.removeprefix(_BYTE_ORDER_MARK)
