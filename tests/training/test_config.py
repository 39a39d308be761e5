"""Configurations: what is refused, and that the message names the key."""

import copy

import pytest
import yaml

from kmtl.training.configuration.config import parse_config, read_config

VALID = {
    "data": {
        "train": {
            "a": {"format": "npz", "path": "a.npz", "inputs": ["x"], "tasks": ["depth", "seg"]},
            "b": {"format": "csv", "path": "b.csv", "inputs": ["p", "q"], "tasks": ["depth"]},
        },
        "batch_size": 4,
    },
    "network": {
        "kind": "hard_sharing",
        "trunk": [{"class": "Dense", "units": 4}],
        "heads": {"depth": {"units": 1}, "seg": {"layers": [{"class": "Dense", "units": 3}]}},
    },
    "training": {"losses": {"depth": "mse", "seg": "mse"}, "epochs": 1},
}


def parse(settings=(), change=lambda raw: None):
    raw = copy.deepcopy(VALID)
    change(raw)
    return parse_config(yaml.safe_dump(raw), settings)


def test_valid():
    config = parse()
    assert config.data.train["a"].inputs == {"x": "x"}
    assert config.data.train["b"].inputs == {"features": ["p", "q"]}
    assert list(config.data.train["a"].tasks) == ["depth", "seg"]
    assert config.training.strategy == "auto"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("network.heads.seg.units=0", "`network.heads.seg.units` must be at least 1. Received: 0"),
        ("training.epochs=many", "`training.epochs` must be an integer. Received: 'many'"),
        ("training.epochs=1.5", "`training.epochs` must be an integer. Received: 1.5"),
        ("training.epoch=2", "`training.epoch` must be a known key; the nearest is epochs."),
        ("traning={}", "`traning` must be a known key; the nearest is training."),
        ("data.train.a.pth=x", "`data.train.a.pth` must be a known key; the nearest is path."),
        (
            "data.train.a.tasks={depth: {mising: 1}}",
            "`data.train.a.tasks.depth.mising` must be a known key; the nearest is missing.",
        ),
        ("data.train.a.format=nzp", "`data.train.a.format` must be one of npz, csv, parquet"),
        ("data.train.a.format=nzp", "the nearest is npz. Received: nzp"),
        ("data.train.a={path: x}", "`data.train.a.format` must be given"),
        ("data.train.a={format: npz, path: x, tasks: [t]}", "`data.train.a.inputs` must be given"),
        ("data.train.a.inputs=[]", "`data.train.a.inputs` must have at least 1 entry"),
        ("data.train={}", "`data.train` must have at least 1 entry"),
        ("data.train=a.npz", "`data.train` must be a mapping. Received: 'a.npz'"),
        ("data.train=[nofunction]", "`data.train.0` must be a mapping"),
        ("data.train.a={format: python, function: f}", "`data.train.a.function` must name a"),
        ("data.batch_size=0", "`data.batch_size` must be at least 1"),
        ("data.sampling=propotional", "`data.sampling` must be one of proportional"),
        ("data.sampling=propotional", "the nearest is proportional"),
        ("data.seed=-1", "`data.seed` must be at least 0"),
        ("network.kind=hard", "`network.kind` must be one of hard_sharing"),
        ("network.trunk=[]", "`network.trunk` must have at least 1 entry"),
        ("network.heads.depth={}", "`network.heads.depth` must have either `layers` or `units`"),
        ("network.heads.seg.activation=relu", "`network.heads.seg` must have `activation` beside"),
        ("training.losses.dpeth=mse", "the nearest is depth. Received: dpeth"),
        ("training.metrics.dpeth=mae", "`training.metrics` must name tasks of `network.heads`"),
        ("training.optimizer=3", "`training.optimizer` must be a name, or a mapping of `class`"),
        ("training.weighting={name: x}", "`training.weighting` must be a name, or a mapping"),
        ("training.jit_compile=maybe", "`training.jit_compile` must be one of auto, True, False. "
         "Received: 'maybe'"),
        ("data.train.a.format=hdf5", "one of npz, csv, parquet, tfrecord, python. Received: hdf5"),
        ("data.train.a.tasks={depth: {missing: none}}", "missing` must be a number. Received: 'no"),
        ("training.strategy=mirored", "the nearest is mirrored. Received: 'mirored'"),
        ("training.backup={folder: b, every: 0}", "`training.backup.every` must be"),
        ("training.backup={every: 3}", "`training.backup.folder` must be given"),
        ("training.early_stopping={}", "`training.early_stopping.monitor` must be measured"),
        ("training.precision=float16", "`training.precision` must be one of float32"),
        ("export=[{path: a.tfl}]", "`export.0.path` must end in .tflite. Received: 'a.tfl'"),
        ("export=[{path: a.tflite, tolerance: 0.0}]", "`export.0.tolerance` must be more than 0"),
        ("export=[{path: a.tflite}, {path: a.tflite}]", "must write each file once"),
        ("export=[{path: a.tflite, tasks: [sge]}]", "`export.0.tasks` must name tasks"),
        ("export={}", "`export` must be a list"),
        ("model=a.h5", "`model` must end in .keras"),
        ("results=a.json", "`results` must come with `data.test`"),
        ("epochs", "--set must be key=value"),
        (".a=1", "--set must be key=value"),
        ("training.epochs.a=1", "`training.epochs` is none"),
        ("network.trunk.1.units=2", "must be one of the 1 entries of a list"),
        ("training.epochs={a: [", "A configuration must be YAML. Received: --set"),
    ],
)  # fmt: skip
def test_errors_name_the_key(setting, message):
    with pytest.raises(ValueError) as error:
        parse([setting])
    assert message in str(error.value)
    assert "Received: " in str(error.value)


def test_all_faults_are_told():
    with pytest.raises(ValueError) as error:
        parse(["training.epochs=0", "data.batch_size=0"])
    assert "training.epochs" in str(error.value) and "data.batch_size" in str(error.value)


def test_settings_reach_into_lists_and_make_mappings():
    config = parse(
        ["network.trunk.0.units=7", "training.backup.folder=b", "training.optimizer.class=SGD"]
    )
    assert config.network.trunk[0]["units"] == 7
    assert config.training.backup.folder == "b"
    assert config.training.optimizer == {"class": "SGD"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping with the keys"),
        ("- a", "Received: list"),
        ("a: [", "must be YAML"),
        ("model: a.keras\nmodel: b.keras", "a key must be given once, not model"),
        ("a: !!python/object/apply:os.getcwd []", "must be YAML"),
    ],
)
def test_text_that_is_no_configuration(text, message):
    with pytest.raises(ValueError, match=message):
        parse_config(text)


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2E5", 2e5), ("1.5", 1.5)])
def test_numbers_as_people_write_them(text, value):
    config = parse([f"training.optimizer={{class: Adam, learning_rate: {text}}}"])
    assert config.training.optimizer["learning_rate"] == value


@pytest.mark.parametrize("text", [".nan", "nan", "NaN"])
def test_not_a_number_as_people_write_it(text):
    config = parse([f"data.train.a.tasks={{depth: {{missing: {text}}}, seg: {{}}}}"])
    missing = config.data.train["a"].tasks["depth"].missing
    assert missing != missing


def test_a_loss_may_be_null():
    assert parse(["training.losses.seg=null"]).training.losses == {"depth": "mse", "seg": None}


def test_a_file_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="CONFIG.yaml must be an existing file"):
        read_config(tmp_path / "none.yaml")


def test_anchors_and_merged_mappings_are_apart():
    text = yaml.safe_dump(VALID).replace("    a:\n", "    a: &a\n", 1)
    text = text.replace("    b:\n", "    c: {<<: *a, path: c.npz}\n    b:\n", 1)
    config = parse_config(text, ["data.train.c.tasks.0=normals"])
    assert config.data.train["c"].path == "c.npz"
    assert list(config.data.train["c"].tasks) == ["normals", "seg"]
    assert list(config.data.train["a"].tasks) == ["depth", "seg"]
