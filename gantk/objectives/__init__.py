"""Games: one file each. A game says who plays, in which phases, for which loss; the trainer never learns its name."""

from __future__ import annotations

from gantk.objectives.base import OBJECTIVES, Batch, Images, Objective, Phase, Terms

__all__ = ["OBJECTIVES", "Batch", "Images", "Objective", "Phase", "Terms"]
