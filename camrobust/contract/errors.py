"""Errors that the user sees as one sentence instead of a traceback."""


class UserError(Exception):
    """A mistake in a config, a path or a name: one sentence with the remedy.

    The command line prints it as one line and exits with code 2. It takes a single string, so that it can be pickled
    between Ray processes.
    """

    exit_code = 2


class RunFailed(UserError):  # noqa: N818 - an event, not a mistake of the user
    """The run stopped for a reason outside the configuration. Committed results are kept. Exit code 1."""

    exit_code = 1
