"""Files of package archives, fetched by the system's own tools and checked against a digest."""

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

# How apt-get, pip and npm begin the line that says what is wrong; npm's first ones are numbers.
_FAULT = re.compile(r"(?=e:|error:)|npm err\S* (?:notarget )?(?!code |syscall |errno )", re.I)


@dataclass(frozen=True)
class Download:
    """One file that a package archive offers.

    Attributes:
        package: The package's name.
        version: The version wanted.
        file: The file's name, as the tool that fetches it writes it.
        sha256: What the file has to be.
        megabytes: About how large it is.
    """

    package: str
    version: str
    file: str
    sha256: str
    megabytes: int


def python_package(wanted: Download, downloads: Path, say: Callable[[str], None]) -> Path:
    """A file of the Python package index, fetched with pip unless it is there already.

    pip checks the digest itself, before it looks into the file. For a wheel nothing of the package
    is run; for a source archive pip asks the package's own build script for its metadata.

    Raises:
        DataError: If it cannot be fetched.
    """

    def fetch(folder: Path) -> str:
        pip = pip_command()
        if not pip:
            return "there is no pip here"
        requirement = folder / "requirements.txt"
        requirement.write_text(
            f"{wanted.package}=={wanted.version} --hash=sha256:{wanted.sha256}\n", encoding="utf-8"
        )
        kind = "--only-binary" if wanted.file.endswith(".whl") else "--no-binary"
        quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2"]
        what = ["--no-deps", kind, wanted.package, "--requirement", str(requirement)]
        return _run([*pip, "download", *quiet, *what, "--dest", str(folder)], folder)

    return _kept_or_fetched(wanted, downloads, fetch, "pip and a package index", say)


def debian_package(wanted: Download, downloads: Path, say: Callable[[str], None]) -> Path:
    """A package file of Debian, fetched with apt-get (which needs no root) unless there already.

    Where the system's package lists do not know it, they are fetched into `downloads` instead.

    Raises:
        DataError: If it cannot be fetched.
    """

    def fetch(folder: Path) -> str:
        apt = shutil.which("apt-get")
        if apt is None:
            return "there is no apt-get here"
        # Run by root, apt-get would else write as a user who has no access to the folder.
        options = ["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2"]
        download = ["download", f"{wanted.package}={wanted.version}"]
        if not _run([apt, *options, *download], folder):
            return ""
        lists, cache = folder / "lists", folder / "cache"
        (lists / "partial").mkdir(parents=True)
        (cache / "archives" / "partial").mkdir(parents=True)
        options += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
        update = ["update", "-o", "APT::Update::Error-Mode=any"]
        return _run([apt, *options, *update], folder) or _run([apt, *options, *download], folder)

    return _kept_or_fetched(wanted, downloads, fetch, "apt-get and a Debian mirror", say)


def npm_package(wanted: Download, downloads: Path, say: Callable[[str], None]) -> Path:
    """A package of the npm registry as it is published, fetched with npm unless there already.

    Nothing of the package is run.

    Raises:
        DataError: If it cannot be fetched.
    """

    def fetch(folder: Path) -> str:
        npm = shutil.which("npm")
        if npm is None:
            return "there is no npm here"
        quiet = ["--loglevel=error", "--ignore-scripts", "--no-update-notifier"]
        patience = ["--fetch-retries=2", "--fetch-retry-mintimeout=1000"]
        what = [f"{wanted.package}@{wanted.version}", "--cache", str(folder / "cache")]
        return _run([npm, "pack", *quiet, *patience, *what], folder)

    return _kept_or_fetched(wanted, downloads, fetch, "npm and a package registry", say)


def pip_command() -> list[str]:
    """How to start pip: this interpreter's, or else the one on the path; empty without any."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    return [found] if found else []


def _kept_or_fetched(
    wanted: Download,
    downloads: Path,
    fetch: Callable[[Path], str],
    needs: str,
    say: Callable[[str], None],
) -> Path:
    """The file in `downloads`; `fetch(folder)` puts it there and returns what went wrong."""
    target = downloads.resolve() / wanted.file
    if target.is_file():
        if file_hash(target) == wanted.sha256:
            return target
        say(f"{target} is damaged or another version and is fetched again")
    say(f"fetching {wanted.package} {wanted.version} ({wanted.megabytes} MB) to {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as name:
        fault, fetched = fetch(Path(name)), Path(name, wanted.file)
        if not fault and not fetched.is_file():
            fault = f"it came under another name than {wanted.file}"
        if not fault and file_hash(fetched) != wanted.sha256:
            fault = "the file that came has another SHA-256"
        if not fault:
            fetched.replace(target)
            return target
    raise DataError(
        f"cannot fetch {wanted.package} {wanted.version}: {fault}.\nIt needs {needs} that can be "
        f"reached; or get the file elsewhere (SHA-256 {wanted.sha256}) and put it at {target}"
    )


def _run(command: list[str], folder: Path) -> str:
    """Run quietly in a folder; what it said of its failure in one line, empty on success."""
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
