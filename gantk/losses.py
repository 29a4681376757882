"""Adversarial losses: pure functions of logits.

Each takes logits [N] (any real number; a probability is their sigmoid) and gives the loss of each sample, [N]; the
objective takes the mean. The logarithms of the sigmoid stand as softplus, −log σ(x) = softplus(−x), which neither
overflows nor loses its gradient where the sigmoid saturates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AdversarialLoss:
    """What each player minimises."""

    discriminator: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(real logits, fake logits) to the loss on the real and the loss on the fake samples; their sum is minimised."""
    generator: Callable[..., Tensor]
    """Fake logits to the generator's loss; where `paired`, fake and real logits."""
    probabilistic: bool = True
    """Whether the sigmoid of a logit is a probability of being real."""
    paired: bool = False
    """Whether the i-th fake is judged against the i-th real sample, by both players: logits mean nothing by themselves.
    The discriminator's loss on the pairs stands in the place of that on the real samples, and that on the fakes is 0."""


def _cross_entropy(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return F.softplus(-real), F.softplus(fake)


def nonsaturating_generator(fake: Tensor) -> Tensor:
    """−log D(G(z)); Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake)


def minimax_generator(fake: Tensor) -> Tensor:
    """log(1 − D(G(z))); Goodfellow et al. 2014, equation 1."""
    return -F.softplus(fake)


def _least_squares(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * (real - 1) ** 2, 0.5 * fake**2


def least_squares_generator(fake: Tensor) -> Tensor:
    """½(D(G(z)) − 1)²; Mao et al. 2017, equation 9 (a = 0, b = c = 1)."""
    return 0.5 * (fake - 1) ** 2


def _hinge(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return F.relu(1 - real), F.relu(1 + fake)


def _wasserstein(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return -real, fake


def _relativistic(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return F.softplus(fake - real), torch.zeros_like(fake)


def relativistic_generator(fake: Tensor, real: Tensor) -> Tensor:
    """−log σ(D(G(z)) − D(x)); Jolicoeur-Martineau 2019, section 3; with f(t) = −log(1 + e^−t), Huang et al. 2024, equation 2."""
    return F.softplus(real - fake)


LOSSES: dict[str, AdversarialLoss] = {
    "nonsaturating": AdversarialLoss(_cross_entropy, nonsaturating_generator),
    "minimax": AdversarialLoss(_cross_entropy, minimax_generator),
    "least_squares": AdversarialLoss(_least_squares, least_squares_generator, probabilistic=False),
    # Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17.
    "hinge": AdversarialLoss(_hinge, torch.neg, probabilistic=False),
    # Arjovsky et al. 2017, equation 2. It needs a Lipschitz constraint on the critic.
    "wasserstein": AdversarialLoss(_wasserstein, torch.neg, probabilistic=False),
    # RpGAN. Its gradient penalties R1 and R2 are what makes it converge (Huang et al. 2024, section 2).
    "relativistic": AdversarialLoss(_relativistic, relativistic_generator, probabilistic=False, paired=True),
}
