"""What is told in one sentence instead of a traceback."""


class UserError(Exception):
    """A mistake in a config, a path or a name: one sentence with the remedy.

    The command line prints it as one line and exits with code 2. It takes a single string, so that it survives
    being pickled across a Ray boundary.
    """

    exit_code = 2


class RunFailed(UserError):  # noqa: N818 - what happened, not a kind of error of ours
    """The run stopped for a reason that is not in the configuration; what was committed is kept. Exit code 1."""

    exit_code = 1
