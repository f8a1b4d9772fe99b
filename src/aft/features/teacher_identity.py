"""Identity of a teacher: the JSON values that determine its features, and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aft.errors import StoreError
from aft.files import Damaged, reading


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of ``identity``, 64 hex digits, independent of the order of keys."""
    return hashlib.blake2b(_canonical(identity).encode(), digest_size=32).hexdigest()


def as_json(identity: Mapping[str, Any]) -> dict[str, Any]:
    """``identity`` after a JSON round trip: tuples become lists, keys become strings."""
    values: dict[str, Any] = json.loads(_canonical(identity))
    return values


def teacher_name(identity: Mapping[str, Any]) -> str:
    """Display name of the teacher: its spec, or the source of precomputed features."""
    return str(identity.get("spec") or identity.get("source") or "teacher")


def read_identity(file: Path) -> dict[str, Any]:
    """Read a ``teacher.json``.

    Raises:
        StoreError: If the file cannot be read.
    """
    cure = "Restore it, or delete its folder and run the same command again to compute the features"
    with reading(file, StoreError, cure):
        identity = json.loads(file.read_bytes())
        if not isinstance(identity, dict):
            raise Damaged(f"expected a JSON object, got {type(identity).__name__}")
    return identity


def check_same(file: Path, identity: Mapping[str, Any]) -> None:
    """Raise StoreError, listing the fields, if a ``teacher.json`` differs from ``identity``."""
    old = read_identity(file)
    if old != identity:
        raise StoreError(
            f"{file} does not match {teacher_name(identity)} ({_differences(old, identity)}). It "
            "was edited or is damaged: restore it, or use another features folder"
        )


def explain_missing(path: Path, slug: str, identity: Mapping[str, Any]) -> str:
    """Error message for a missing store; lists how stores with a similar name differ."""
    text = f"no features of {teacher_name(identity)} in {path.parent}: run `aft extract` first"
    for file in sorted(path.parent.glob(f"{slug}-*/teacher.json")):
        text += f"\n{file.parent.name} differs: {_differences(read_identity(file), identity)}"
    return text


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name}: {old.get(name, 'absent')!r} stored, {new.get(name, 'absent')!r} requested"
        for name in sorted({*old, *new})
        if old.get(name, ...) != new.get(name, ...)
    )


def _canonical(identity: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"expected plain JSON values in a teacher's identity: {error}") from error
