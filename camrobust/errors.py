"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in a config, a path or a name: one sentence with the remedy.

    The command line prints it as one line and exits with code 2. It takes a single string, so that it survives
    being pickled across a Ray boundary.
    """
