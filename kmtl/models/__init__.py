"""The multi-task model and networks ready for any backbone."""

from kmtl.models.branching.branching_model import BranchingModel as BranchingModel
from kmtl.models.cross_stitch_network import CrossStitchNetwork as CrossStitchNetwork
from kmtl.models.esmm import ESMM as ESMM
from kmtl.models.factorized_network import FactorizedNetwork as FactorizedNetwork
from kmtl.models.hard_sharing import HardSharing as HardSharing
from kmtl.models.joint_many_task_model import JointManyTaskModel as JointManyTaskModel
from kmtl.models.joint_stage import JointStage as JointStage
from kmtl.models.layerwise_supervision import LayerwiseSupervision as LayerwiseSupervision
from kmtl.models.model_of_task import model_of_task as model_of_task
from kmtl.models.mtan import MTAN as MTAN
from kmtl.models.multi_task_model import MultiTaskModel as MultiTaskModel
from kmtl.models.optimizer_by_part import optimizer_by_part as optimizer_by_part
from kmtl.models.sluice_network import SluiceNetwork as SluiceNetwork
from kmtl.models.soft_ordering import SoftOrdering as SoftOrdering
from kmtl.models.successive_stages import SuccessiveStages as SuccessiveStages

__all__ = [
    "ESMM",
    "MTAN",
    "BranchingModel",
    "CrossStitchNetwork",
    "FactorizedNetwork",
    "HardSharing",
    "JointManyTaskModel",
    "JointStage",
    "LayerwiseSupervision",
    "MultiTaskModel",
    "SluiceNetwork",
    "SoftOrdering",
    "SuccessiveStages",
    "model_of_task",
    "optimizer_by_part",
]
