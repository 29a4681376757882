"""Configs: what a run is. See `schema` for every key, `loading` for how a file becomes one."""

from __future__ import annotations

from gantk.config.loading import differences, dump_yaml, load_config, parse_config
from gantk.config.schema import Config

__all__ = ["Config", "differences", "dump_yaml", "load_config", "parse_config"]
