from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gantk.config.schema import Section, TrackingConfig


class SmallConfig(Section):
    """What the tracker reads of a config, without a network or a game."""

    name: str = "run42"
    seed: int = 3
    tracking: TrackingConfig


@pytest.fixture
def make_config() -> Callable[..., Any]:
    return lambda **tracking: SmallConfig(tracking=TrackingConfig(**tracking))


@pytest.fixture(autouse=True)
def _no_key(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No netrc or settings file of whoever runs the tests is seen."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_IDENTITY_TOKEN_FILE", raising=False)


@pytest.fixture
def messages() -> Iterator[list[tuple[int, str]]]:
    """What `gantk` logs: (level, message)."""
    kept: list[tuple[int, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append((record.levelno, record.getMessage()))

    logger, handler = logging.getLogger("gantk"), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield kept
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def warnings_of(messages: list[tuple[int, str]]) -> Callable[[], list[str]]:
    return lambda: [text for level, text in messages if level >= logging.WARNING]


REPORT = {
    "metrics": {
        "fid": {"value": 12.5, "standard_error": None, "extrapolated": 11.0, "floor": 2.25, "n_fake": 500},
        "is": {"value": 3.5, "std": 0.125},
    },
    "collapse": {"verdict": "collapsed", "reasons": ["class 7 is missing"], "tests": [], "missing": []},
    "memorisation": {"verdict": "ok"},
    "protocol": {"n_fake": 500, "seed": 0},
}


@pytest.fixture
def report() -> dict[str, Any]:
    return REPORT
