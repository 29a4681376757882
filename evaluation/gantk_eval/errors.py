"""The errors that a user can cause and mend. Each carries the exit code that the command line documents."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can put right: shown as one sentence, without a traceback."""

    exit_code = 2


class DataError(UserError):
    """Images, labels or a dataset that are missing, unreadable or do not fit."""

    exit_code = 3


class WeightsError(DataError):
    """The weights of a feature extractor are missing or are not the file they should be."""
