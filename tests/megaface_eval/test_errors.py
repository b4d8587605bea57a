"""How every command of the package ends."""

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
