"""How the losses or the gradients of several tasks become one update."""

import inspect
import re

import keras

from kmtl.weighting.aligned_mtl import AlignedMTL as AlignedMTL
from kmtl.weighting.base import TaskWeighting as TaskWeighting
from kmtl.weighting.cagrad import CAGrad as CAGrad
from kmtl.weighting.con_fig import ConFIG as ConFIG
from kmtl.weighting.db_mtl import DBMTL as DBMTL
from kmtl.weighting.dual_proj import DualProj as DualProj
from kmtl.weighting.dynamic_weight_average import DynamicWeightAverage as DynamicWeightAverage
from kmtl.weighting.excess_mtl import ExcessMTL as ExcessMTL
from kmtl.weighting.fair_grad import FairGrad as FairGrad
from kmtl.weighting.famo import FAMO as FAMO
from kmtl.weighting.geometric_loss import GeometricLoss as GeometricLoss
from kmtl.weighting.grad_drop import GradDrop as GradDrop
from kmtl.weighting.grad_norm import GradNorm as GradNorm
from kmtl.weighting.grad_vac import GradVac as GradVac
from kmtl.weighting.gradient import GradientWeighting as GradientWeighting
from kmtl.weighting.imtl import IMTL as IMTL
from kmtl.weighting.imtlg import IMTLG as IMTLG
from kmtl.weighting.imtll import IMTLL as IMTLL
from kmtl.weighting.jacobian import JacobianWeighting as JacobianWeighting
from kmtl.weighting.krum import Krum as Krum
from kmtl.weighting.mgda import MGDA as MGDA
from kmtl.weighting.moco import MoCo as MoCo
from kmtl.weighting.modo import MoDo as MoDo
from kmtl.weighting.nash_mtl import NashMTL as NashMTL
from kmtl.weighting.pbi import PBI as PBI
from kmtl.weighting.pcgrad import PCGrad as PCGrad
from kmtl.weighting.random_loss_weighting import RandomLossWeighting as RandomLossWeighting
from kmtl.weighting.scale_invariant import ScaleInvariant as ScaleInvariant
from kmtl.weighting.scheduled_weights import ScheduledWeights as ScheduledWeights
from kmtl.weighting.sdm_grad import SDMGrad as SDMGrad
from kmtl.weighting.smooth_tchebycheff import SmoothTchebycheff as SmoothTchebycheff
from kmtl.weighting.static_weights import StaticWeights as StaticWeights
from kmtl.weighting.tchebycheff import Tchebycheff as Tchebycheff
from kmtl.weighting.trimmed_mean import TrimmedMean as TrimmedMean
from kmtl.weighting.uncertainty import UncertaintyWeighting as UncertaintyWeighting
from kmtl.weighting.upgrad import UPGrad as UPGrad

_BASES = (TaskWeighting, GradientWeighting, JacobianWeighting)
_CLASSES = [
    value
    for value in list(globals().values())
    if inspect.isclass(value) and issubclass(value, TaskWeighting) and value not in _BASES
]
# Rules with no arguments that they could go without have a name to stand for them: "nashmtl",
# "nash_mtl", "Nash-MTL" and "NashMTL" all mean NashMTL.
_NAMED = [cls for cls in _CLASSES if cls not in (ScheduledWeights, StaticWeights)]
NAMES = {cls.__name__.lower(): cls for cls in _NAMED} | {
    "dwa": DynamicWeightAverage,
    "gls": GeometricLoss,
    "rlw": RandomLossWeighting,
    "stch": SmoothTchebycheff,
    "uncertainty": UncertaintyWeighting,
}


def get(identifier) -> TaskWeighting | None:
    """A weighting from an object, a name, a config, or None for the plain sum.

    Args:
        identifier: A `TaskWeighting`, the name of a class such as `"pcgrad"`, a serialised
            config, or None.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if identifier is None or isinstance(identifier, TaskWeighting):
        return identifier
    if inspect.isclass(identifier) and issubclass(identifier, TaskWeighting):
        raise ValueError(
            "`weighting` must be an object, not a class: "
            f"call it, {identifier.__name__}(). Received: weighting={identifier!r}"
        )
    name = re.sub("[_-]", "", identifier.lower()) if isinstance(identifier, str) else None
    if name in NAMES:
        return NAMES[name]()
    raise ValueError(
        f"`weighting` must be None, a `TaskWeighting` or one of {sorted(NAMES)}. "
        f"Received: weighting={identifier!r}"
    )


__all__ = ["get", *(cls.__name__ for cls in (*_BASES, *_CLASSES))]
