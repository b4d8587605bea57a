"""ResNet: torchvision's names and numbers, any width and stem, --init files good and bad."""

import pytest
import torch
import torchvision

from facelt import backbone
from facelt.batch_norm import FrozenBatchNorm2d


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_is_torchvisions_network(name, tmp_path):
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    for module in theirs.modules():  # statistics that show
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")
    ours = backbone.build(name, 64, "imagenet", "synchronised").eval()
    backbone.load_pretrained(ours, tmp_path / "imagenet.pth")
    images = torch.randn(2, 3, 64, 64)
    body = torch.nn.Sequential(*list(theirs.children())[:-2])
    torch.testing.assert_close(ours(images), body(images), rtol=1e-4, atol=1e-4)
    assert ours.channels == theirs.fc.in_features


@pytest.mark.parametrize("stem, side", [("imagenet", 4), ("face", 14)])
def test_stem_and_width(stem, side):
    net = backbone.build("resnet10", 16, stem, "frozen")
    assert net(torch.zeros(1, 3, 112, 112)).shape == (1, 128, side, side)
    assert isinstance(net.layer1[0].bn1, FrozenBatchNorm2d)


@pytest.mark.parametrize("kind", ["linear", "relu", "batch_norm"])
def test_neck_by_hand(kind):
    neck = backbone.Neck(4, 3, kind, torch.nn.BatchNorm2d).eval()
    x = torch.randn(5, 4, 2, 2)
    want = x.mean((2, 3)) @ neck.fc.weight.T + neck.fc.bias
    if kind == "relu":
        want = want.clamp(min=0)
    if kind == "batch_norm":
        want = want / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(neck(x), want)


def test_init_files_that_do_not_fit(tmp_path):
    net = backbone.build("resnet10", 8, "imagenet", "local")
    state = net.state_dict()
    with pytest.raises(ValueError, match="no such file"):
        backbone.load_pretrained(net, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match="not a state dict"):
        backbone.load_pretrained(net, tmp_path / "text.pth")
    torch.save({k: v for k, v in state.items() if k != "conv1.weight"}, tmp_path / "lacks.pth")
    with pytest.raises(ValueError, match="lacks conv1"):
        backbone.load_pretrained(net, tmp_path / "lacks.pth")
    torch.save(backbone.build("resnet10", 16, "imagenet", "local").state_dict(), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"conv1.weight is \(16, 3, 7, 7\), this network has \(8, 3, 7, 7\)"):
        backbone.load_pretrained(net, tmp_path / "wide.pth")
