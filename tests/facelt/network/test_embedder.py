"""The embedder: what each stage has, which tensors stage meta adds, and the shapes that come out."""

import pytest
import torch

from facelt.config import FaceltConfig
from facelt.network.embedder import Embedder

BLOCK = {"embedding_size": 16, "image_size": 32, "backbone": {"name": "resnet10", "width": 8}}


def embedder(meta: bool, **head) -> Embedder:
    return Embedder(FaceltConfig.model_validate({**BLOCK, "head": head}), meta).eval()


def test_stage_plain_gives_the_direct_feature_alone():
    direct, concept, temperature, generation = embedder(meta=False)(torch.zeros(2, 3, 32, 32))
    assert direct.shape == (2, 16)
    assert (concept, temperature, generation) == (None, None, None)


def test_without_a_memory_nothing_is_selected_from_it():
    meta = embedder(meta=True, memory=False)
    assert torch.equal(meta(torch.zeros(2, 3, 32, 32)).concept_BD, torch.ones(2, 16))
    assert not any(name.startswith("selector") for name in meta.state_dict())


@pytest.mark.parametrize("retrieval", ["hallucinator", "cosine"])
def test_stage_meta_gives_concept_and_temperature_where_the_memory_takes_one(retrieval):
    _, concept, temperature, _ = embedder(meta=True, retrieval=retrieval)(torch.zeros(2, 3, 32, 32))
    assert concept.shape == (2, 16)
    assert (temperature is None) == (retrieval == "hallucinator")


def test_a_neck_of_stage_metas_own_is_new_there_and_every_stage_may_have_none():
    backbone = {"name": "resnet10", "width": 8, "neck": "none", "meta_neck": "relu"}
    config = FaceltConfig.model_validate({**BLOCK, "backbone": backbone, "embedding_size": 64})
    plain, meta = Embedder(config, meta=False).eval(), Embedder(config, meta=True).eval()
    assert not any(name.startswith("neck.") for name in plain.state_dict())
    assert {"neck.fc.weight", "neck.fc.bias"} <= meta.added_names()
    assert (
        plain(torch.zeros(2, 3, 32, 32)).direct_BD.shape == meta(torch.zeros(2, 3, 32, 32)).direct_BD.shape == (2, 64)
    )


def test_few_shot_learning_without_forgetting_adds_a_generator_to_stage_plain_alone():
    config = FaceltConfig.model_validate({**BLOCK, "plain_head": {"classifier": "cosine", "few_shot": 3}})
    plain, memory = Embedder(config, meta=False).eval(), Embedder(config, meta=False, memory=True)
    assert plain(torch.zeros(2, 3, 32, 32)).generation.query_BD.shape == (2, 16)
    assert plain.added_names() == {name for name in plain.state_dict() if name.startswith("generator.")} != set()
    assert not any(name.startswith("generator.") for name in memory.state_dict())


@pytest.mark.parametrize(
    "head",
    [{}, {"attention": False}, {"retrieval": "cosine"}, {"memory": False}, {"attention_on": "features"}],
)
def test_what_stage_meta_adds_is_what_stage_plain_lacks(head):
    plain, meta = embedder(meta=False), embedder(meta=True, **head)
    assert meta.added_names() == meta.state_dict().keys() - plain.state_dict().keys()
    assert plain.added_names() == set()
