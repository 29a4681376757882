"""Recipes: configs that come with gantk and are known by name.

In a checkout they are the files of `configs/`; in an installed wheel they lie beside this file.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from pathlib import Path

from gantk.errors import ConfigError

_PLACES = (Path(__file__).parent / "configs", Path(__file__).parents[2] / "configs")
_SUFFIXES = (".yaml", ".yml")


def recipes() -> dict[str, Path]:
    """The file of each recipe, by its name, in the order of the names."""
    for place in _PLACES:
        if files := sorted(place.glob("*.yaml")):
            return {file.stem: file for file in files}
    return {}


def summary(file: Path, width: int = 100) -> str:
    """The first sentence of the comment that a config begins with, shortened to `width` characters."""
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words += line.lstrip("# ").split()
        if words and words[-1].endswith((".", ":")):
            break
    text = " ".join(words)
    sentence = re.split(r"(?<! al)\. ", text)[0]
    return textwrap.shorten(sentence, width, placeholder=" …").rstrip(".:")


def find_config(spec: str | Path) -> Path:
    """The file for a recipe's name or a path.

    Raises:
        ConfigError: for a single word that is neither; the sentence lists the recipes.
    """
    path = Path(spec)
    if isinstance(spec, Path) or len(path.parts) != 1 or path.suffix in _SUFFIXES:
        return path
    known = recipes()
    if spec in known:
        return known[spec]
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"`{spec}` is a folder: to train on images in it, give `--data {spec}`")
    close = difflib.get_close_matches(spec, known, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    raise ConfigError(f"there is no recipe or config file `{spec}`; {hint}The recipes are: {', '.join(known)}")
