"""The figures of the book, in one style: vector output, colour-blind-safe palettes."""

from __future__ import annotations

import matplotlib as mpl
import seaborn as sns

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito
SEQUENTIAL = "mako_r"  # perceptually uniform, comes with seaborn


def use_style() -> None:
    """The book's style for every figure that follows; vector figures in notebooks."""
    sns.set_theme(context="notebook", style="ticks", palette=PALETTE)
    mpl.rcParams |= {
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 10,
        "svg.fonttype": "none",
    }
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg")
