"""Network families: one file each. A family makes the networks that a game asks it for."""

from __future__ import annotations

from gantk.networks.family import NETWORKS, Family, LatentConfig

__all__ = ["NETWORKS", "Family", "LatentConfig"]
