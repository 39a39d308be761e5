"""The command `kmtl`: deploy, look at and run models without writing Python."""

__all__ = []
