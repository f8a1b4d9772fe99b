"""Readers of files from outside, on files that are nearly right: a value, or an error of aft."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz

EXAMPLES = fuzz.examples()
Edit = tuple[float, int, bytes]


@pytest.mark.parametrize("name", fuzz.READERS)
def test_the_whole_file_is_read(name: str) -> None:
    assert fuzz.read(name, EXAMPLES[name]) == "read"


@pytest.mark.parametrize("name", fuzz.READERS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=4)), min_size=1, max_size=4
    )
)
def test_a_changed_file_is_read_or_refused(name: str, edits: list[Edit]) -> None:
    """Each edit replaces some bytes at a place by others."""
    content = EXAMPLES[name]
    for share, length, put in edits:
        place = int(share * len(content))
        content = content[:place] + put + content[place + length :]
    assert fuzz.read(name, content) in ("read", "refused")


@pytest.mark.parametrize("name", fuzz.READERS)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[" * 100_000, b"\xff\xfe\x00\xd8" * 9])
def test_a_file_of_something_else_is_read_or_refused(name: str, content: bytes) -> None:
    assert fuzz.read(name, content) in ("read", "refused")
