"""`python -m aft.demo_data NAME FOLDER`: write a data set of real pictures or texts to a folder."""

from __future__ import annotations

import difflib
import inspect
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aft.demo_data import DATA_SETS
from aft.errors import DataError
from aft.identity import default_cache_dir

USAGE = "python -m aft.demo_data NAME FOLDER"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{USAGE}\n\nWrites a data set to a new folder. The names:\n")
        for name, fetch in DATA_SETS.items():
            print(f"  {name:<15} {(inspect.getdoc(fetch) or '').splitlines()[0]}")
        return 0
    if len(arguments) != 2:
        return _fail(f"expected {USAGE}, got {' '.join(arguments)!r}", 2)
    name, folder = arguments[0], Path(arguments[1])
    if name not in DATA_SETS:
        close = difflib.get_close_matches(name, DATA_SETS, 1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(DATA_SETS)}"
        return _fail(f"there is no data set {name!r}; {hint}", 2)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return _fail(f"{folder} is there already; name a new or empty folder", 1)
    try:
        data = DATA_SETS[name](default_cache_dir() / "demo", True)
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
