"""`python -m gantk`, and `accelerate launch -m gantk`."""

from gantk.cli import main

main()
