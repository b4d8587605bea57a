"""ResNet: torchvision's names and numbers, any width and stem, ways to run it, of an IResNet too."""

import shutil

import numpy as np
import pytest
import torch
import torchvision
from ranks import run_ranks

from facelt.network import backbone, iresnet, resnet
from facelt.network.batch_norm import FrozenBatchNorm2d
from facelt.network.blockwise import Blockwise
from facelt.parallel import collectives, group


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_is_torchvisions_network(name):
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    for module in theirs.modules():  # statistics that show
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    ours = backbone.build(name, 64, "imagenet", "synchronised").eval()
    ours.load_state_dict({n: t for n, t in theirs.state_dict().items() if not n.startswith("fc.")})
    images = torch.randn(2, 3, 64, 64)
    body = torch.nn.Sequential(*list(theirs.children())[:-2])
    torch.testing.assert_close(ours(images), body(images), rtol=1e-4, atol=1e-4)
    assert ours.channels == theirs.fc.in_features


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_deeper_ones_have_torchvisions_tensors(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)().state_dict()
        ours = backbone.build(name, 64, "imagenet", "local").state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items() if not n.startswith("fc.")}


@pytest.mark.parametrize("stem, side", [("imagenet", 4), ("face", 14)])
def test_stem_and_width(stem, side):
    net = backbone.build("resnet10", 16, stem, "frozen")
    assert net(torch.zeros(1, 3, 112, 112)).shape == (1, 128, side, side)
    assert isinstance(net.layer1[0].bn1, FrozenBatchNorm2d)


def tiny(batch_norm: str, blocks: int = 2, family: str = "resnet") -> Blockwise:
    """A stem and one or two residual blocks, the second with a downsampling: a compiler is done with it in seconds."""
    torch.manual_seed(0)
    if family == "iresnet":
        iresnet.DEPTHS["iresnet_tiny"] = [1, 1, 1, 1]
        return backbone.build("iresnet_tiny", 8, "imagenet", batch_norm).train()
    resnet.DEPTHS["tiny"] = (resnet.BasicBlock, [1, blocks - 1, 0, 0])
    return backbone.build("tiny", 8, "imagenet", batch_norm).train()


def two_steps(net: Blockwise, share: slice = slice(None)) -> dict:
    """Maps of this rank, gradients summed over the ranks, running statistics and names, after two batches."""
    images = torch.randn(2, 12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    maps = []
    for batch in images:
        maps.append(net(batch[share]))
        toward = torch.randn(12, *maps[-1].shape[1:], generator=torch.Generator().manual_seed(2))
        (maps[-1] * toward[share]).sum().backward()
    return {
        "maps": torch.stack(maps),
        "gradients": {name: collectives.all_sum(p.grad) for name, p in net.named_parameters()},
        "buffers": {name: buffer.double() for name, buffer in net.named_buffers()},
        "names": list(net.state_dict()),
        "contiguous": all(m.is_contiguous() for m in maps),
    }


def assert_same_run(got: dict, want: dict) -> None:
    assert got["names"] == want["names"]
    assert got["contiguous"]
    np.testing.assert_allclose(got["maps"], want["maps"], rtol=1e-5, atol=1e-5)
    for kind in ("gradients", "buffers"):
        for name, tensor in want[kind].items():
            largest = np.abs(tensor).max()
            np.testing.assert_allclose(got[kind][name], tensor, rtol=0, atol=2e-5 * largest, err_msg=name)


def switched(batch_norm: str, switches: dict[str, bool], blocks: int = 2, family: str = "resnet") -> dict:
    net = tiny(batch_norm, blocks, family)
    backbone.switch(net, **{"compile": False, "channels_last": False, "checkpointing": False, **switches})
    per_rank = 12 // group.world_size()
    return two_steps(net, slice(group.rank() * per_rank, (group.rank() + 1) * per_rank))


@pytest.mark.parametrize("switches", [{"checkpointing": True}, {"channels_last": True}], ids=lambda s: next(iter(s)))
@pytest.mark.parametrize("batch_norm", ["synchronised", "local", "frozen"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_switch_changes_no_number(switches, batch_norm, ranks):
    """Running statistics above all: recomputed blocks must not count a batch twice, nor may ranks wait in vain."""
    want = run_ranks(ranks, switched, batch_norm, {})
    moved = batch_norm != "frozen"
    assert want[0]["buffers"]["layer1.0.bn1.num_batches_tracked"] == (2 if moved else 0)
    for got, rank in zip(run_ranks(ranks, switched, batch_norm, switches), want, strict=True):
        assert_same_run(got, rank)


def test_checkpointing_changes_no_number_of_an_iresnet():
    want = run_ranks(2, switched, "synchronised", {}, 2, "iresnet")
    got = run_ranks(2, switched, "synchronised", {"checkpointing": True}, 2, "iresnet")
    for one, rank in zip(got, want, strict=True):
        assert_same_run(one, rank)


def test_checkpointing_keeps_the_input_of_a_block_alone():
    kept = {}
    for checkpointing in (False, True):
        net = tiny("synchronised")
        backbone.switch(net, compile=False, channels_last=False, checkpointing=checkpointing)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            net(torch.randn(2, 3, 32, 32)).sum().backward()
        kept[checkpointing] = len(sizes)
    assert kept[True] < kept[False] / 2


def compiled_in_one_graph() -> dict:
    """The compiler's backend that writes no C++: what is at stake is tracing through the collectives."""
    net = tiny("synchronised")
    net.compile(backend="aot_eager", fullgraph=True)
    per_rank = 12 // group.world_size()
    return two_steps(net, slice(group.rank() * per_rank, (group.rank() + 1) * per_rank))


def test_compiling_sees_through_the_collectives_of_two_ranks():
    want = run_ranks(2, switched, "synchronised", {})
    for got, rank in zip(run_ranks(2, compiled_in_one_graph), want, strict=True):
        assert_same_run(got, rank)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_it_is_the_same_network(checkpointing):
    (want,) = run_ranks(1, switched, "synchronised", {}, 1)
    (got,) = run_ranks(1, switched, "synchronised", {"compile": True, "checkpointing": checkpointing}, 1)
    assert_same_run(got, want)


def test_compile_without_a_compiler_is_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"backbone.compile needs the C\+\+ compiler no-such-compiler, not found"):
        backbone.switch(tiny("synchronised"), compile=True, channels_last=False, checkpointing=False)


def test_channels_last_needs_channels():
    narrow = backbone.build("resnet10", 4, "imagenet", "local")
    with pytest.raises(ValueError, match="channels_last with width 4; expected width 8 or more"):
        backbone.switch(narrow, compile=False, channels_last=True, checkpointing=False)
