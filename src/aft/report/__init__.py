"""Reports of runs, comparisons and teacher scores: self-contained HTML pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aft.errors import AftError
from aft.files import write_whole, writing
from aft.report.comparison.markdown import methods_as_markdown
from aft.report.score.text import as_text as score_as_text

if TYPE_CHECKING:
    from aft.data.loading import DataSet
    from aft.data.samples import Samples
    from aft.report.cards import OpenInput
    from aft.report.comparison.changes import OpenFile

__all__ = [
    "score_as_text",
    "write_label_report",
    "write_methods_report",
    "write_run_report",
    "write_score_report",
]


def write_run_report(folder: Path, open_input: OpenInput | None = None) -> Path:
    """Write ``report.html`` of one finished run.

    Args:
        folder: The run folder; only ``result.json`` is required.
        open_input: Returns the input of a row of the final split: an image, a text, None if it is
            missing, or a dictionary of these by column. If omitted, no inputs are shown.

    Returns:
        Path of the page.

    Raises:
        DataError: If the folder has no finished run.
        AftError: If matplotlib or jinja2 is not installed.
    """
    _require_extra()
    from aft.report.run_page import render_run
    from aft.training.run_folder import read_run

    return _write(folder, render_run(read_run(folder), open_input))


def write_methods_report(
    folder: Path, document: Mapping[str, Any], open_file: OpenFile | None = None
) -> Path:
    """Write ``report.md`` and ``report.html`` of a comparison of several methods.

    Args:
        folder: The folder of the comparison, with its runs.
        document: The result of :func:`aft.commands.compare.compare`.
        open_file: Returns the input of a row of the final split by its name in the column ``file``
            of ``evaluation.parquet``: an image, a text, None if it is missing, or a dictionary of
            these by column. If omitted, no inputs are shown.

    Returns:
        Path of the page.

    Raises:
        AftError: If matplotlib or jinja2 is not installed; ``report.md`` is still written.
    """
    text = methods_as_markdown(folder, document)
    _write(folder, text, "report.md")
    _require_extra()
    from aft.report.comparison.page import render_methods

    return _write(folder, render_methods(folder, document, open_file))


def write_score_report(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write ``score.html``, the report of `aft score`.

    Args:
        folder: Output folder.
        document: The contents of ``score.json``.

    Returns:
        Path of the page.

    Raises:
        AftError: If matplotlib or jinja2 is not installed.
    """
    _require_extra()
    from aft.report.score.page import render_score

    return _write(folder, render_score(document), "score.html")


def write_label_report(
    path: Path,
    title: str,
    data: DataSet,
    errors: Sequence[tuple[str, str, str]],
    samples: Samples,
) -> Path:
    """Write the page of `aft inspect --labels`: inputs whose label is probably wrong.

    Args:
        path: The page.
        title: Number of rows found.
        data: The data set.
        errors: For each label the name of its row, the given label and the predicted one, in words.
        samples: Their rows, in the same order.

    Returns:
        Path of the page.

    Raises:
        AftError: If matplotlib or jinja2 is not installed.
    """
    _require_extra()
    from aft.report.label_page import render_labels

    return _write(path.parent, render_labels(title, data, errors, samples), path.name)


def _require_extra() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise AftError(
            f"reports need {error.name}: pip install 'adaptive-feature-transfer[report]'"
        ) from None


def _write(folder: Path, page: str, name: str = "report.html") -> Path:
    path = folder / name
    with writing(path, AftError, "Free some space and run the same command again"):
        write_whole(path, page.encode(errors="replace"))
    return path
