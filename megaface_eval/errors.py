"""The one exception that means: the user can mend this."""


class InputError(ValueError):
    """Input that cannot be evaluated; its one-line message says what was given, what was expected and what to do."""
