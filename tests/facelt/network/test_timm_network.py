"""timm's networks: pooled features, image sizes, batch normalisations, and what is refused; skipped without timm."""

import pytest
import torch
from torch import nn

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.network import timm_network
from facelt.network.batch_norm import SynchronisedBatchNorm2d
from facelt.network.embedder import Embedder
from facelt.network.timm_network import TimmNetwork


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r'backbone\.name timm needs the package timm: pip install "facelt\[timm\]"'):
        TimmNetwork("vit_small_patch16_224", 112, "local")


class TestWithTimm:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("timm")

    @pytest.mark.parametrize("name, size", [("vit_tiny_patch16_224", 48), ("resnet10t", 64), ("convnext_atto", 64)])
    def test_a_map_of_one_place(self, name, size):
        net = TimmNetwork(name, size, "local").eval()
        assert net(torch.zeros(2, 3, size, size)).shape == (2, net.channels, 1, 1)

    def test_an_embedder_of_it(self):
        block = {"image_size": 32, "embedding_size": 8, "head": {"attention": False}}
        block["backbone"] = {"name": "timm", "timm": "vit_tiny_patch16_224", "neck": "batch_norm"}
        embedder = Embedder(FaceltConfig.model_validate(block), meta=True).eval()
        assert embedder(torch.zeros(2, 3, 32, 32)).direct_BD.shape == (2, 8)
        assert "backbone.net.patch_embed.proj.weight" in embedder.state_dict()

    def test_batch_normalisation_becomes_that_of_all_ranks(self):
        net = TimmNetwork("resnet18", 32, "synchronised")
        kinds = {type(m) for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        assert kinds == {SynchronisedBatchNorm2d}

    @pytest.mark.parametrize(
        "name, batch_norm, words",
        [
            ("vit_smal_patch16_224", "local", "timm has no such network; expected one such as vit_small_patch16_224"),
            (
                "efficientnet_b0",
                "synchronised",
                "BatchNormAct2d, which is not .synchronised. here; set backbone.batch_n",
            ),
        ],
    )
    def test_refusals(self, name, batch_norm, words):
        with pytest.raises(UserError, match=words) as caught:
            TimmNetwork(name, 33, batch_norm)(torch.zeros(1, 3, 33, 33))
        assert "\n" not in str(caught.value)

    def test_pixels_are_those_of_timms_own_weights(self):
        assert timm_network.pixels("vit_small_patch16_224")["pixel_mean"] == (127.5, 127.5, 127.5)
        assert timm_network.pixels("resnet18")["pixel_mean"] == pytest.approx((123.675, 116.28, 103.53))
