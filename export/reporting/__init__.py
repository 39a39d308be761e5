"""The page on every type of a model."""

__all__: list[str] = []
