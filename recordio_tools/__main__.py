"""The command line: exit status 0 done, 1 faults found or a fault of ours, 2 the user's mistake, 130 interrupted."""

import os
import sys
from collections.abc import Sequence

from recordio_tools.atomic import check_writable
from recordio_tools.cli import reading, writing
from recordio_tools.command_line import INTERRUPTED, Parser, complain
from recordio_tools.errors import UserError

COMMANDS = {**reading.COMMANDS, **writing.COMMANDS}
PROGRAM = "python -m recordio_tools"


def build_parser(chosen: str | None) -> Parser:
    """All commands by name; only the chosen one with its arguments, so that none loads another's libraries."""
    parser = Parser(prog=PROGRAM, description="Everything one does to a face set in MXNet RecordIO, without mxnet.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=command.help, description=command.help, epilog=f"example: {PROGRAM} {command.example}"
        )
        if name == chosen:
            command.add_arguments(subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    args = build_parser(chosen).parse_args(arguments)
    try:
        for output in (getattr(args, "out", None), getattr(args, "repair", None)):
            if output is not None:
                check_writable(output, force=args.force)  # before an hour of reading, not after
        return COMMANDS[args.command].run(args) or 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; say nothing at exit either
        return 0
    except (UserError, OSError, UnicodeEncodeError) as mistake:  # the last: a path that stdout cannot show
        complain(mistake)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
