"""Recognisers in ONNX: as torch exports them, its newer exporter too, and graphs that are none of the two networks."""

import pytest
import torch
from named_nets import AdaFace, ArcfaceTorch, ArcfaceTorchMobileFaceNet, with_statistics
from torch import nn
from torch.nn.functional import normalize

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.network.embedder import Embedder
from facelt.network.weights import files, loading

onnx = pytest.importorskip("onnx")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def exported(net: nn.Module, folder, training: bool = False, dynamo: bool = False):
    """A network in ONNX. training: with the batch normalisations as nodes of their own, as in a graph not optimised."""
    path = folder / "net.onnx"
    mode = torch.onnx.TrainingMode.PRESERVE if training else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        net,
        (IMAGES,),
        path,
        dynamo=dynamo,
        **({} if dynamo else {"training": mode, "do_constant_folding": not training}),
    )
    return path


def embedded(path, **backbone) -> torch.Tensor:
    block = {"batch_norm": "frozen", "width": 8, "init": str(path), **backbone}
    config = FaceltConfig.model_validate({"image_size": 32, "embedding_size": 16, "backbone": block})
    embedder = Embedder(config, meta=False).eval()
    line = loading.load(embedder, config)
    assert " in ONNX" in line
    assert " 0 left" in line
    return embedder(IMAGES).direct_BD.detach()


NETS = {
    "iresnet18": (lambda: ArcfaceTorch(), {"name": "iresnet18"}),
    "iresnet34": (lambda: ArcfaceTorch(depths=(3, 4, 6, 3)), {"name": "iresnet34"}),
    "mobilefacenet": (lambda: ArcfaceTorchMobileFaceNet(), {"name": "mobilefacenet", "width": 64}),
}


@pytest.mark.parametrize("name", NETS)
def test_folded_as_torch_exports_it(name, tmp_path):
    make, knobs = NETS[name]
    torch.manual_seed(1)
    net = with_statistics(make())
    path = exported(net, tmp_path)
    assert files.read(path).folded
    torch.testing.assert_close(embedded(path, **knobs), net(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_as_the_newer_exporter_has_it(name, tmp_path):
    pytest.importorskip("onnxscript")
    make, knobs = NETS[name]
    net = with_statistics(make())
    torch.testing.assert_close(
        embedded(exported(net, tmp_path, dynamo=True), **knobs), net(IMAGES), rtol=1e-5, atol=1e-5
    )


def test_adaface_in_onnx_is_of_unit_length_and_takes_what_is_told(tmp_path):
    net = with_statistics(AdaFace())
    path = exported(net, tmp_path)
    features = embedded(path, name="ir18", init_channels="bgr")
    torch.testing.assert_close(normalize(features), net(IMAGES.flip(1)), rtol=1e-5, atol=1e-5)


class Normalising(nn.Module):
    """A recogniser with its normalisation within: it takes 0 … 255."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net((images - 127.5) * 0.0078125)


def test_a_normalisation_within_the_graph_becomes_that_of_the_run(tmp_path):
    net = with_statistics(ArcfaceTorch())
    path = exported(Normalising(net).eval(), tmp_path)
    knobs = {"name": "iresnet18", "width": 8, "batch_norm": "frozen", "init": str(path)}
    found = loading.pixels(FaceltConfig.model_validate({"backbone": knobs}).backbone)
    assert found["pixel_mean"] == pytest.approx((127.5,) * 3)
    assert found["pixel_std"] == pytest.approx((128,) * 3)
    torch.testing.assert_close(embedded(path, name="iresnet18"), net(IMAGES), rtol=1e-5, atol=1e-5)


def rejoined(path, change) -> None:
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)


def test_batch_normalisations_of_their_own_are_taken_with_their_statistics(tmp_path):
    net = with_statistics(ArcfaceTorch())
    path = exported(net, tmp_path, training=True)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("BatchNormalization") == sum(
        isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in net.modules()
    )
    assert not files.read(path).folded
    torch.testing.assert_close(embedded(path, name="iresnet18", batch_norm="local"), net(IMAGES), rtol=1e-5, atol=1e-5)


def test_a_smaller_epsilon_goes_into_the_variance(tmp_path):
    net = with_statistics(ArcfaceTorch())
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 2e-3
    path = exported(net, tmp_path)
    torch.testing.assert_close(embedded(path, name="iresnet18"), net(IMAGES), rtol=1e-5, atol=1e-5)


def test_folded_batch_normalisations_must_be_frozen(tmp_path):
    path = exported(with_statistics(ArcfaceTorch()), tmp_path)
    with pytest.raises(UserError, match=r"their statistics are lost: set backbone\.batch_norm=frozen"):
        embedded(path, name="iresnet18", batch_norm="synchronised")


@pytest.mark.parametrize("width, depth", [(16, "iresnet18"), (8, "iresnet34")])
def test_of_another_depth_or_width(width, depth, tmp_path):
    path = exported(with_statistics(ArcfaceTorch()), tmp_path)
    with pytest.raises(UserError, match="holds iresnet18 in ONNX of width 8, the network"):
        embedded(path, name=depth, width=width)


def test_other_graphs_are_one_line(tmp_path):
    path = exported(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 16)), tmp_path)
    with pytest.raises(
        UserError, match=r"neither an IResNet \(PRelu expected, Relu found\) nor a MobileFaceNet"
    ) as one:
        files.read(path)
    assert "\n" not in str(one.value)


def test_a_layer_after_the_embedding_is_not_dropped(tmp_path):
    path = exported(nn.Sequential(with_statistics(ArcfaceTorch()), nn.Sigmoid()), tmp_path)
    with pytest.raises(UserError, match="Sigmoid after the embedding"):
        files.read(path)


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match=r"onnx cannot read it \(\w+\); give a valid ONNX file"):
        files.read(tmp_path / "net.onnx")
