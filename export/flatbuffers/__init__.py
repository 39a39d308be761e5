"""LiteRT's file format: making it, and reading what is in it."""

__all__: list[str] = []
