"""Which detector is chosen, and what it says when it lacks something."""

from importlib.util import find_spec

import pytest

from recordio_tools.align import choose
from recordio_tools.errors import UserError


def test_without_torch_one_line_says_so(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    with pytest.raises(UserError, match="MTCNN needs torch, which is not installed; run: pip install torch"):
        choose.choose_detector(None, 0.9)


def test_a_file_is_an_onnx_detector(tmp_path):
    with pytest.raises(UserError, match="no such file; expected a detector in ONNX"):
        choose.choose_detector(tmp_path / "none.onnx", 0.9)
