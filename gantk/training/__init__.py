"""The trainer: a loop over an objective's phases, and what surrounds it."""
