"""The look of kmtl's pages: a style sheet, and pictures as data URIs.

Pictures have no background and grey ink, to suit light and dark pages.
"""

import base64
import importlib.util
import io
from collections.abc import Sequence
from importlib import resources

INK = "#858c96"  # readable on white and on black
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.2,
    "svg.hashsalt": "kmtl",  # the same numbers give the same file
}


def page_style() -> str:
    """The style sheet that kmtl's pages have in common."""
    return resources.files("kmtl.export.reporting").joinpath("page.css").read_text(encoding="utf-8")


def make_figure(width: float, height: float, **kwargs):
    """A figure of that many inches and its axes, as `Figure.subplots(**kwargs)` makes them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**kwargs)


def as_uri(figure) -> str:
    """The figure as an SVG picture in a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return data_uri("image/svg+xml", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Content of that media type as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def check_packages(what: str, extra: str, packages: Sequence[str]) -> None:
    """Raises ImportError, with the command that installs them, if packages are missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'{what} needs the extra "{extra}". Install it with: pip install "kmtl[{extra}]". '
            f"Received: no {', '.join(missing)}"
        )
