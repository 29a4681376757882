"""Train a GAN: the entry for `accelerate launch gantk/train.py --config configs/dcgan_lsun.yaml`.

Importing this module puts it in the place of the function `gantk.train`, as Python does with every submodule; so it can be
called as that function, with the same arguments.
"""

from __future__ import annotations

import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gantk.api import Run

# Run as a script, Python puts this file's folder first on the path, where `gantk/data` would be `data` and `import gantk`
# would fail in a checkout that is not installed. What belongs there is the folder above.
_HERE = os.path.dirname(os.path.abspath(__file__))
if sys.path and os.path.abspath(sys.path[0] or os.getcwd()) == _HERE:
    sys.path[0] = os.path.dirname(_HERE)
    _EVALUATION = os.path.join(sys.path[0], "evaluation")
    if os.path.isdir(os.path.join(_EVALUATION, "gantk_eval")):
        sys.path.insert(1, _EVALUATION)


def main() -> None:
    from gantk.cli import main as command_line

    command_line(["train", *sys.argv[1:]])


class _Callable(types.ModuleType):
    """A module that is called as `gantk.api.train` is."""

    def __call__(self, config: Any, *overrides: str, resume: str = "auto", allow_changes: bool = False) -> Run:
        from gantk.api import train

        return train(config, *overrides, resume=resume, allow_changes=allow_changes)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _Callable
