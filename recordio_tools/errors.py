"""The one kind of exception that means: the user can mend this."""


class UserError(ValueError):
    """What a user did wrong, in one line: what was given, what was expected, what to do.

    Every command answers it with that line and exit status 2; any other exception is a fault of ours.
    """
