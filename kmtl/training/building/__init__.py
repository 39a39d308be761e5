"""The model, its losses, and where it trains."""

__all__: list[str] = []
