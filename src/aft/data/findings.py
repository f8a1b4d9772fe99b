"""The report on problems found while a data set is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from aft.data.texts import NOT_UTF_8

OnBadInput = Literal["skip", "fail"]
SHOWN = 3


@dataclass
class DataReport:
    """Problems and counts found while a data set is read.

    Attributes:
        bad_inputs: File and fault of each input that cannot be read and was skipped.
        unlabelled: Number of rows of the data set without a label.
        unlabelled_used: Number of unlabelled inputs, used for the transfer only.
        unlabelled_left_out: Number of unlabelled rows that are not used because they are in a
            held-out split or have no input.
        unlabelled_seen: Number of unlabelled rows left out because a labelled row has the same
            content.
        unlabelled_copies: Number of duplicate unlabelled rows left out.
        unlabelled_splits: Held-out splits that are not used because no row has a label.
        unused: Columns of the source that are not an input, label or split column.
        missing: Number of rows in which a column is missing, by column; empty for a single column.
        leaks: Pairs of files with the same content in train and in a held-out split.
        conflicts: Files with the same content in train but different labels.
        duplicates: Number of duplicate rows in train (copies beyond the first).
        empty_classes: Classes of the task without rows in train.
        notes: Messages of the reader about what it read differently than written, or left out.
    """

    bad_inputs: list[tuple[str, str]] = field(default_factory=list)
    unlabelled: int = 0
    unlabelled_used: int = 0
    unlabelled_left_out: int = 0
    unlabelled_seen: int = 0
    unlabelled_copies: int = 0
    unlabelled_splits: list[str] = field(default_factory=list)
    unused: tuple[str, ...] = ()
    missing: dict[str, int] = field(default_factory=dict)
    leaks: list[tuple[str, str]] = field(default_factory=list)
    conflicts: list[tuple[str, ...]] = field(default_factory=list)
    duplicates: int = 0
    empty_classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Readable messages, each with a count and the first few files."""

        def some(items: Sequence[str], between: str = "; ") -> str:
            more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
            return between.join(items[:SHOWN]) + more

        found = list(self.notes)
        if self.bad_inputs:
            names = some([f"{file} ({fault})" for file, fault in self.bad_inputs])
            foreign = any(fault.startswith(NOT_UTF_8) for _, fault in self.bad_inputs)
            hint = "; --encoding names another encoding" if foreign else ""
            found.append(
                f"{len(self.bad_inputs)} unreadable or empty inputs skipped: {names}{hint}"
            )
        if self.unlabelled_used:
            found.append(f"{self.unlabelled_used} unlabelled rows, for the transfer only")
        if self.unlabelled_left_out:
            found.append(f"{self.unlabelled_left_out} unlabelled rows left out")
        if self.unlabelled_seen:
            found.append(
                f"{self.unlabelled_seen} unlabelled rows left out: labelled rows have the same "
                "content"
            )
        if self.unlabelled_copies:
            found.append(f"{self.unlabelled_copies} duplicate unlabelled rows left out")
        for split in self.unlabelled_splits:
            found.append(f"the {split} split has no labels and is not used")
        lacking = [f"{count} have no {name}" for name, count in self.missing.items() if count]
        if lacking:
            found.append(", ".join([lacking[0].replace(" have", " rows have", 1), *lacking[1:]]))
        if self.leaks:
            names = some([f"{a} = {b}" for a, b in self.leaks])
            found.append(
                f"{len(self.leaks)} held-out inputs are also in train, so scores on them are "
                f"optimistic: {names}"
            )
        if self.conflicts:
            names = some([some(files, " = ") for files in self.conflicts])
            found.append(f"{len(self.conflicts)} inputs in train have conflicting labels: {names}")
        if self.empty_classes:
            names = some(self.empty_classes)
            found.append(f"{len(self.empty_classes)} classes have no rows in train: {names}")
        if self.duplicates:
            found.append(f"{self.duplicates} duplicate inputs in train")
        return found
