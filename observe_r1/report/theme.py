"""How our figures look on a light and on a dark background."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import style


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of one background. Colours of data suit any colour vision (Okabe and Ito's hues, viridis)."""

    paper: str
    ink: str
    faint: str
    """Grids and axes."""
    muted: str
    """Data to compare other data with."""
    first: str
    second: str
    right: str
    wrong: str
    levels: tuple[float, float]
    """The positions in viridis of the easiest and the hardest level."""


LIGHT = Theme(
    "#ffffff",
    "#1f2328",
    "#d5dae0",
    "#b8bfc8",
    "#0072b2",
    "#d55e00",
    right="#1b7f3b",
    wrong="#b3261e",
    levels=(0.92, 0.05),
)
DARK = Theme(
    "#161b22",
    "#e6edf3",
    "#3d444d",
    "#6e7681",
    "#56b4e9",
    "#e69f00",
    right="#56d364",
    wrong="#ff7b72",
    levels=(0.95, 0.2),
)


@contextmanager
def styled(theme: Theme) -> Iterator[None]:
    """Draw in our style during the block, whatever the user's own matplotlib settings are."""
    colors = {
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.paper),
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), theme.ink),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), theme.faint),
    }
    shapes = {
        "font.size": 10,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 12,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 2,
        "lines.markersize": 6,
    }
    with style.context("default"), matplotlib.rc_context(colors | shapes):
        yield


def on_both_papers(image: Path) -> Iterator[tuple[Path, Theme]]:
    """Yield each file to draw into and its theme, with the style set: `image`, and `…_dark` beside it."""
    for path, theme in ((image, LIGHT), (image.with_stem(f"{image.stem}_dark"), DARK)):
        with styled(theme):
            yield path, theme
