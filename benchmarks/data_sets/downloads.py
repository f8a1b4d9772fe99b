"""Download package files with apt-get or npm, and verify their SHA-256 digests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from aft.demo_data.downloads import Download, cached_or_fetched, run_tool


def debian_package(wanted: Download, downloads: Path, say: Callable[[str], None]) -> Path:
    """Download a Debian package file with apt-get (without root rights), unless it is cached.

    If the package lists of the system do not contain it, new lists are downloaded into a temporary
    folder in `downloads`.

    Raises:
        DataError: If it cannot be downloaded.
    """

    def fetch(folder: Path) -> str:
        apt = shutil.which("apt-get")
        if apt is None:
            return "apt-get is not installed"
        # As root, apt-get would otherwise write as a user without access to the folder.
        options = ["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2"]
        download = ["download", f"{wanted.package}={wanted.version}"]
        if not run_tool([apt, *options, *download], folder):
            return ""
        lists, cache = folder / "lists", folder / "cache"
        (lists / "partial").mkdir(parents=True)
        (cache / "archives" / "partial").mkdir(parents=True)
        options += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
        update = ["update", "-o", "APT::Update::Error-Mode=any"]
        return run_tool([apt, *options, *update], folder) or run_tool(
            [apt, *options, *download], folder
        )

    return cached_or_fetched(wanted, downloads, fetch, "apt-get and a reachable Debian mirror", say)


def npm_package(wanted: Download, downloads: Path, say: Callable[[str], None]) -> Path:
    """Download a package of the npm registry with npm, unless it is cached.

    No code of the package is run.

    Raises:
        DataError: If it cannot be downloaded.
    """

    def fetch(folder: Path) -> str:
        npm = shutil.which("npm")
        if npm is None:
            return "npm is not installed"
        quiet = ["--loglevel=error", "--ignore-scripts", "--no-update-notifier"]
        patience = ["--fetch-retries=2", "--fetch-retry-mintimeout=1000"]
        what = [f"{wanted.package}@{wanted.version}", "--cache", str(folder / "cache")]
        return run_tool([npm, "pack", *quiet, *patience, *what], folder)

    return cached_or_fetched(wanted, downloads, fetch, "npm and a reachable registry", say)
