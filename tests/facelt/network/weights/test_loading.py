"""Networks built from the formats' own names, saved as their authors save them, give the same embeddings here."""

import json

import pytest
import torch
import torchvision
from named_nets import AdaFace, ArcfaceTorch, ArcfaceTorchMobileFaceNet, with_statistics
from safetensors.torch import save_file
from torch.nn.functional import normalize

from facelt.config import IMAGENET_PIXELS, FaceltConfig
from facelt.errors import UserError
from facelt.network.embedder import Embedder
from facelt.network.weights import loading

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def configured(init, size=16, **backbone) -> FaceltConfig:
    block = {"width": 8, **backbone, "init": str(init)}
    return FaceltConfig.model_validate({"image_size": 32, "embedding_size": size, "backbone": block})


def loaded(config: FaceltConfig) -> tuple[Embedder, str]:
    torch.manual_seed(99)
    embedder = Embedder(config, meta=False).eval()
    return embedder, loading.load(embedder, config)


def prefixed(net: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in net.state_dict().items()}


def saved(net: torch.nn.Module, how: str, folder) -> str:
    """A network as its authors' code, or others', save it."""
    path = folder / ("net.safetensors" if how == "safetensors" else "net.pth")
    ways = {
        "bare": lambda: net.state_dict(),
        "data_parallel": lambda: prefixed(net, "module."),
        "arcface_torch": lambda: {"epoch": 3, "state_dict_backbone": prefixed(net, "module."), "state_dict_fc": {}},
        "lightning": lambda: {
            "epoch": 3,
            "state_dict": {**prefixed(net, "model."), "head.kernel": torch.zeros(16, 5)},
            "hyper_parameters": {"lr": 0.1},
        },
        "half": lambda: {name: tensor.half() for name, tensor in net.state_dict().items()},
    }
    if how == "safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save(ways[how](), path)
    return str(path)


def unit(features: torch.Tensor) -> torch.Tensor:
    return normalize(features.detach())


@pytest.mark.parametrize("how", ["bare", "data_parallel", "arcface_torch", "lightning", "safetensors"])
def test_arcface_torch(how, tmp_path):
    torch.manual_seed(1)
    net = with_statistics(ArcfaceTorch())
    path = saved(net, how, tmp_path)
    embedder, line = loaded(configured(path, name="iresnet18"))
    torch.testing.assert_close(embedder(IMAGES).direct_BD, net(IMAGES), rtol=1e-5, atol=1e-5)
    assert line.startswith(f"--init {path}: iresnet18 of insightface; takes RGB pixel_mean [127.5, 127.5, 127.5]")
    left = {"lightning": 1, "arcface_torch": 0}.get(how, 0)
    assert f"{len(net.state_dict())} tensors taken, {left} left" in line
    assert ("(head.kernel)" in line) == bool(left)
    assert "\n" not in line


@pytest.mark.parametrize("how", ["bare", "lightning"])
def test_adaface_takes_bgr_and_here_rgb(how, tmp_path):
    torch.manual_seed(2)
    net = with_statistics(AdaFace())
    embedder, line = loaded(configured(saved(net, how, tmp_path), name="ir18"))
    torch.testing.assert_close(unit(embedder(IMAGES).direct_BD), net(IMAGES.flip(1)), rtol=1e-5, atol=1e-5)
    assert "ir18 of AdaFace; takes BGR" in line
    assert "turned to RGB" in line


@pytest.mark.parametrize("said", ["RGB", "BGR", None])
def test_cvlface_says_its_order_beside_the_weights(said, tmp_path):
    net = with_statistics(AdaFace())
    torch.save(prefixed(net, "net."), tmp_path / "model.pt")
    knobs = {"name": "ir18"}
    if said is None:
        with pytest.raises(UserError, match=r"says RGB or BGR; put that there, or set backbone\.init_channels$"):
            loading.pixels(configured(tmp_path / "model.pt", **knobs).backbone)
        knobs["init_channels"], said = "rgb", "RGB"
    elif said == "BGR":
        (tmp_path / "model.yaml").write_text("input_size: [3, 112, 112]\ncolor_space: 'BGR'\n")
    else:
        (tmp_path / "config.json").write_text(json.dumps({"conf": {"color_space": "RGB"}}))
    embedder, line = loaded(configured(tmp_path / "model.pt", **knobs))
    want = net(IMAGES.flip(1) if said == "BGR" else IMAGES)
    torch.testing.assert_close(unit(embedder(IMAGES).direct_BD), want, rtol=1e-5, atol=1e-5)
    assert f"takes {said}" in line


def test_mobilefacenet(tmp_path):
    torch.manual_seed(4)
    net = with_statistics(ArcfaceTorchMobileFaceNet())
    embedder, line = loaded(configured(saved(net, "bare", tmp_path), name="mobilefacenet", width=64))
    torch.testing.assert_close(embedder(IMAGES).direct_BD, net(IMAGES), rtol=1e-5, atol=1e-5)
    assert "MobileFaceNet of insightface; takes RGB pixel_mean [127.5, 127.5, 127.5]" in line
    assert f"{len(net.state_dict())} tensors taken, 0 left" in line


def test_torchvision_gives_the_backbone_alone(tmp_path):
    torch.manual_seed(5)
    net = with_statistics(torchvision.models.resnet18(weights=None))
    path = saved(net, "data_parallel", tmp_path)
    embedder, line = loaded(configured(path, name="resnet18", width=64))
    body = torch.nn.Sequential(*list(net.children())[:-2])
    torch.testing.assert_close(embedder.backbone(IMAGES), body(IMAGES), rtol=1e-4, atol=1e-5)
    assert "torchvision's ResNet-18; takes RGB pixel_mean [123.675, 116.28, 103.53]" in line
    assert line.endswith("120 tensors taken, 2 left (fc.weight, fc.bias)")


def test_weights_in_half_precision_are_read(tmp_path):
    net = with_statistics(ArcfaceTorch())
    embedder, _ = loaded(configured(saved(net, "half", tmp_path), name="iresnet18"))
    assert unit(embedder(IMAGES).direct_BD).dtype == torch.float32
    torch.testing.assert_close(unit(embedder(IMAGES).direct_BD), unit(net(IMAGES)), rtol=0, atol=5e-3)


def test_another_neck_keeps_its_start_and_is_said_to_be_left(tmp_path):
    net = with_statistics(ArcfaceTorch())
    path = saved(net, "bare", tmp_path)
    embedder, line = loaded(configured(path, name="iresnet18", neck="batch_norm"))
    assert "taken, 12 left (bn2.weight" in line
    assert embedder.neck.fc.weight.shape == (16, 64)


def test_pixels_belong_to_the_file_and_other_ones_are_said(tmp_path):
    path = saved(with_statistics(ArcfaceTorch()), "bare", tmp_path)
    knobs = {"name": "iresnet18", "width": 8, "init": path}
    assert loading.pixels(configured(path, name="iresnet18").backbone)["pixel_std"] == (127.5, 127.5, 127.5)
    block = {"image_size": 32, "embedding_size": 16, "backbone": knobs, **IMAGENET_PIXELS}
    _, line = loaded(FaceltConfig.model_validate(block))
    assert "given pixel_mean [123.675, 116.28, 103.53]" in line
    assert "all the same, as set" in line


@pytest.mark.parametrize(
    "knobs, words",
    [
        ({"name": "iresnet34"}, "holds iresnet18 of insightface of width 8, the network here has name iresnet34; set "),
        ({"name": "ir18"}, "the network here has name ir18; set backbone.name=iresnet18"),
        ({"name": "resnet18"}, "the network here has name resnet18; set backbone.name=iresnet18"),
        ({"name": "iresnet18", "width": 16}, "of width 8, the network here has width 16; set backbone.width=8"),
        ({"name": "iresnet18", "size": 32}, r"neck.fc.weight is \(16, 256\), this network has \(32, 256\); set embedd"),
    ],
)
def test_weights_of_another_network_are_one_line_that_names_both(knobs, words, tmp_path):
    path = saved(ArcfaceTorch(), "bare", tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        loaded(configured(path, **knobs))
    assert "\n" not in str(caught.value)


def test_a_network_that_lacks_a_tensor_is_refused(tmp_path):
    state = ArcfaceTorch().state_dict()
    del state["layer3.1.conv2.weight"]
    torch.save(state, tmp_path / "lacks.pth")
    with pytest.raises(UserError, match=r"lacks layer3\.1\.conv2\.weight; expected a whole network"):
        loaded(configured(tmp_path / "lacks.pth", name="iresnet18"))


class TestTimm:
    """Any network of timm's, where that extra is installed."""

    NAME = "vit_tiny_patch16_224"

    @pytest.fixture(autouse=True)
    def installed(self):
        self.timm = pytest.importorskip("timm")

    def test_a_vision_transformer_of_the_same_size(self, tmp_path):
        net = self.timm.create_model(self.NAME, pretrained=False, num_classes=7, img_size=32).eval()
        path = saved(net, "lightning", tmp_path)
        embedder, line = loaded(configured(path, name="timm", timm=self.NAME, width=64))
        want = net.forward_head(net.forward_features(IMAGES), pre_logits=True)
        torch.testing.assert_close(embedder.backbone(IMAGES)[:, :, 0, 0], want, rtol=1e-5, atol=1e-5)
        assert f"timm's {self.NAME}; takes RGB pixel_mean [127.5, 127.5, 127.5]" in line
        assert "3 left (model.head.weight, model.head.bias, head.kernel)" in line

    def test_position_embeddings_of_another_size_are_interpolated(self, tmp_path):
        net = self.timm.create_model(self.NAME, pretrained=False, num_classes=0, img_size=64).eval()
        embedder, _ = loaded(configured(saved(net, "bare", tmp_path), name="timm", timm=self.NAME, width=64))
        own = embedder.backbone.net.pos_embed
        assert own.shape == (1, 5, 192)
        torch.testing.assert_close(own[:, 0], net.pos_embed[:, 0])
        assert not torch.equal(own[:, 1:], net.pos_embed[:, 1:5])

    def test_of_another_network_of_timms(self, tmp_path):
        path = saved(ArcfaceTorch(), "bare", tmp_path)
        with pytest.raises(UserError, match=f"holds iresnet18 of insightface, the network here is timm's {self.NAME}"):
            loaded(configured(path, name="timm", timm=self.NAME, width=64))
