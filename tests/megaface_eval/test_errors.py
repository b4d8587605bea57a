"""How every command of the package ends."""

import os
import subprocess
import sys

import pytest

from megaface_eval.errors import InputError, answer
from recordio_tools.command_line import INTERRUPTED
from recordio_tools.errors import UserError


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "error, code, said",
    [
        (InputError("two\nlines of \udcff"), 2, "error: two lines of \\udcff\n"),
        (UserError("a pack"), 2, "error: a pack\n"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted; nothing was written\n"),
    ],
)
def test_an_end_before_the_end_is_told_in_one_line(capsys, error, code, said):
    assert answer(raising(error)) == code
    assert capsys.readouterr().err == said
    assert answer(raising(error), silent=True) == code
    assert capsys.readouterr().err == ""


def test_a_fault_of_ours_keeps_its_traceback():
    assert answer(lambda: None) == 0
    with pytest.raises(ZeroDivisionError):
        answer(raising(ZeroDivisionError()))


def test_a_table_is_printed_whatever_the_locale():
    program = "from megaface_eval.errors import answer; raise SystemExit(answer(lambda: print('\u2265 5')))"
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=ascii_only, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, r"\u2265 5")
