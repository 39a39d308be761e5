"""Networks that begin thin and branch while they are trained."""

__all__: list[str] = []
