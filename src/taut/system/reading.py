"""What can be chosen of how a file is read.

It stands here, not beside the readers, since the settings of a training hold it and ``taut --help``
shows it without importing what the readers need.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """How a source is read, where there is a choice.

    Args:
        delimiter: Of a text table; by default the one that is found.
        decimal: Decimal sign of a text table; by default the one that is found.
        encoding: Of a text table, such as latin-1; by default UTF-8, or what its first bytes say.
        header: Whether the first line of a text table names its columns; by default it does, unless
            it looks like a row.
        layer: Which matrix of an .h5ad file: a layer, or raw.
        resize: Height and width that images are scaled to.
        crop: Cut the centre out of images, so that resizing keeps their proportions.
        alpha: Transparent images: drop the transparency, or composite on white.
        skip_bad: Share of unreadable images that may be skipped, such as 0.01.
        stream: Whether a Parquet file stays on disk; by default where it would fill a quarter of
            the free memory.
    """

    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool | None = None
    layer: str | None = None
    resize: tuple[int, int] | None = None
    crop: bool = False
    alpha: str | None = None
    skip_bad: float = 0.0
    stream: bool | None = None
