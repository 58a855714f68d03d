"""The one exception that means: the user can put this right."""


class UserError(Exception):
    """A mistake in data, parameters or set-up, with a message that names the file or key and what to do.

    Stages and commands print the message without a traceback and end with exit code 1. Anything else that is
    raised is a defect of this project and keeps its traceback.
    """
