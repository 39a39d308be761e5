"""Figures, for which matplotlib is needed only once one is drawn."""


def new_figure(width: float, height: float):
    """An empty `matplotlib.figure.Figure`, in inches, that belongs to no window.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('This needs matplotlib: pip install "kmtl[demo]"') from error
    return Figure(figsize=(width, height), layout="constrained")
