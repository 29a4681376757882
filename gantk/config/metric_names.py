"""The type of a config's key that names a metric."""

from __future__ import annotations

from typing import Annotated

from gantk_eval.errors import UserError
from gantk_eval.metrics import check_names
from pydantic import AfterValidator


def _known(name: str) -> str:
    try:
        check_names((name,))
    except UserError as error:
        raise ValueError(str(error)) from error
    return name


MetricName = Annotated[str, AfterValidator(_known)]
"""A name out of gantk_eval's metrics; any other is refused when the config is read, with the nearest one."""
