"""The multi-task model and networks ready for any backbone."""

from kmtl.models.cross_stitch_network import CrossStitchNetwork as CrossStitchNetwork
from kmtl.models.hard_sharing import HardSharing as HardSharing
from kmtl.models.multi_task_model import MultiTaskModel as MultiTaskModel

__all__ = ["CrossStitchNetwork", "HardSharing", "MultiTaskModel"]
