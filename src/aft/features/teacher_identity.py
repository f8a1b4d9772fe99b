"""Who a teacher is: the JSON values that change its features, their hash, their differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aft.errors import StoreError


def fingerprint(identity: Mapping[str, Any]) -> str:
    """64 hex digits that change with any value of ``identity``, not with the order of its keys."""
    return hashlib.blake2b(_canonical(identity).encode(), digest_size=32).hexdigest()


def as_json(identity: Mapping[str, Any]) -> dict[str, Any]:
    """``identity`` as it comes back from a JSON file: tuples are lists, keys are text."""
    values: dict[str, Any] = json.loads(_canonical(identity))
    return values


def teacher_name(identity: Mapping[str, Any]) -> str:
    """What people call the teacher: its spec, or the source of features made elsewhere."""
    return str(identity.get("spec") or identity.get("source") or "teacher")


def read_identity(file: Path) -> dict[str, Any]:
    """What a ``teacher.json`` says.

    Raises:
        StoreError: If it cannot be read.
    """
    try:
        identity = json.loads(file.read_bytes())
        if not isinstance(identity, dict):
            raise ValueError("expected a JSON object")
    except (OSError, ValueError) as error:
        raise StoreError(
            f"cannot read {file}: {error}. Restore it, or delete its folder and run the same "
            "command again to compute the features anew"
        ) from error
    return identity


def check_same(file: Path, identity: Mapping[str, Any]) -> None:
    """Raise StoreError, naming the fields, if a ``teacher.json`` is not ``identity``."""
    old = read_identity(file)
    if old != identity:
        raise StoreError(
            f"{file} describes another teacher than {teacher_name(identity)} "
            f"({_differences(old, identity)}). It was changed by hand or damaged: restore it, or "
            "use another features folder"
        )


def nothing_there(path: Path, slug: str, identity: Mapping[str, Any]) -> str:
    """That there is no store at ``path``, and how stores of like name beside it differ."""
    text = f"no features of {teacher_name(identity)} in {path.parent}: run `aft extract` first"
    for file in sorted(path.parent.glob(f"{slug}-*/teacher.json")):
        text += f"\n{file.parent.name} differs: {_differences(read_identity(file), identity)}"
    return text


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name}: {old.get(name, 'absent')!r} there, {new.get(name, 'absent')!r} now"
        for name in sorted({*old, *new})
        if old.get(name, ...) != new.get(name, ...)
    )


def _canonical(identity: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"expected a teacher's identity of plain JSON values: {error}") from error
