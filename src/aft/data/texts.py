"""Read UTF-8 texts, and describe what is wrong with those that cannot be decoded."""

from __future__ import annotations

import codecs

from aft.errors import DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MARKS = {
    _BYTE_ORDER_MARK: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
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


def other_encoding(start: bytes, encoding: str | None) -> str | None:
    """The encoding of a file that is not UTF-8, or None.

    Args:
        start: The first bytes of the file; a byte order mark in them decides.
        encoding: The value of ``--encoding``.
    """
    marked = (name for mark, name in _MARKS.items() if start.startswith(mark))
    found = next(marked, encoding)
    return None if found is None or codecs.lookup(found).name in ("utf-8", "utf-8-sig") else found


def to_utf8(content: bytes, encoding: str | None) -> bytes:
    """Convert the content of a file to UTF-8, without a byte order mark.

    Args:
        content: The content; what is UTF-8 may have invalid bytes.
        encoding: The value of ``--encoding``.

    Raises:
        DataError: If the content is not in this encoding, or is UTF-16 or UTF-32 without a mark.
    """
    found = other_encoding(content[:4], encoding)
    if found is None:
        if fault := _find_encoding_fault(content):
            raise DataError(fault)
        return content.removeprefix(_BYTE_ORDER_MARK)
    try:
        return content.decode(found).encode()
    except UnicodeError as error:
        raise DataError(f"{error}; pass another --encoding") from None


def _find_encoding_fault(start: bytes) -> str | None:
    """Return a message if a file seems to be UTF-16 or UTF-32 without a mark, else None.

    A pointer of Git LFS, which stands for another file, has a message too.
    """
    odd, even = start[1:_CHECKED_BYTES:2], start[:_CHECKED_BYTES:2]
    many_zeros = max(odd.count(0), even.count(0)) > len(start[:_CHECKED_BYTES]) // 4
    if len(start) > 3 and many_zeros:
        return (
            "the encoding is UTF-16 or UTF-32; convert the file to UTF-8, or name the encoding "
            "with --encoding, e.g. utf-16-le"
        )
    return find_pointer(start)


def find_pointer(start: bytes) -> str | None:
    """Return a message if a file that starts with these bytes is a pointer of Git LFS."""
    if start.startswith(_POINTER):
        return "only a pointer of Git LFS; run git lfs pull in its folder to get the file"
    return None


def without_mark(content: bytes) -> bytes:
    """The content of a file without a leading UTF-8 byte order mark."""
    return content.removeprefix(_BYTE_ORDER_MARK)
