"""Benchmarks: `python -m benchmarks.NAME` from the repository's root. README.md here has the figures and how they were got."""
