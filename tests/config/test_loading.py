"""From a file and overrides to a config, or to sentences that say what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from gantk.config import Config, differences, dump_yaml, load_config, parse_config
from gantk.config.loading import apply_overrides, expand_path, read_yaml
from gantk.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
BASE: dict[str, Any] = {
    "name": "base",
    "data": {"source": "digits", "resolution": 8},
    "network": {"type": "dcgan", "width": 8},
    "objective": {"type": "gan"},
    "train": {"kimg": 1},
}


def refusal(*overrides: str, **sections: Any) -> str:
    """The sentence with which a config is refused."""
    with pytest.raises(ConfigError) as caught:
        parse_config(apply_overrides({**BASE, **sections}, overrides))
    assert caught.value.exit_code == 2
    return str(caught.value)


# Round trips


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_in_the_repository_loads(file: Path) -> None:
    config = load_config(file)
    assert config.name


def test_there_are_configs() -> None:
    assert {"tiny", "quickstart"} <= {file.stem for file in CONFIGS}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_resolved_config_reproduces_itself(file: Path, tmp_path: Path) -> None:
    config = load_config(file)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_yaml(config))
    again = load_config(resolved)
    assert again == config
    assert differences(config, again) == []
    assert dump_yaml(again) == dump_yaml(config)


def test_round_trip_keeps_everything_that_is_not_a_default(tmp_path: Path) -> None:
    config = parse_config(
        apply_overrides(
            BASE,
            [
                "optimizer.phases={g: {lr: 1e-3, betas: [0, 0.9], schedule: {type: cosine}}, d: {type: rmsprop}}",
                "extra_data={b: {source: digits, resolution: 8}}",
                "train.precision=no",
                "evaluate.metrics=[fd_classifier]",
                "tracking.wandb_entity=null",
                "objective.loss=hinge",
            ],
        )
    )
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_yaml(config))
    again = load_config(file)
    assert again == config
    assert again.optimizer.of("g").lr == 1e-3
    assert again.optimizer.of("g").betas == (0, 0.9)
    assert again.optimizer.of("g").schedule.type == "cosine"
    assert again.train.precision == "no"


def test_python_values_and_yaml_values_give_the_same_config() -> None:
    """Tuples and numbers from Python, lists and strings from YAML (which reads `1e-3` as a string)."""
    written = parse_config({**BASE, "optimizer": {"phases": {"g": {"lr": "1e-3", "betas": [0, 0.9]}}}})
    given = parse_config({**BASE, "optimizer": {"phases": {"g": {"lr": 1e-3, "betas": (0.0, 0.9)}}}})
    assert written == given
    assert differences(written, given) == []


def test_dump_has_every_default() -> None:
    values = yaml.safe_load(dump_yaml(parse_config(BASE)))
    assert values["optimizer"]["lr"] == 2e-4
    assert values["optimizer"]["betas"] == [0.5, 0.999]
    assert values["network"]["latent_dim"] == 100
    assert values["objective"]["discriminator_steps"] == 1
    assert set(values) == set(Config.model_fields)


def test_config_is_frozen() -> None:
    config = parse_config(BASE)
    with pytest.raises(ValidationError):
        config.name = "other"
    with pytest.raises(ValidationError):
        config.train.kimg = 2
    with pytest.raises(ValidationError):
        config.network.width = 2  # type: ignore[attr-defined]


def test_differences_are_named_by_path() -> None:
    old = parse_config(BASE)
    new = parse_config(apply_overrides(BASE, ["optimizer.lr=1e-3", "network.width=16", "optimizer.phases.g.lr=1"]))
    assert differences(old, new) == [
        "network.width: 8 → 16",
        "optimizer.lr: 0.0002 → 0.001",
        "optimizer.phases.g.lr: (not set) → 1.0",
    ]


# Overrides


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("optimizer.lr=2e-3", lambda c: c.optimizer.lr == 2e-3),
        ("optimizer.betas=[0.0, 0.9]", lambda c: c.optimizer.betas == (0.0, 0.9)),
        ("optimizer.clip_norm=null", lambda c: c.optimizer.clip_norm is None),
        ("optimizer.clip_norm=1", lambda c: c.optimizer.clip_norm == 1.0),
        ("train.precision=no", lambda c: c.train.precision == "no"),
        ("train.precision='no'", lambda c: c.train.precision == "no"),
        ("train.batch_size=64", lambda c: c.train.batch_size == 64),
        ("objective.loss=hinge", lambda c: c.objective.loss == "hinge"),
        ("objective={type: gan, loss: hinge}", lambda c: c.objective.loss == "hinge"),
        ("network.max_channels=32", lambda c: c.network.max_channels == 32 and c.network.width == 8),
        ("name=a.b-c_1", lambda c: c.name == "a.b-c_1"),
        ("name=off", lambda c: c.name == "off"),
        ("name=032", lambda c: c.name == "032"),
        ("name=2024-99-99", lambda c: c.name == "2024-99-99"),
        ("data.label_column=1:30", lambda c: c.data.label_column == "1:30"),
        ("data.label_column=yes", lambda c: c.data.label_column == "yes"),
        ("seed=032", lambda c: c.seed == 32),
        ("data.flip=on", lambda c: c.data.flip is True),
        ("data.use_labels=off", lambda c: c.data.use_labels is False),
        ("data.use_labels=no", lambda c: c.data.use_labels is False),
        ("data.limit=1e3", lambda c: c.data.limit == 1000),
        ("optimizer=", lambda c: c.optimizer.lr == 2e-4),
        ("optimizer.schedule=", lambda c: c.optimizer.schedule.type == "constant"),
        (
            "optimizer.phases={g: , d: {lr: 1}}",
            lambda c: c.optimizer.of("g").lr == 2e-4 and c.optimizer.of("d").lr == 1,
        ),
        ("objective.regularization=", lambda c: c.objective.regularization.r1 is None),
        ("objective.augment=", lambda c: c.objective.augment == ()),
        ("plugins=", lambda c: c.plugins == ()),
        ("extra_data=", lambda c: c.extra_data == {}),
        ("optimizer.phases.g.lr=1e-3", lambda c: c.optimizer.of("g").lr == 1e-3 and c.optimizer.of("d").lr == 2e-4),
        ("data.label_column=a=b", lambda c: c.data.label_column == "a=b"),
    ],
)
def test_override(override: str, read) -> None:  # type: ignore[no-untyped-def]
    assert read(parse_config(apply_overrides(BASE, [override])))


def test_a_key_below_an_empty_section_is_laid_over_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "name: x\ndata: {source: digits, resolution: 8}\nnetwork: {type: dcgan}\nobjective: {type: gan}\ntrain:\n"
    )
    assert load_config(file, ["train.kimg=3"]).train.kimg == 3
    with pytest.raises(ConfigError, match=r"`train\.kimg` is missing"):
        load_config(file)


@pytest.mark.parametrize("word", ["off", "1e5", "032", "1:30", "2024-01-02", "null", "0x1f", "7", "~", "", ".inf"])
def test_a_word_comes_back_as_it_was_written(word: str, tmp_path: Path) -> None:
    config = parse_config({**BASE, "data": {**BASE["data"], "label_column": word}})
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(config))
    assert load_config(file) == config
    assert load_config(file).data.label_column == word


def test_the_last_override_counts_and_the_values_given_stay() -> None:
    values = {**BASE, "train": {"kimg": 1}}
    merged = apply_overrides(values, ["train.kimg=2", "train.kimg=3"])
    assert merged["train"]["kimg"] == 3
    assert values["train"]["kimg"] == 1


@pytest.mark.parametrize("override", ["train.kimg", "=3", ".kimg=3", "train.=3", "train..kimg=2"])
def test_what_is_no_override_is_said(override: str) -> None:
    message = refusal(override)
    assert f"`{override}` is not an override" in message
    assert "`train.batch_size=64`" in message


def test_override_with_a_value_that_is_not_yaml() -> None:
    assert "the value of `name=[a` is not valid YAML: put it in quotes" in refusal("name=[a")
    assert "the value of `name=a: b: c` is not valid YAML" in refusal("name=a: b: c")


def test_override_below_a_value() -> None:
    assert "`name.sub=1`: `name` is a value and holds no further keys" in refusal("name.sub=1")


# Files


def test_missing_file_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no config file .*tini\.yaml; name one that exists"):
        load_config(tmp_path / "tini.yaml")
    (tmp_path / "tiny.yaml").write_text("name: x")
    with pytest.raises(ConfigError, match=r"did you mean .*tiny\.yaml\?"):
        load_config(tmp_path / "tini.yaml")
    with pytest.raises(ConfigError, match=r"there are: .*tiny\.yaml"):
        load_config(tmp_path / "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq")


def test_folder_as_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder, not a config file; .* `gantk train --data "):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: x\ntrain: [1, 2\ndata: y\n", r"c\.yaml, line 3 is not valid YAML"),
        ("name: x\ntrain:\n\tkimg: 1\n", r"line 3 is not valid YAML"),
        ("name: x\ntrain:\n  kimg: 1\n  kimg: 2\n", r"line 4 is not valid YAML: the key `kimg` stands here twice"),
        ("name: x\nname: y\n", r"line 2 is not valid YAML: the key `name` stands here twice"),
        ("? [a, b]\n: c\n", r"is not valid YAML|is not a key|errors"),
        ("- a\n- b\n", "holds no settings"),
        ("", "holds no settings"),
        ("just words", "holds no settings"),
    ],
)
def test_file_that_is_no_config(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_config(file)


def test_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(file)


def test_merge_keys_of_yaml_are_no_duplicates(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n")
    assert read_yaml(file)["b"] == {"x": 3, "y": 2}


# Errors, by path


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trian.kimg=3", "`trian` is not a key; did you mean `train`?"),
        ("train.batchsize=3", "`train.batchsize` is not a key; did you mean `batch_size`?"),
        ("data.resolutoin=3", "`data.resolutoin` is not a key; did you mean `resolution`?"),
        ("network.widht=3", "`network.widht` is not a key; did you mean `width`?"),
        ("objective.los=hinge", "`objective.los` is not a key; did you mean `loss`?"),
        ("objective.discriminator_step=2", "`objective.discriminator_step` is not a key; did you mean"),
        ("optimizer.lrr=1", "`optimizer.lrr` is not a key; did you mean `lr`?"),
        (
            "optimizer.schedule.warmup_kim=1",
            "`optimizer.schedule.warmup_kim` is not a key; did you mean `warmup_kimg`?",
        ),
        ("optimizer.phases.g.beta=1", "`optimizer.phases.g.beta` is not a key; did you mean `betas`?"),
        (
            "optimizer.phases.g.schedule.tipe=1",
            "`optimizer.phases.g.schedule.tipe` is not a key; did you mean `type`?",
        ),
        (
            "extra_data={b: {source: digits, resolutoin: 8, resolution: 8}}",
            "`extra_data.b.resolutoin` is not a key; did you mean `resolution`?",
        ),
        ("tracking.zzz=1", "`tracking.zzz` is not a key (there are: wandb, wandb_project"),
        ("evaluate.metrics=[fdi]", "`evaluate.metrics.0`: there is no metric `fdi`; did you mean `fid`?"),
        ("evaluate.best_by=coverag", "`evaluate.best_by`: there is no metric `coverag`; did you mean `coverage`?"),
        ("checkpoint.every=1", "`checkpoint.every` is not a key; did you mean `every_kimg`?"),
        (
            "train.precision=bf61",
            "`train.precision`: input should be 'auto', 'no', 'bf16', 'fp16' or 'float64', and is 'bf61'",
        ),
        ("train.precision=bf61", "; did you mean `bf16`?"),
        ("train.precision=yes", "`train.precision`: "),
        ("data.source=digts", "`data.source`: input should be"),
        ("data.source=digts", "did you mean `digits`?"),
        ("network.type=dcgann", "`network`: there is no network type `dcgann`; did you mean `dcgan`?"),
        ("network.type=zzz", "(there are: conditional_dcgan, dcgan"),
        ("network=dcgan", "`network`: needs `type`, one of: "),
        ("network={width: 3}", "`network`: needs `type`, one of: "),
        ("network=null", "`network`: needs `type`, one of: "),
        ("objective.type=gann", "`objective`: there is no objective type `gann`; did you mean `gan`?"),
        ("objective.loss=hing", "`objective.loss`: input should be"),
        ("objective.loss=hing", "did you mean `hinge`?"),
        ("optimizer.lr=0", "`optimizer.lr`: input should be greater than 0, and is 0"),
        ("optimizer.lr=fast", "`optimizer.lr`: input should be a valid number, and is 'fast'"),
        ("optimizer.betas=[0.5, 1.0]", "`optimizer.betas`: both must be at least 0 and below 1"),
        ("optimizer.betas=[0.5]", "`optimizer.betas"),
        ("optimizer.phases.g=3", "`optimizer.phases.g`: "),
        ("optimizer.phases.g.lr=-1", "`optimizer.phases.g.lr`: input should be greater than 0, and is -1"),
        ("optimizer.phases=3", "`optimizer.phases`: "),
        ("train.kimg=0", "`train.kimg`: input should be greater than 0"),
        ("train.batch_size=1", "`train.batch_size`: input should be greater than or equal to 2"),
        ("data.resolution=2", "`data.resolution`: "),
        ("name=a/b", "`name`: must be letters (a to z), digits, `.`, `_` and `-`, with a letter or a digit first"),
        ("name=../up", "and is '../up': `up` would do"),
        ("name='ä b'", "and is 'ä b': `b` would do"),
        ("name='//'", "and is '//'"),
        ("name=42", '`name`: input should be a valid string, and is 42; write it in quotes: "42"'),
        ("data.path=true", '`data.path`: input should be a valid string, and is True; write it in quotes: "true"'),
        ("resolution=32", "`resolution` is not a key; did you mean `data.resolution`?"),
        ("train.resolution=32", "`train.resolution` is not a key; did you mean `data.resolution`?"),
        ("kimg=3", "`kimg` is not a key; did you mean `train.kimg`?"),
        ("width=3", "`width` is not a key; did you mean `network.width`?"),
        ("train.lr=3", "`train.lr` is not a key; did you mean `optimizer.lr`?"),
        ("network.gamma=3", "did you mean `objective.regularization.r1.gamma` or `objective.regularization.r2.gamma`?"),
        (
            "every_kimg=3",
            "`every_kimg` is not a key; did you mean `checkpoint.every_kimg`, `samples.every_kimg` or `evaluate.every_kimg`?",
        ),
        ("reslution=3", "`reslution` is not a key; did you mean `data.resolution`?"),
        ("optimizer.lr=", "`optimizer.lr` has no value: give it one, or take the line out for its default, 0.0002"),
        ("train.kimg=null", "`train.kimg` has no value: give it one (input should be a valid number)"),
        ("train=", "`train.kimg` is missing: it has no default"),
        ("data=", "`data.source` is missing: it has no default"),
        ("train.batch_size=1:30", "`train.batch_size`: input should be a valid integer, and is '1:30'"),
        ("optimizer.lr=2024-01-02", "`optimizer.lr`: input should be a valid number"),
        ("train.kimg=1e300", "`train.kimg`: is 1e+300, and no number in a config can be larger than 1e+15"),
        ("seed=-1", "`seed`: "),
        ("data.path=x", "`path` is not used by `source: digits`"),
        ("data={source: folder, resolution: 8}", "`source: folder` needs `path`: the file or folder to read"),
        ("data={source: hub, resolution: 8}", "`source: hub` needs `path`: the dataset's id"),
        (
            "data={source: npz, path: x, revision: y, resolution: 8}",
            "`revision`: of `source: hub` alone; with `source: npz`",
        ),
        (
            "data={source: hub, path: x, heldout_path: y, resolution: 8}",
            "`heldout_path` does not go with `source: hub`",
        ),
        ("train={}", "`train.kimg` is missing: it has no default"),
        ("plugins=[no_such_module_anywhere]", "`plugins` names the module `no_such_module_anywhere`"),
        ("plugins=no_such_module_anywhere", "`plugins`: input should be a valid tuple"),
    ],
)
def test_error_is_named_by_its_path(override: str, sentence: str) -> None:
    assert sentence in refusal(override)


@pytest.mark.parametrize(("value", "shown"), [("0", "0"), ("2", "2"), ("{g: 0}", "{'g': 0}"), ("null", "None")])
def test_a_value_of_two_forms_is_explained_in_one_sentence(value: str, shown: str) -> None:
    assert refusal(f"collapse.learning_rate_factor={value}") == (
        "the config: `collapse.learning_rate_factor`: must be a number above 0 and at most 1, or such a number for each optimiser "
        f"that is named, as `{{g: 0.1}}`, and is {shown}"
    )


def test_all_errors_come_at_once_each_with_its_path() -> None:
    message = refusal(
        "trian.x=1",
        "network.widht=3",
        "objective.los=x",
        "optimizer.lrr=1",
        "optimizer.phases={g: {tipe: adam}, d: {lr: -1}}",
        "train.batch_size=1",
        "data.resolution=zzz",
    )
    paths = (
        "trian", "network.widht", "objective.los", "optimizer.lrr", "optimizer.phases.g.tipe", "optimizer.phases.d.lr",
        "train.batch_size", "data.resolution",
    )  # fmt: skip
    assert message.startswith(f"the config has {len(paths)} errors:\n")
    lines = message.splitlines()[1:]
    assert len(lines) == len(paths)
    for path in paths:
        assert sum(line.startswith(f"  `{path}`") for line in lines) == 1, path


def test_an_error_in_one_part_hides_none_in_another() -> None:
    without = {key: value for key, value in BASE.items() if key != "network"}
    with pytest.raises(ConfigError) as caught:
        parse_config({**without, "objective": {"type": "gan", "los": 1}, "optimizer": {"phases": 3}})
    assert "`network` is missing" in str(caught.value)
    assert "`objective.los`" in str(caught.value)
    assert "`optimizer.phases`" in str(caught.value)


def test_empty_config_names_what_it_needs() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({})
    for key in ("name", "data", "network", "objective", "train"):
        assert f"`{key}` is missing" in str(caught.value)


# Several keys together


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("data.resolution=9",), "`data.resolution: 9` is not 4 … 7 times a power of two, which is what DCGAN can make: use 8 or 10"),
        (("data.resolution=36",), "use 32 or 40"),
        (("data.resolution=5",), "use 8"),
        (("network={type: conditional_dcgan}", "data.use_labels=false"), "`data.use_labels` is false"),
        (("train.batch_size=32", "train.accumulation=5"), "does not divide by `train.accumulation: 5`"),
        (("train.sync_batchnorm=true", "train.device=cpu"), "`train.sync_batchnorm` needs GPUs"),
        (("train.precision=fp16", "train.device=cpu"), "`train.precision: fp16` needs a GPU"),
        (("extra_data={b: {source: digits, resolution: 16}}",), "`extra_data.b.resolution` differs from `data.resolution`"),
        (("optimizer.type=sgd", "optimizer.nesterov=true"), "`optimizer.nesterov` needs `optimizer.momentum` above 0"),
        (
            ("optimizer.phases.g={type: sgd, nesterov: true}",),
            "`optimizer.phases.g.nesterov` needs `optimizer.phases.g.momentum` above 0",
        ),
        *(
            (
                (f"collapse.action={action}", "train.kimg=50"),
                f"`collapse.action: {action}` acts at evaluations, and with `evaluate.every_kimg: 100` beyond `train.kimg: 50` there are "
                "none: lower `evaluate.every_kimg`, or set `collapse.action` to warn",
            )
            for action in ("stop", "rollback")
        ),
    ],
)  # fmt: skip
def test_keys_that_do_not_go_together(overrides: tuple[str, ...], sentence: str) -> None:
    assert sentence in refusal(*overrides)


def test_what_goes_together_passes() -> None:
    for overrides in (
        ("optimizer.type=sgd", "optimizer.nesterov=true", "optimizer.momentum=0.9"),
        ("network={type: conditional_dcgan}",),
        ("train.batch_size=30", "train.accumulation=5"),
        ("data.resolution=28",),
        ("collapse.action=stop", "evaluate.every_kimg=1"),
        ("collapse.learning_rate_factor=1e-1",),
        ("collapse.learning_rate_factor={g: 0.1}",),
    ):
        parse_config(apply_overrides(BASE, overrides))


def test_missing_second_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "training"))
    message = refusal("plugins=[games]", "objective.type=test_two_domains", objective={})
    assert "add `extra_data.b`, with keys as in `data`" in message


def test_grey_images_beside_coloured_ones_are_refused(tmp_path: Path) -> None:
    from gantk.training.trainer import Trainer

    for name, channels in (("grey", 1), ("rgb", 3)):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((64, 8, 8, channels), dtype=np.uint8))
    config = load_config(
        ROOT / "configs" / "tiny.yaml",
        [
            f"data={{source: npz, path: {tmp_path / 'grey.npz'}, resolution: 8}}",
            f"extra_data={{b: {{source: npz, path: {tmp_path / 'rgb.npz'}, resolution: 8}}}}",
        ],
    )
    with pytest.raises(
        DataError, match=r"extra_data\.b have 3 channels, and those of data 1.*`extra_data\.b\.channels`"
    ):
        Trainer(config)


def test_plugin_registers_its_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets_for_a_test.py").write_text(
        "from typing import Literal\n"
        "from gantk.networks import NETWORKS, LatentConfig\n"
        "from gantk.networks.dcgan import DCGAN\n"
        "class OwnConfig(LatentConfig):\n"
        "    type: Literal['own'] = 'own'\n"
        "    depth: int = 3\n"
        "@NETWORKS.register('own')\n"
        "class Own(DCGAN):\n"
        "    Config = OwnConfig\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = parse_config({**BASE, "plugins": ["own_nets_for_a_test"], "network": {"type": "own", "depth": 5}})
    assert config.network.depth == 5  # type: ignore[attr-defined]
    assert "`network.dept` is not a key; did you mean `depth`?" in refusal(network={"type": "own", "dept": 5})
    from gantk.networks import NETWORKS

    del NETWORKS._classes["own"]


def test_two_types_of_one_name_are_refused() -> None:
    from gantk.networks import NETWORKS
    from gantk.networks.dcgan import DCGAN

    NETWORKS.register("dcgan")(DCGAN)
    with pytest.raises(ValueError, match="two network types are called `dcgan`"):
        NETWORKS.register("dcgan")(type("Other", (DCGAN,), {}))


def test_settings_of_one_optimiser_lie_over_the_common_ones() -> None:
    config = parse_config(
        {
            **BASE,
            "optimizer": {
                "lr": 1e-3,
                "schedule": {"type": "linear", "warmup_kimg": 2},
                "phases": {"g": {"lr": 1e-4, "schedule": {"final": 0.5}}},
            },
        }
    )
    g, d = config.optimizer.of("g"), config.optimizer.of("d")
    assert (g.lr, d.lr) == (1e-4, 1e-3)
    assert (g.schedule.type, g.schedule.warmup_kimg, g.schedule.final) == ("linear", 2, 0.5)
    assert d.schedule.final == 0


def test_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GANTK_RUNS", str(tmp_path / "here"))
    assert parse_config(BASE).run_folder == tmp_path / "here" / "base"


def test_paths_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_FOLDER", "/data")
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_path("$SOME_FOLDER/x") == Path("/data/x")
    assert expand_path("~/x") == Path("/home/me/x")
