"""Packaging of kmtl. Build settings are in pyproject.toml, pinned versions in requirements.lock."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"

INSTALL_REQUIRES = [
    "tensorflow>=2.20",  # Keras backend, tf.data, and the converter that kmtl.export drives
    "keras>=3.13",  # layers, `fit` and `Model.export(format="litert")`, which 3.13 introduced
    "absl-py",  # logging and the flags of the command line
    "numpy",  # sample data, golden values, comparison of exported heads
    "ai-edge-litert",  # interpreter in which every exported file is run before it is handed over
    "ai-edge-quantizer",  # post-training quantisation of a LiteRT file by recipe
]

REPORT_REQUIRES = [
    "matplotlib",  # figures of the report
    "jinja2",  # HTML page of the report
]

DEMO_REQUIRES = [
    *REPORT_REQUIRES,  # the demo writes one of its own
    "scikit-learn",  # small real data sets inside its wheel: the demo needs no download
    "tqdm",  # progress of the demo's training runs
]

ONNX_REQUIRES = [
    "tf2onnx>=1.17",  # what Keras's ONNX exporter calls; earlier ones ask for an older protobuf
    "onnx",  # checks operations and names of the file
    "onnxruntime",  # runs the file to compare each head with the Keras model
]

TFMOT_REQUIRES = [
    "tensorflow-model-optimization>=0.8.1",  # tfmot: pruning, clustering, 8-bit training
    "tf-keras",  # Keras 2, the only one that it works on; of the same version as TensorFlow
]

TRAIN_REQUIRES = [
    "pydantic>=2",  # checks configurations and says which key is wrong
    "pyyaml",  # reads them
    "pandas",  # reads .csv files and takes their columns apart
    "pyarrow",  # reads Parquet files, for pandas
]

TEST_REQUIRES = [
    *DEMO_REQUIRES,  # tests and notebooks cover the demo
    *TRAIN_REQUIRES,  # tests of `kmtl train`
    *TFMOT_REQUIRES,  # tests of `kmtl.export.tfmot`
    "tensorboard",  # `log_dir` of callbacks; nothing else needs it
    "pytest",  # test runner
    "pytest-xdist",  # `pytest -n`: several files at once on machines with more cores
    "jax",  # second backend, on which the same tests must give the same numbers
    "ruff",  # the only linter and formatter
    "nbclient",  # runs the notebooks of colab/
    "nbformat",  # reads and writes them
    "ipykernel",  # the kernel they run in
]


setup(
    name="kmtl",
    version=runpy.run_path(str(ROOT / "kmtl" / "version.py"))["__version__"],
    description="Multi-task learning for Keras 3, from training to a verified LiteRT file.",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The kmtl authors",
    keywords="keras, tensorflow, multi-task learning, tflite, litert, quantization",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.14",
    install_requires=INSTALL_REQUIRES,
    extras_require={
        "report": REPORT_REQUIRES,
        "demo": DEMO_REQUIRES,
        "onnx": ONNX_REQUIRES,
        "tfmot": TFMOT_REQUIRES,
        "train": TRAIN_REQUIRES,
        "test": TEST_REQUIRES,
    },
    # `export/` stands beside `kmtl/` in the repository but is installed as kmtl.export only:
    # a top-level `export` would collide with a project of that name. The symlink kmtl/export
    # serves checkouts that are not installed; it is excluded here so nothing is packed twice.
    packages=[
        *find_packages(include=["kmtl", "kmtl.*"], exclude=["kmtl.export", "kmtl.export.*"]),
        "kmtl.export",
        *(f"kmtl.export.{name}" for name in find_packages("export")),
    ],
    package_dir={"kmtl.export": "export"},
    package_data={
        "kmtl": [
            "demo/*.html",
            "demo/*.j2",
            "demo/**/*.html",
            "demo/**/*.j2",
            "training/*.yaml",
        ],
        "kmtl.export.quantization": ["recipes/*.json"],
        "kmtl.export.reporting": ["*.css", "*.j2"],
    },
    entry_points={"console_scripts": ["kmtl = kmtl.cli.main:run"]},
    zip_safe=False,
)
