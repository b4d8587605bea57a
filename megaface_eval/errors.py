"""What the user can mend, and how every command of the package ends on it: one line, exit status 2."""

import sys
from collections.abc import Callable

from recordio_tools.command_line import INTERRUPTED, complain, print_anything
from recordio_tools.errors import UserError


class InputError(UserError):
    """Input that cannot be evaluated; its one-line message says what was given, what was expected and what to do."""


def answer(work: Callable[[], None], silent: bool = False) -> int:
    """Do the work and return the exit status: 0 done, 2 a mistake, 130 interrupted.

    silent: say nothing, because another process of the same run says it.
    """
    print_anything()
    try:
        work()
    except UserError as error:
        if not silent:
            complain(error)
        return 2
    except KeyboardInterrupt as interrupt:
        if not silent:
            print(*(interrupt.args or ("interrupted; nothing was written",)), file=sys.stderr)
        return INTERRUPTED
    return 0
