"""`python -m aft.demo_data NAME FOLDER`: write a real data set, or a teacher, to a folder."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aft.demo_data.data_sets import DATA_SETS
from aft.demo_data.models import fetch_minilm
from aft.demo_data.prepared import DemoData
from aft.errors import DataError, did_you_mean
from aft.ids import default_cache_dir

Fetch = Callable[[Path, bool], DemoData]
MODELS: dict[str, Callable[[Path, bool], Path]] = {"minilm": fetch_minilm}
USAGE = "python -m aft.demo_data NAME FOLDER"


def main(
    argv: Sequence[str] | None = None,
    data_sets: Mapping[str, Fetch] = DATA_SETS,
    usage: str = USAGE,
) -> int:
    """Run the command and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{usage}\n\nWrite a data set to a new folder. Data sets:\n")
        for name, fetch in data_sets.items():
            print(f"  {name:<15} {(inspect.getdoc(fetch) or '').splitlines()[0]}")
        print("\nOr a teacher:\n")
        for name, model in MODELS.items():
            print(f"  {name:<15} {(inspect.getdoc(model) or '').splitlines()[0]}")
        return 0
    if len(arguments) != 2:
        return _fail(f"expected {usage}, got {' '.join(arguments)!r}", 2)
    name, folder = arguments[0], Path(arguments[1])
    known = [*data_sets, *MODELS]
    if name not in known:
        hint = did_you_mean(name, known) or f"; expected one of {', '.join(known)}"
        return _fail(f"unknown data set {name!r}{hint}", 2)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return _fail(f"{folder} exists and is not an empty folder; pass a new or empty folder", 1)
    try:
        cache = default_cache_dir() / "demo"
        if name in MODELS:
            shutil.copytree(MODELS[name](cache, True), folder, dirs_exist_ok=True)
            print(f"{name} in {folder}")
            return 0
        data = data_sets[name](cache, True)
    except DataError as error:
        return _fail(str(error), 1)
    shutil.copytree(data.folder, folder, dirs_exist_ok=True)
    print(replace(data, folder=folder))
    return 0


def _fail(message: str, code: int) -> int:
    print(f"aft.demo_data: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
