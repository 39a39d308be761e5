"""The settings that `benchmarks.tox21_search` chose on Tox21's validation molecules."""

from benchmarks.tox21_networks import Setting

SETTINGS = {
    "random": {
        "separate": Setting((32,), l2=1e-3),
        "shared": Setting((256,), l2=1e-3),
        "pyramid": Setting((2000, 100), l2=1e-3, dropout=0.25, rate=1e-3),
    },
    "scaffold": {
        "separate": Setting((32,), l2=2e-3),
        "shared": Setting((256,), l2=2e-3),
        "pyramid": Setting((2000, 100), l2=2e-3, dropout=0.25, rate=1e-3),
    },
}
