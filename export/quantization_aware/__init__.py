"""Training on the grid of the integer file."""

__all__: list[str] = []
