"""The page of labels that are probably wrong."""

from __future__ import annotations

from collections.abc import Sequence

from aft.data.loading import DataSet
from aft.data.samples import Samples
from aft.report.cards import show_input
from aft.report.rendering import render
from aft.scoring.label_errors import OUTLIER

MOST_SHOWN = 100


def render_labels(
    title: str,
    data: DataSet,
    errors: Sequence[tuple[str, str, str]],
    samples: Samples,
) -> str:
    """The page as HTML; see :func:`aft.report.write_label_report`."""
    cards = [
        {"file": file, "given": given, "said": said, "parts": show_input(samples.input, row)}
        for row, (file, given, said) in enumerate(errors[:MOST_SHOWN])
    ]
    return render(
        "labels.html.j2",
        title=title,
        source=data.source,
        kind=data.task.kind,
        outlier=OUTLIER,
        found=len(errors),
        cards=cards,
        modalities=[column.modality for column in samples.columns],
    )
