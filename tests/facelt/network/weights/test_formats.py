"""Whose network a file holds; and what is told apart from what a network here could take."""

import pytest
import torch
from named_nets import AdaFace, ArcfaceTorch, ArcfaceTorchMobileFaceNet

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.network import iresnet, resnet
from facelt.network.backbone import build
from facelt.network.embedder import Embedder
from facelt.network.weights import formats


def recognised(state: dict, folder, **knobs) -> formats.Given:
    torch.save(state, folder / "net.pth")
    return formats.recognise(folder / "net.pth", **knobs)


@pytest.mark.parametrize("name", iresnet.DEPTHS)
def test_every_depth_of_an_iresnet_is_known_by_its_names(name, tmp_path):
    make = ArcfaceTorch if name.startswith("iresnet") else AdaFace
    given = recognised(make(width=2, depths=iresnet.DEPTHS[name]).state_dict(), tmp_path)
    assert (given.name, given.width, given.stem) == (name, 2, None)
    config = FaceltConfig.model_validate(
        {"image_size": 32, "embedding_size": 16, "backbone": {"name": name, "width": 2}}
    )
    own = {n: t.shape for n, t in Embedder(config, meta=False).state_dict().items()}
    theirs = {n: t.shape for n, t in given.tensors.items()}
    assert own == theirs


@pytest.mark.parametrize("name", resnet.DEPTHS)
@pytest.mark.parametrize("stem", ["imagenet", "face"])
def test_every_depth_of_a_resnet_too(name, stem, tmp_path):
    given = recognised(build(name, 2, stem, "local").state_dict(), tmp_path)
    assert (given.name, given.width, given.stem) == (name, 2, stem)


def test_mobilefacenet_has_all_its_names(tmp_path):
    given = recognised(ArcfaceTorchMobileFaceNet(width=128).state_dict(), tmp_path)
    config = FaceltConfig.model_validate({"image_size": 32, "embedding_size": 16, "backbone": {"name": given.name}})
    own = {n: t.shape for n, t in Embedder(config, meta=False).state_dict().items()}
    assert own == {n: t.shape for n, t in given.tensors.items()}
    assert given.width == config.backbone.width == 128


def test_an_order_of_channels_that_is_told_comes_first(tmp_path):
    state = AdaFace(width=2).state_dict()
    assert recognised(state, tmp_path).channels == "bgr"
    assert recognised(state, tmp_path, init_channels="rgb").channels == "rgb"


@pytest.mark.parametrize(
    "state, words",
    [
        ({"a.weight": torch.zeros(1)}, r"its names \(a\.weight …\) are of no network that is known here"),
        (ArcfaceTorch(2, depths=(1, 2, 2, 2)).state_dict(), "an IResNet of 1 2 2 2 blocks; expected one of: iresnet18"),
        (AdaFace(2, depths=(3, 2, 2, 2)).state_dict(), "an IResNet of 3 2 2 2 blocks; expected one of: ir18, ir34"),
        (
            {**AdaFace(2).state_dict(), "body.0.res_layer.se_block.fc1.weight": torch.zeros(1)},
            "AdaFace's IR-net with squeeze-and-excitation, which is none here",
        ),
        ({**AdaFace(2).state_dict(), "body.0.res_layer.7.weight": torch.zeros(1)}, "IR-net with bottlenecks"),
    ],
)
def test_other_networks(state, words, tmp_path):
    with pytest.raises(UserError, match=words):
        recognised(state, tmp_path)
