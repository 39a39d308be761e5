"""Helper tasks: learned with the others, and gone when the model is deployed.

A task is an `AuxiliaryTask`; `AuxiliaryTasks` joins several to a model, its data and `compile`.
"""

from kmtl.auxiliary.adversarial_task import AdversarialTask as AdversarialTask
from kmtl.auxiliary.auxiliary_autoencoder import AuxiliaryAutoencoder as AuxiliaryAutoencoder
from kmtl.auxiliary.auxiliary_task import AuxiliaryTask as AuxiliaryTask
from kmtl.auxiliary.auxiliary_tasks import AuxiliaryTasks as AuxiliaryTasks
from kmtl.auxiliary.choose_pivots import choose_pivots as choose_pivots
from kmtl.auxiliary.cumulative_targets import cumulative_targets as cumulative_targets
from kmtl.auxiliary.domain_data import domain_data as domain_data
from kmtl.auxiliary.focus_task import FocusTask as FocusTask
from kmtl.auxiliary.frequency_bins import FrequencyBinTask as FrequencyBinTask
from kmtl.auxiliary.future_targets import future_targets as future_targets
from kmtl.auxiliary.future_tasks import FutureTasks as FutureTasks
from kmtl.auxiliary.hint import Hint as Hint
from kmtl.auxiliary.inputs_as_outputs import InputsAsOutputs as InputsAsOutputs
from kmtl.auxiliary.language_model import AuxiliaryLanguageModel as AuxiliaryLanguageModel
from kmtl.auxiliary.name_detection import NameDetection as NameDetection
from kmtl.auxiliary.pivot_hint import PivotHint as PivotHint
from kmtl.auxiliary.quantization_smoothing import (
    QuantizationSmoothing as QuantizationSmoothing,
)
from kmtl.auxiliary.smooth_target import smooth_target as smooth_target

__all__ = [
    "AdversarialTask",
    "AuxiliaryAutoencoder",
    "AuxiliaryLanguageModel",
    "AuxiliaryTask",
    "AuxiliaryTasks",
    "FocusTask",
    "FrequencyBinTask",
    "FutureTasks",
    "Hint",
    "InputsAsOutputs",
    "NameDetection",
    "PivotHint",
    "QuantizationSmoothing",
    "choose_pivots",
    "cumulative_targets",
    "domain_data",
    "future_targets",
    "smooth_target",
]
