"""Whose error it is: one line and status 2 for the user's, a traceback for ours."""

import numpy as np
import pytest

from facelt import errors
from facelt.parallel.partition import Partition


def test_a_mistake_is_one_line_from_rank_0_only(capsys, monkeypatch):
    monkeypatch.setattr(errors, "PATIENCE", 0)
    for rank, every_rank, speaks in (("0", False, True), ("1", False, False), ("1", True, True)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as left, errors.one_line("facelt.test", every_rank):
            Partition(1, 0, 2)
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("facelt.test: error: 1 classes cannot be shared by 2 ranks") == speaks
        assert said.count("\n") == speaks


def test_a_librarys_error_keeps_its_traceback():
    with pytest.raises(ValueError, match="shape"), errors.one_line("facelt.test"):
        np.zeros(3).reshape(2, 2).sum()
    with pytest.raises(TypeError), errors.one_line("facelt.test"):
        Partition("many")
