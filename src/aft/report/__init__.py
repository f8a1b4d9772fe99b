"""Pages about what was trained: one self-contained HTML file each, made from run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aft.errors import AftError, InputError
from aft.report.comparison.markdown import methods_as_markdown
from aft.report.score.text import as_text as score_as_text

if TYPE_CHECKING:
    from aft.comparison.statistics import PairedComparison
    from aft.report.cards import OpenInput
    from aft.report.comparison.changes import OpenFile

__all__ = [
    "score_as_text",
    "write_comparison_report",
    "write_methods_report",
    "write_run_report",
    "write_score_report",
]


def write_run_report(folder: Path, open_input: OpenInput | None = None) -> Path:
    """Write ``report.html`` of one finished run.

    Args:
        folder: The run folder; all but ``result.json`` may be missing.
        open_input: Gives the input of a row of the final split: a picture, a text, None where it
            is missing, or a dictionary of these by column. Without it no inputs are shown.

    Returns:
        Path of the page.

    Raises:
        DataError: If the folder holds no finished run.
        AftError: If matplotlib or jinja2 are not installed.
    """
    _require_extra()
    from aft.report.run_page import render_run
    from aft.training.run_folder import read_run

    return _write(folder, render_run(read_run(folder), open_input))


def write_comparison_report(
    folder: Path,
    *,
    title: str,
    introduction: str,
    baseline_runs: Sequence[Path],
    transfer_runs: Sequence[Path],
    comparison: PairedComparison,
    facts: Mapping[str, str],
    open_input: OpenInput | None = None,
) -> Path:
    """Write ``report.html`` of runs without and with transfer, one pair a seed.

    Args:
        folder: Where the page goes; made if it is missing.
        title: Heading of the page.
        introduction: What was compared, and how; an empty line starts a new paragraph.
        baseline_runs: Finished runs without transfer.
        transfer_runs: Finished runs with it, in the same order of seeds, with the same final
            split.
        comparison: The scores of these runs, in the same order.
        facts: What else a reader should know, such as licence, teacher or hardware.
        open_input: Gives the input of a row of the final split: a picture, a text, None where it
            is missing, or a dictionary of these by column. Without it no inputs are shown.

    Returns:
        Path of the page.

    Raises:
        InputError: If the runs are not as many as the scores.
        DataError: If a folder holds no finished run.
        AftError: If matplotlib or jinja2 are not installed.
    """
    _require_extra()
    from aft.report.comparison_page import render_comparison
    from aft.training.run_folder import read_run

    lengths = (len(baseline_runs), len(transfer_runs), len(comparison.baseline))
    if len(set(lengths)) > 1:
        raise InputError(
            f"expected one run of each method for each score, got {lengths[0]} baseline runs, "
            f"{lengths[1]} transfer runs and {lengths[2]} pairs of scores"
        )
    page = render_comparison(
        title=title,
        introduction=introduction,
        baseline=[read_run(run) for run in baseline_runs],
        transfer=[read_run(run) for run in transfer_runs],
        comparison=comparison,
        facts=facts,
        open_input=open_input,
    )
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder, page)


def write_methods_report(
    folder: Path, document: Mapping[str, Any], open_file: OpenFile | None = None
) -> Path:
    """Write ``report.md`` and ``report.html`` of a comparison of several methods.

    Args:
        folder: The folder of the comparison, with its runs.
        document: What :func:`aft.commands.compare.compare` returns.
        open_file: Gives the input of a row of the final split by its name in the column ``file``
            of ``evaluation.parquet``: a picture, a text, None where it is missing, or a dictionary
            of these by column. Without it no inputs are shown.

    Returns:
        Path of the page.

    Raises:
        AftError: If matplotlib or jinja2 are not installed; ``report.md`` is written all the same.
    """
    text = methods_as_markdown(folder, document)
    (folder / "report.md").write_text(text, encoding="utf-8", errors="replace")
    _require_extra()
    from aft.report.comparison.page import render_methods

    return _write(folder, render_methods(folder, document, open_file))


def write_score_report(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write ``score.html`` of what `aft score` found.

    Args:
        folder: Where the page goes.
        document: What ``score.json`` holds.

    Returns:
        Path of the page.

    Raises:
        AftError: If matplotlib or jinja2 are not installed.
    """
    _require_extra()
    from aft.report.score.page import render_score

    return _write(folder, render_score(document), "score.html")


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
    path.write_text(page, encoding="utf-8", errors="replace")
    return path
