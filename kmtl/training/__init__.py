"""Training from a configuration file: `kmtl train CONFIG.yaml`, on one machine or many.

Needs the extra "train"; `kmtl.training.config` reads the file, `kmtl.training.run` trains.
"""

__all__ = []
