"""A trained recogniser without ranks gives what the checkpoint's own recogniser gives, of every kind of head."""

import pytest
import torch
from runs import write_random_prototypes, write_random_run

from facelt.errors import UserError
from facelt.features.facts import RecogniserFacts
from facelt.features.portable import PortableNetwork, as_recogniser, from_run
from facelt.features.recognisers import from_checkpoint
from facelt.head.meta_embedding import EMBEDDINGS
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint

K = 6
CPU = torch.device("cpu")
HEADS = {
    "released": {},
    "linear": {"head": {"hallucinator": "linear", "squash": "paper"}},
    "cosine": {"preset": "cosine", "head": {"selector": "released"}},
    "mean": {"head": {"retrieval": "mean"}},
    "no memory": {"head": {"memory": False, "attention_on": "features"}},
    "no reach": {"head": {"reach": False}, "products": "bfloat16"},
}


def images(n: int = 7) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def assert_alike(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.shape == want.shape
    assert (got - want).norm() <= 1e-4 * want.norm()


@pytest.mark.parametrize("kind", HEADS)
def test_every_embedding_of_every_head(kind, tmp_path):
    folder = checkpoint.find(write_random_run(tmp_path / "run", K, **HEADS[kind]))
    for embedding in EMBEDDINGS:
        want = from_checkpoint(folder, (embedding,), CPU, exact=True).embed(images())
        network = from_run(folder, embedding, identify=False, inside=False)
        got = as_recogniser(network, CPU, {}).embed(images())
        assert_alike(got.features[0], want.features[0])
        if embedding != "direct":
            assert_alike(got.columns["reachability"], want.columns["reachability"])
        inside = from_run(folder, embedding, identify=False, inside=True)
        assert_alike(inside(images() * 127.5 + 127.5)[0], want.features[0])


def test_prototypes(tmp_path):
    folder = checkpoint.find(write_random_prototypes(tmp_path / "run", K))
    want = from_checkpoint(folder, ("direct",), CPU).embed(images())
    direct_BD, identity_B, cosine_B = from_run(folder, "direct", identify=True, inside=False)(images())
    assert_alike(direct_BD, want.features[0])
    assert_alike(cosine_B, want.columns["cosine"])
    centroids = checkpoint.read_rows(folder, Partition(K))["memory.centroids"]
    cosines = torch.nn.functional.cosine_similarity(direct_BD[:, None], centroids[None], dim=2)
    assert identity_B.tolist() == cosines.argmax(1).tolist()
    assert len(from_run(folder, "direct", identify=False, inside=False)(images())) == 1


def test_what_a_run_does_not_give_is_refused(tmp_path):
    run = write_random_run(tmp_path / "run", K)
    with pytest.raises(UserError, match="is of stage plain, which has only direct; give a meta run"):
        from_run(checkpoint.find(run / "plain"), "meta", identify=False, inside=False)
    with pytest.raises(UserError, match="is of stage meta; give a run with stage memory"):
        from_run(checkpoint.find(run / "meta"), "direct", identify=True, inside=False)


def test_facts_pass_through_a_files_metadata_and_name_no_place(tmp_path):
    folder = checkpoint.find(write_random_run(tmp_path / "run", K, data="/home/me/data", output="/home/me/run"))
    network = from_run(folder, "meta", identify=False, inside=True)
    text = network.facts.model_dump_json()
    assert "/home/me" not in text
    read = RecogniserFacts.read(text, "m.onnx")
    assert read == network.facts
    assert (read.fed_mean, read.fed_std) == ((0, 0, 0), (1, 1, 1))
    again = PortableNetwork(read)
    again.load(network.tensors(), "m.onnx")
    torch.testing.assert_close(again(images())[0], network(images())[0])
    with pytest.raises(UserError, match="its tensors are not those of its configuration"):
        again.load({"neck.fc.weight": torch.zeros(1)}, "m.onnx")
    with pytest.raises(UserError, match="its metadata is of another version of facelt"):
        RecogniserFacts.read('{"format": 2}', "m.onnx")
