"""What the discriminator thinks of images that it has learnt from, and of others: a gap between them says that it overfits.

It judges nothing about the samples, and is no part of the verdict: a discriminator that knows its images by heart gives the
generator worse and worse advice long before samples show it (Karras et al. 2020, "Training generative adversarial networks with
limited data").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from gantk.collectives import alone
from gantk.data.store import Store
from gantk.draws import torch_seeded
from gantk.training.batches import normalised

if TYPE_CHECKING:
    from gantk.training.trainer import Trainer

IMAGES = 1000
"""Of either kind, at most."""
CHUNK = 240
"""Images that are judged at once, about: whole packs of them."""
OVERFITS = 0.7
"""The share of pairs in which the training image is ranked above, from which on advice is given."""


@dataclass(frozen=True)
class DiscriminatorGap:
    """D on training images and on held-out ones."""

    train: float
    """Its mean logit on training images."""
    heldout: float
    """On held-out images."""
    ranked_above: float
    """The share of pairs in which it ranks the training image above the held-out one (the area under the ROC curve)."""
    chance: float
    """Two standard errors of that share around one half, where it does not tell them apart."""
    counts: tuple[int, int]
    """Logits of either kind; one for each pack of images."""

    def points(self) -> dict[str, float]:
        """For the trackers, in the row of the evaluation."""
        return {
            "discriminator_train": self.train,
            "discriminator_heldout": self.heldout,
            "discriminator_gap": self.train - self.heldout,
            "discriminator_ranks_train_above": self.ranked_above,
        }

    def brief(self) -> str:
        """The finding in a few words."""
        return f"discriminator ranks training images above held-out ones in {self.ranked_above:.0%} of pairs"

    def sentence(self) -> str:
        told = (
            f"discriminator: ranks a training image above a held-out one in {self.ranked_above:.1%} of pairs "
            f"({self.counts[0]:,} and {self.counts[1]:,}; 50 ± {self.chance:.1%} where it cannot tell)"
        )
        if self.ranked_above >= OVERFITS:
            told += ": it learns them by heart; more images, or `objective.augment`, would help"
        return told


def compare(train: np.ndarray, heldout: np.ndarray) -> DiscriminatorGap:
    """The gap between logits [N] of training images and [M] of held-out ones, N, M ≥ 1.

    The share of pairs is Mann and Whitney's U over N·M, ties counted half; its standard error under equality is
    √((N + M + 1) / (12·N·M)).
    """
    n, m = len(train), len(heldout)
    ranked_above = float(mannwhitneyu(train, heldout, method="asymptotic").statistic) / (n * m)
    chance = 2 * float(np.sqrt((n + m + 1) / (12 * n * m)))
    return DiscriminatorGap(float(train.mean()), float(heldout.mean()), ranked_above, chance, (n, m))


def discriminator_gap(trainer: Trainer) -> DiscriminatorGap | None:
    """The gap now, on the calling process alone; None where a game has no discriminator of single sets of images.

    Networks are in evaluation mode for it, so no batch statistics, no dropout and no power iteration moves.
    """
    networks = trainer.runner.bare.values()
    modes = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        with alone(), torch_seeded(trainer.config.seed, trainer.runtime.device):
            train, heldout = (_logits(trainer, store) for store in (trainer.dataset.train, trainer.dataset.heldout))
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
    return None if train is None or heldout is None else compare(train, heldout)


@torch.no_grad()
def _logits(trainer: Trainer, store: Store) -> np.ndarray | None:
    """float64 [N]: of images spread evenly over the split; None where there are none."""
    group, device = trainer.objective.group(trainer.objective.config), trainer.runtime.device
    count = min(IMAGES, len(store)) // group * group
    rows = torch.linspace(0, len(store) - 1, count, dtype=torch.float64).round().long()
    found = []
    for some in rows.split(max(CHUNK // group, 1) * group):
        images = normalised(store.fetch(some).to(device), trainer.runtime.dtype)
        labels = store.label_of(some)
        logits = trainer.objective.judge(trainer.runner.bare, images, None if labels is None else labels.to(device))
        if logits is None:
            return None
        found.append(logits.double().cpu().numpy())
    return np.concatenate(found) if found else None
