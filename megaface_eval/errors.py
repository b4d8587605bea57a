"""The one exception that means: the user can mend this."""

from recordio_tools.errors import UserError


class InputError(UserError):
    """Input that cannot be evaluated; its one-line message says what was given, what was expected and what to do."""
