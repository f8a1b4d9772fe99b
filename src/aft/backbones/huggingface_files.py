"""Model folders in the format of Hugging Face, on disk or on the hub, and what they lack."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aft.backbones.network import first_line, require
from aft.backbones.specs import Spec
from aft.backbones.weights import ModelError
from aft.hub import why_unreachable

_T = TypeVar("_T")

_NEEDS_CODE = "trust_remote_code"


@dataclass(frozen=True)
class Repository:
    """A model's folder, or its repository on the hub.

    Attributes:
        spec: Who names it, for errors.
        name: The folder's path, or the repository's name.
        folder: The folder, if it is one.
        trust_remote_code: Whether its own Python code may run.
    """

    spec: Spec
    name: str
    folder: Path | None
    trust_remote_code: bool = False

    @classmethod
    def find(cls, spec: Spec, trust_remote_code: bool = False) -> Repository:
        """What a specification names: a folder if there is one of this name.

        Raises:
            ModelError: If it can only be a folder, and there is none or one without a model.
        """
        folder = Path(spec.name).expanduser()
        if folder.is_dir():
            known = ("config.json", "modules.json")
            if not any((folder / file).is_file() for file in known):
                raise ModelError(
                    f"expected a Hugging Face model folder with a config.json for {spec}, got "
                    f"{folder}, which holds none"
                )
            return cls(spec, str(folder), folder, trust_remote_code)
        is_path = spec.name.startswith(("/", ".", "~")) or spec.name.count("/") > 1
        if is_path or "\\" in spec.name:
            raise ModelError(f"there is no folder {folder} ({spec})")
        return cls(spec, spec.name, None, trust_remote_code)

    @property
    def words(self) -> str:
        """Where pretrained weights are from."""
        return f"pretrained ({'folder' if self.folder else 'hub'} {self.name})"

    def file(self, name: str) -> Path | None:
        """A file in the folder, or in the hub's cache; nothing is downloaded."""
        if self.folder:
            path = self.folder / name
            return path if path.is_file() else None
        hub = require("huggingface_hub", "text")
        try:
            found = hub.try_to_load_from_cache(self.name, name)
        except ValueError as error:  # not a name that the hub could have
            raise ModelError(f"there is no folder {self.name} and no such model: {error}") from None
        return Path(found) if isinstance(found, str) else None

    def load(self, function: Callable[..., _T], **options: Any) -> _T:
        """Call a ``from_pretrained`` of the library: first without network, then with it.

        Raises:
            ModelError: If files are missing, the hub is out of reach, or the model comes with
                code of its own that is not trusted.
        """
        options |= {"trust_remote_code": self.trust_remote_code}
        if self.folder or self.file("config.json") or self.file("modules.json"):
            try:
                return self._call(function, local_files_only=True, **options)
            except OSError as error:
                if self.folder:
                    raise ModelError(f"cannot load {self.spec}: {first_line(error)}") from error
        if reason := why_unreachable():
            raise ModelError(self._no_hub(reason))
        try:
            return self._call(function, **options)
        except ModelError:
            raise
        except Exception as error:  # the hub's client raises many kinds
            raise ModelError(self._no_hub(first_line(error))) from error

    def licence(self) -> str | None:
        """What the model card's front matter states."""
        import yaml

        path = self.file("README.md")
        text = path.read_text(encoding="utf-8", errors="replace") if path else ""
        if not text.startswith("---\n"):
            return None
        try:
            stated = yaml.safe_load(text[4:].partition("\n---")[0])
        except yaml.YAMLError:
            return None
        licence = stated.get("license") if isinstance(stated, dict) else None
        return str(licence) if licence else None

    def _call(self, function: Callable[..., _T], **options: Any) -> _T:
        try:
            with quiet():
                return function(self.name, **options)
        except (OSError, ModelError):
            raise
        except Exception as error:  # the library raises nearly anything
            if _NEEDS_CODE in str(error):
                raise ModelError(needs_code(self.spec)) from error
            raise ModelError(
                f"cannot load {self.spec}: {type(error).__name__}: {first_line(error)}"
            ) from error

    def _no_hub(self, reason: str) -> str:
        return (
            f"cannot get {self.spec} from the hub: {reason}, and there is no folder {self.name}. "
            f"What can be done: name a folder with the model, {self.spec.source}:FOLDER; a hub "
            "cache copied from a machine with access (its folder in HF_HOME)"
        )


def needs_code(spec: Spec) -> str:
    """The refusal of a model that comes with code."""
    return (
        f"{spec} comes with Python code of its own, which could do anything on this machine; read "
        "it, then pass --trust-remote-code (trust_remote_code=True) to run it"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and reports that `transformers` prints while loading."""
    library = require("transformers.utils.logging", "text")
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.ERROR)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
