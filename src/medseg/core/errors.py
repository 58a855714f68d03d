"""The exception for mistakes that the user can correct."""


class UserError(Exception):
    """A mistake in data, parameters or set-up, with a message that names the file or key and what to do.

    Stages and commands print the message without a traceback and exit with code 1. Any other exception is a bug of
    this project and keeps its traceback.
    """
