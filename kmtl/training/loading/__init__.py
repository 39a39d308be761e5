"""From sources to what `fit` and `evaluate` are given."""

__all__: list[str] = []
