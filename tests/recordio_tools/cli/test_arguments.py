"""Values that arguments take."""

import argparse

import pytest

from recordio_tools.cli.arguments import identity_range, natural, positive


def test_good_values():
    assert (natural("0"), positive("7"), identity_range("2:9")) == (0, 7, range(2, 9))


@pytest.mark.parametrize(
    "kind, text, words",
    [
        (natural, "-1", "'-1' given, expected a whole number from 0"),
        (natural, "1.5", "expected a whole number"),
        (positive, "0", "'0' given, expected a whole number from 1"),
        (positive, "ten", "expected a whole number from 1"),
        (identity_range, "3", "expected START:STOP"),
        (identity_range, ":4", "expected START:STOP"),
        (identity_range, "1:2:3", "expected START:STOP"),
    ],
)
def test_bad_values(kind, text, words):
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        kind(text)
