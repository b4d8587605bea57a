"""What every command line has in common: help as it was laid out, and mistakes in one line."""

import io
import sys

import pytest

from recordio_tools.command_line import Parser, complain


def answer(parser: Parser, capsys, *arguments: str) -> str:
    """What is said on stderr to arguments that are a mistake."""
    with pytest.raises(SystemExit) as leave:
        parser.parse_args(arguments)
    assert leave.value.code == 2
    return capsys.readouterr().err


def test_mistakes_are_answered_in_one_line(capsys):
    parser = Parser(prog="tool")
    parser.add_argument("--number", type=int)
    assert answer(parser, capsys, "--number", "x\ny").startswith("error: argument --number: invalid int value: 'x")
    assert answer(parser, capsys, "--no\nsuch") == "error: unrecognized arguments: --no such; see tool --help\n"


def test_no_abbreviations(capsys):
    parser = Parser(prog="tool")
    parser.add_argument("--number", type=int)
    assert "unrecognized arguments: --num 3" in answer(parser, capsys, "--num", "3")


def test_texts_keep_their_layout():
    assert "one\n  two\n" in Parser(epilog="one\n  two").format_help()


def test_complaints_are_one_line_of_any_characters(capsys, monkeypatch):
    complain(ValueError("a\n  b"), "tool")
    assert capsys.readouterr().err == "tool: error: a b\n"
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    complain("é \udcff")
    assert stream.buffer.getvalue() == b"error: \\xe9 \\udcff\n"
