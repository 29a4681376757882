"""Another type or source on the command line: which of the file's keys stay, and what is said of the others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from gantk.config import Config, load_config, parse_config
from gantk.config.loading import apply_overrides, build_config
from gantk.config.schema import OptimizerSettings
from gantk.config.switches import DATA_KEYS, OPTIMIZER_KEYS
from gantk.errors import ConfigError

BASE: dict[str, Any] = {
    "name": "base",
    "data": {
        "source": "hub", "path": "owner/faces", "revision": "abc", "heldout_split": "val", "label_column": "label",
        "resolution": 32, "flip": True, "limit": 100,
    },
    "network": {"type": "dcgan", "width": 8, "latent_dim": 7, "batch_norm": False},
    "objective": {"type": "gan", "loss": "hinge"},
    "optimizer": {"lr": 1e-3, "betas": [0, 0.9], "phases": {"g": {"type": "sgd", "momentum": 0.5, "lr": 2e-3}}},
    "train": {"kimg": 1},
}  # fmt: skip


def built(*overrides: str, **sections: Any) -> tuple[Config, list[str]]:
    return build_config({**BASE, **sections}, overrides)


def test_keys_of_both_types_stay_and_the_others_go_with_a_sentence() -> None:
    config, notes = built("network.type=mlp")
    network: Any = config.network
    assert (network.type, network.latent_dim, network.batch_norm) == ("mlp", 7, False)
    assert notes == ["`network.type` is `mlp` in place of `dcgan`, so the config's `network.width` is left out"]


def test_what_the_command_line_gives_stays() -> None:
    config, notes = built("network.width=16", "network.type=conditional_dcgan")
    assert (config.network.width, notes) == (16, [])  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"`network\.width` is not a key"):
        built("network.type=mlp", "network.width=16")


def test_the_same_type_and_a_whole_section_change_nothing() -> None:
    assert built("network.type=dcgan")[1] == []
    assert built("network.type=dcgan")[0].network.width == 8  # type: ignore[attr-defined]
    assert built("network={type: mlp}", "network.type=mlp")[1] == []


def test_an_unknown_type_gets_its_sentence() -> None:
    with pytest.raises(ConfigError, match=r"there is no network type `mpl`; did you mean `mlp`\?"):
        built("network.type=mpl")


def test_another_objective_from_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "game_for_a_switch.py").write_text(
        "from typing import Literal\n"
        "from gantk.config.schema import Section\n"
        "from gantk.objectives import OBJECTIVES\n"
        "from gantk.objectives.gan import GAN, GANConfig\n"
        "class OtherConfig(GANConfig):\n"
        "    type: Literal['switch_game'] = 'switch_game'\n"
        "    loss: Literal['hinge'] = 'hinge'\n"
        "@OBJECTIVES.register('switch_game')\n"
        "class Other(GAN):\n"
        "    Config = OtherConfig\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from gantk.objectives import OBJECTIVES

    try:
        config, notes = built("plugins=[game_for_a_switch]", "objective.type=switch_game")
        assert (config.objective.loss, notes) == ("hinge", [])  # type: ignore[attr-defined]
        back, notes = built("objective.type=gan", plugins=["game_for_a_switch"], objective={"type": "switch_game"})
        assert (back.objective.type, notes) == ("gan", [])  # type: ignore[attr-defined]
    finally:
        OBJECTIVES._classes.pop("switch_game", None)


def test_another_optimizer() -> None:
    config, notes = built("optimizer.type=rmsprop")
    assert config.optimizer.betas == OptimizerSettings().betas
    assert config.optimizer.lr == 1e-3
    assert notes == ["`optimizer.type` is `rmsprop` in place of `adam`, so the config's `optimizer.betas` is left out"]
    config, notes = built("optimizer.phases.g.type=adam")
    assert (config.optimizer.of("g").momentum, config.optimizer.of("g").lr) == (0, 2e-3)
    assert notes == [
        "`optimizer.phases.g.type` is `adam` in place of `sgd`, so the config's `optimizer.phases.g.momentum` is left out"
    ]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("optimizer.momentum=0.9",), "`optimizer.momentum` is not used by `type: adam`, but by sgd and rmsprop"),
        (("optimizer={type: sgd, betas: [0, 0.9]}",), "`optimizer.betas` is not used by `type: sgd`"),
        (("optimizer={phases: {g: {momentum: 0.9}}}",), "`optimizer.phases.g.momentum` is not used by `type: adam`"),
        (("optimizer={phases: {d: {type: rmsprop, betas: [0, 0]}}}",), "`optimizer.phases.d.betas` is not used by"),
    ],
)
def test_a_setting_that_the_optimizer_would_not_look_at(overrides: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(apply_overrides({**BASE, "optimizer": {}}, overrides))
    assert sentence in str(caught.value)


def test_a_common_setting_that_one_phase_uses_passes() -> None:
    common = {"momentum": 0.5, "phases": {"g": {"type": "sgd"}}}
    assert parse_config({**BASE, "optimizer": common}).optimizer.of("g").momentum == 0.5


def test_another_source() -> None:
    config, notes = built("data.source=folder", "data.path=faces")
    data = config.data
    assert (data.path, data.revision, data.heldout_split, data.label_column) == ("faces", None, None, None)
    assert (data.resolution, data.flip, data.limit) == (32, True, 100)
    assert notes == [
        "`data.source` is `folder` in place of `hub`, so the config's `data.revision`, `data.heldout_split`, `data.label_column` "
        "are left out"
    ]
    assert built("data.source=parquet", "data.path=faces.parquet")[0].data.label_column == "label"
    with pytest.raises(ConfigError, match=r"`source: folder` needs `path`"):
        built("data.source=folder")
    assert built("data.source=digits")[0].data.path is None
    assert built("data.source=mixture", "data.mixture=ring", "network={type: mlp}")[0].data.resolution == 1


def test_another_extra_source() -> None:
    extra = {"b": {"source": "npz", "path": "x.npz", "resolution": 32}}
    config, notes = built("extra_data.b.source=digits", extra_data=extra)
    assert config.extra_data["b"].path is None
    assert notes == [
        "`extra_data.b.source` is `digits` in place of `npz`, so the config's `extra_data.b.path` is left out"
    ]


def test_the_tables_name_keys_and_types_that_there_are() -> None:
    fields = Config.model_fields["data"].annotation.model_fields  # type: ignore[union-attr]
    assert set(DATA_KEYS) <= set(fields)
    assert set(OPTIMIZER_KEYS) <= set(OptimizerSettings.model_fields)


def test_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(BASE))
    with caplog.at_level(logging.WARNING):
        load_config(file, ["network.type=mlp"])
    assert [record.getMessage() for record in caplog.records] == built("network.type=mlp")[1]
    caplog.clear()
    monkeypatch.setenv("RANK", "1")
    load_config(file, ["network.type=mlp"])
    assert caplog.records == []
