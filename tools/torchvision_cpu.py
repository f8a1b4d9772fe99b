"""Let torchvision be imported where its compiled operators cannot be loaded.

A torchvision wheel built for CUDA cannot load its operators beside a CPU build of torch, and then
``import torchvision`` (so ``import timm``) dies with "operator torchvision::nms does not exist".
Declaring the two schemas it looks for is enough for everything but the operators themselves
(``torchvision.ops.nms``, ``torchvision.io.decode_jpeg`` …), none of which `aft` uses.

Run as a script, this file copies itself into the environment that runs it when that environment
needs it, together with a ``.pth`` file that registers the hook at interpreter start. The hook
imports nothing until torchvision is imported. It belongs to the development environment only.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

TYPE_CHECKING = False  # as in typing, whose import would slow every interpreter start
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

HOOK = "_torchvision_cpu"
SCHEMAS = ("nms", "qnms")
_kept: list[object] = []  # a torch Library takes its schemas away with it when it is collected


class _Loader(SourceFileLoader):
    """Runs torchvision's ``__init__.py`` after making sure that its schemas exist."""

    def exec_module(self, module: ModuleType) -> None:
        declare_schemas(list(module.__path__))
        super().exec_module(module)


class _Finder:
    """Finds torchvision where it would be found anyway, with the loader above."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def register() -> None:
    """Put the finder in front of the others; called by the ``.pth`` file."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def operators_load(folders: Sequence[str]) -> bool:
    """Whether the compiled operators in torchvision's ``folders`` work with this torch."""
    from pathlib import Path

    import torch

    for library in (file for folder in folders for file in Path(folder).glob("_C*")):
        try:
            torch.ops.load_library(library)
        except (ImportError, OSError):
            return False
        return True
    return False


def declare_schemas(folders: Sequence[str]) -> None:
    """Declare the operators that torchvision refers to while it is imported, if it has none."""
    if _kept or operators_load(folders):
        return
    from torch.library import Library

    library = Library("torchvision", "DEF")
    for name in SCHEMAS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


def install() -> str:
    """Install the hook into this environment if it is needed, remove it if it is not.

    Returns:
        What was done, in words.
    """
    import shutil
    import sysconfig
    from importlib.util import find_spec
    from pathlib import Path

    site_packages = Path(sysconfig.get_path("purelib"))
    module, pth = site_packages / f"{HOOK}.py", site_packages / f"{HOOK}.pth"
    torchvision = find_spec("torchvision")
    if torchvision is None:
        return "torchvision is not installed: nothing to do"
    if operators_load(torchvision.submodule_search_locations or []):
        module.unlink(missing_ok=True)
        pth.unlink(missing_ok=True)
        return "torchvision's operators load: no hook needed"
    shutil.copyfile(__file__, module)
    pth.write_text(f"import {HOOK}; {HOOK}.register()\n", encoding="utf-8")
    return f"torchvision's operators cannot be loaded by this torch: hook installed in {pth}"


if __name__ == "__main__":
    print(install())
