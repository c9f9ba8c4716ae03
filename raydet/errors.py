"""Errors a user can meet. `UserError`s are printed as one message, without a traceback; the exit code is 2."""

from __future__ import annotations


class UserError(ValueError):
    """A user's mistake. The text says what was given, where, what is allowed and what to do."""


class ConfigError(UserError):
    """The configuration cannot be used."""


class FolderInUseError(ConfigError):
    """Another process is writing to this run folder."""


class DataError(UserError):
    """A data set or an image cannot be used."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or does not fit the configuration."""


class RunError(RuntimeError):
    """A run cannot go on, and starting it again from its last checkpoint would only repeat this."""


class StorageError(RunError):
    """A file cannot be written; the text names it, what the disk says, and what room is needed and free."""


class StaleLabelError(RunError):
    """A pseudo-label older than the schedule's derived bound was about to be consumed."""


class LabelConflictError(RunError):
    """Two different contents claim the same identity (one version with two weight digests)."""


class LabelTimeoutError(RunError):
    """Labels did not arrive within `labels.timeout_s`; the text names the missing keys."""


class NonFiniteLossError(RunError):
    """A loss term is NaN or infinite; the text names the term, the step and the image ids."""


class DivergedError(RunError):
    """The loss has left its running median far behind and does not come back; the text names the step to go back to."""


class RunStopped(Exception):
    """A run was asked to stop and did, with a checkpoint; the text says at which step. The exit code is 143."""


class Terminated(KeyboardInterrupt):
    """SIGTERM where nothing can be saved any more: passes through everything that Ctrl-C passes through."""
