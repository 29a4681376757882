"""The benchmark of a save's stall runs, and gives what it says."""

from __future__ import annotations

import pytest

from benchmarks import checkpoint


@pytest.mark.slow
def test_it_measures_a_checkpoint_of_a_dcgan_at_64_pixels() -> None:
    figures = checkpoint.measure(saves=1, batch_size=8)
    # Generator, its average, discriminator, and two moments of both networks: 23 million floats.
    assert 80 < figures["checkpoint_megabytes"] < 120
    assert all(value >= 0 for value in figures.values())
