"""A network measured: alike at any number of ranks, as a dense loop says, and left as it was."""

import json
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import K, halves, tiny
from faces import write_faces
from PIL import Image
from ranks import run_ranks

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.head.prototype_head import PrototypeHead
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.validation import figures
from facelt.validation.validator import Validator
from recordio_tools.dataset import RecordDataset
from recordio_tools.sources.bins import read_pack

sys.path.insert(0, str(Path(__file__).parent))
from sets_of_faces import write_sets

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training set and a validation set of each kind."""
    folder = tmp_path_factory.mktemp("validation")
    write_faces(folder / "train", classes=K)
    (folder / "sets.json").write_text(json.dumps(write_sets(folder, K)))
    return folder


def configured(folder: Path, **knobs) -> FaceltConfig:
    config = tiny("synchronised").model_dump()
    config["validation"] = {**json.loads((folder / "sets.json").read_text()), "many": 7, "few": 2, **knobs}
    return FaceltConfig.model_validate(config)


def network(stage: str, config: FaceltConfig):
    embedder, head = halves("meta" if stage == "meta" else "plain", "synchronised", config=config)
    if stage == "memory":
        partition = Partition(K, group.rank(), group.world_size())
        head = PrototypeHead(config, partition, torch.full((K,), 6))
        rows = torch.randn(K, 16, generator=torch.Generator().manual_seed(2))
        head.memory.centroids.copy_(rows[slice(*partition.bounds())])
    return embedder, head


def measured(folder: str, stage: str) -> dict:
    """The figures, whether modes and tensors are what they were, and torch's random numbers that follow."""
    config = configured(Path(folder))
    embedder, head = network(stage, config)
    embedder.train()
    embedder.backbone.layer1.eval()
    before = [t.clone() for module in (embedder, head) for t in module.state_dict().values()]
    state = torch.random.get_rng_state()
    validator = Validator.of(config, RecordDataset(Path(folder) / "train"), (stage,), CPU)
    found = validator(embedder, head)
    after = [t for module in (embedder, head) for t in module.state_dict().values()]
    modes = [embedder.training, embedder.neck.training, embedder.backbone.layer1.training, head.training]
    same = all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    same &= torch.equal(state, torch.random.get_rng_state())
    return {"figures": found, "same": same, "modes": modes, "names": validator.figures(stage)}


@pytest.mark.parametrize("stage", ["plain", "meta", "memory"])
def test_figures_are_alike_at_any_number_of_ranks_and_nothing_moves(folder, stage):
    alone, *_ = run_ranks(1, measured, str(folder), stage)
    assert list(alone["figures"]) == alone["names"] or set(alone["figures"]) == set(alone["names"])
    assert alone["same"]
    assert alone["modes"] == [True, True, False, True]
    for ranks in (2, 3):
        for one in run_ranks(ranks, measured, str(folder), stage):
            assert one["same"]
            assert one["figures"] == pytest.approx(alone["figures"], abs=1e-9)
    assert ("toy.meta.accuracy" in alone["figures"]) == (stage == "meta")
    assert ("val.memory.all" in alone["figures"]) == (stage != "plain")
    assert "held.tar_1e-3" not in alone["figures"], "324 pairs are too few"


def decoded(encoded: list[bytes]) -> torch.Tensor:
    images = np.stack([np.asarray(Image.open(BytesIO(image))) for image in encoded])
    return (torch.from_numpy(images).permute(0, 3, 1, 2).double() - 127.5) / 127.5


def test_the_figures_are_those_of_a_dense_pass(folder):
    config = configured(folder)
    embedder, head = network("plain", config)
    sets = config.validation

    def features(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return embedder.double().eval()(images).direct_BD

    pack = read_pack(sets.packs[0])
    images = decoded(pack.images)
    held, val = RecordDataset(sets.strangers[0]), RecordDataset(sets.known[0])
    rows = {one: features(decoded([one.jpeg(i).tobytes() for i in range(len(one))])) for one in (held, val)}
    named = (rows[val] @ head.classifier.weight.double().T + head.classifier.bias.double()).argmax(1).numpy()
    want = figures.of_pairs((features(images) + features(images.flip(3))).numpy(), pack.same)
    strangers = figures.of_strangers(rows[held].numpy(), held.labels, "held")
    embedder.float()
    got = Validator.of(config, RecordDataset(folder / "train"), ("plain",), CPU)(embedder, head)
    assert got["toy.accuracy"] == want["accuracy"]
    assert got["held.rank_1"] == strangers["rank_1"]
    assert got["val.classifier.all"] == (named == val.labels).mean()
    assert got["val.classifier.medium"] == pytest.approx(got["val.classifier.all"]), "six images a class"
    assert "val.classifier.many" not in got


def test_a_run_without_sets_has_no_validator_and_idle_knobs_are_told(folder, capsys):
    train = RecordDataset(folder / "train")
    assert Validator.of(tiny("local"), train, ("plain",), CPU) is None
    assert "validation" not in capsys.readouterr().err
    config = FaceltConfig.model_validate({"validation": {"share": 0.5}})
    assert Validator.of(config, train, ("plain",), CPU) is None
    assert "no set is given" in capsys.readouterr().err


def test_an_unknown_figure_to_keep_the_best_by_is_answered_with_the_known_ones(folder, capsys):
    train = RecordDataset(folder / "train")
    with pytest.raises(UserError, match=r"keep_best is lfw.accuracy; expected one of: toy.accuracy, held.rank_1, val"):
        Validator.of(configured(folder, keep_best="lfw.accuracy"), train, ("plain",), CPU)
    with pytest.raises(UserError, match=r"keep_best is held.tar_1e-4"):  # which so few pairs cannot tell
        Validator.of(configured(folder, keep_best="held.tar_1e-4"), train, ("plain", "meta"), CPU)
    assert Validator.of(configured(folder, keep_best="val.memory.all"), train, ("plain", "meta"), CPU)
    assert "stage plain has no val.memory.all: its best is told by toy.accuracy" in capsys.readouterr().err
