"""Hugging Face model repositories: local folders, or repositories on the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aft.backbones.checks import explain, find_folder, first_line
from aft.backbones.network import require
from aft.backbones.specs import Spec
from aft.backbones.tokenization import check_tokenizer_size
from aft.errors import ModelError
from aft.hub import why_unreachable

_T = TypeVar("_T")

_NEEDS_CODE = "trust_remote_code"


@dataclass(frozen=True)
class Repository:
    """A model's folder, or its repository on the hub.

    Attributes:
        spec: The specification that names it, for error messages.
        name: The folder's path, or the repository's name.
        folder: The local folder; None for a repository on the hub.
        trust_remote_code: Whether to run the repository's Python code.
    """

    spec: Spec
    name: str
    folder: Path | None
    trust_remote_code: bool = False

    @classmethod
    def find(cls, spec: Spec, trust_remote_code: bool = False) -> Repository:
        """The repository of a specification: a local folder if it exists, otherwise on the hub.

        Raises:
            ModelError: If the name is a path to a missing folder, or a folder without a model.
        """
        folder = find_folder(spec)
        return cls(spec, str(folder or spec.name), folder, trust_remote_code)

    @property
    def origin(self) -> str:
        """Where the pretrained weights come from."""
        return f"pretrained ({'folder' if self.folder else 'hub'} {self.name})"

    def file(self, name: str) -> Path | None:
        """Path of a file in the folder or in the hub's cache; never downloads."""
        if self.folder:
            path = self.folder / name
            return path if path.is_file() else None
        hub = require("huggingface_hub", "text")
        try:
            cached = hub.try_to_load_from_cache(self.name, name)
        except ValueError as error:  # not a valid repository name
            raise ModelError(
                f"expected a model folder or a repository on the hub, got {self.name}: {error}"
            ) from None
        return Path(cached) if isinstance(cached, str) else None

    def load(self, function: Callable[..., _T], **options: Any) -> _T:
        """Call a ``from_pretrained`` function, with cached files first, then with the hub.

        Raises:
            ModelError: If files are missing, the hub cannot be reached, or the model needs
                ``trust_remote_code``.
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
        except Exception as error:  # the hub client raises many exception types
            raise ModelError(self._no_hub(first_line(error))) from error

    def licence(self) -> str | None:
        """The license in the front matter of the model card, if any."""
        import yaml

        path = self.file("README.md")
        text = path.read_text(encoding="utf-8", errors="replace") if path else ""
        if not text.startswith("---\n"):
            return None
        try:
            stated = yaml.safe_load(text[4:].partition("\n---")[0])
        except Exception:  # what others wrote, however deep
            return None
        licence = stated.get("license") if isinstance(stated, dict) else None
        names = licence if isinstance(licence, list) else [licence]
        # Nested values are left out: with aliases they may be endless.
        return str(licence) if licence and all(isinstance(one, str) for one in names) else None

    def check_tokenizer(self) -> None:
        """Raise ``ModelError`` if a file of the tokenizer is too large to be read."""
        for name in ("tokenizer.json", "vocab.txt", "vocab.json"):
            if path := self.file(name):
                check_tokenizer_size(path.stat().st_size, path)

    def _call(self, function: Callable[..., _T], **options: Any) -> _T:
        try:
            with quiet():
                return function(self.name, **options)
        except (OSError, ModelError, KeyboardInterrupt):
            raise
        except BaseException as error:  # anything, even the panic of a program in Rust
            if _NEEDS_CODE in str(error):
                raise ModelError(needs_code(self.spec)) from error
            raise ModelError(f"cannot load {self.spec}: {explain(error)}") from error

    def _no_hub(self, reason: str) -> str:
        return (
            f"cannot download {self.spec} from the hub: {reason}; there is no local folder "
            f"{self.name} either. Options: use a local model folder ({self.spec.source}:FOLDER); "
            "or copy the hub cache from a machine with access and set HF_HOME to it"
        )


def needs_code(spec: Spec) -> str:
    """Error message for a model that needs ``trust_remote_code``."""
    return (
        f"{spec} contains custom Python code, which can do anything on this machine; review it, "
        "then pass --trust-remote-code (trust_remote_code=True) to run it"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and reports of `transformers`."""
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
