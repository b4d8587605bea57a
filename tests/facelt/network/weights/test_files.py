"""What lies around the tensors of a file, and what is no file of weights."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from facelt.errors import UserError
from facelt.network.weights import files


class Code:
    """What an honest unpickler would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_never_run(zipped, tmp_path):
    state = {"state_dict": {"conv1.weight": torch.zeros(1)}, "callbacks": Code(tmp_path / "harm")}
    torch.save(state, tmp_path / "net.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"without running code that it names \(posix\.mkdir\), which is refused"
    ) as one:
        files.read(tmp_path / "net.ckpt")
    assert "\n" not in str(one.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "name, content",
    [
        ("text.pth", b"not weights"),
        ("empty.pth", b""),
        ("array.pth", pickle.dumps({"conv1.weight": [1, 2]}, protocol=4)),
        ("text.safetensors", b"not weights"),
        ("empty.safetensors", b""),
    ],
)
def test_what_is_no_state_dict(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"(not a state dict|holds no tensors)"):
        files.read(tmp_path / name)


@pytest.mark.parametrize("value", [{}, {"state_dict": {}}, {"epoch": 3}, [torch.zeros(1)], {"model": {"lr": 0.1}}])
def test_files_without_tensors_by_name(value, tmp_path):
    torch.save(value, tmp_path / "net.pth")
    with pytest.raises(UserError, match="holds no tensors by name; expected the state dict of a network"):
        files.read(tmp_path / "net.pth")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: no such file; expected weights in \.pth"):
        files.read(tmp_path / "none.pth")


def test_a_network_of_facelts_own_has_an_option_of_its_own(tmp_path):
    torch.save({"backbone.conv1.weight": torch.zeros(1), "neck.fc.weight": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(UserError, match="give the run with --start-from instead"):
        files.read(tmp_path / "net.pth")


@pytest.mark.parametrize(
    "names, prefix",
    [
        (["conv1.weight", "layer1.0.conv1.weight"], ""),
        (["module.model.conv1.weight", "module.model.layer1.0.conv1.weight"], "module.model."),
        (["teacher.conv1.weight", "layer1.0.conv1.weight"], None),
        (["xmodel.conv1.weight", "deconv1.weight"], None),
        (["model.net.conv1.weight", "net.conv1.weight"], "net."),
    ],
)
def test_wrappers(names, prefix):
    assert files.wrapper(dict.fromkeys(names, torch.zeros(1)), "conv1.weight") == prefix
