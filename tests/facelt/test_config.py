"""The "facelt" block: presets, overrides, and mistakes answered in one line that names the way out."""

import json
from pathlib import Path

import pytest

from facelt.config import FACE_PIXELS, IMAGENET_PIXELS, PRESETS, FaceltConfig, MetaHeadConfig, load
from facelt.training.schedule import Schedule

JOBS = Path(__file__).parents[2] / "jobs"


def write(tmp_path: Path, block: object) -> Path:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"train_batch_size": 8, "facelt": block}))
    return path


def test_the_jobs_are_valid_and_ds_json_is_the_recipe_for_ms1m_lt():
    for path in sorted(JOBS.glob("*.json")):
        load(path)
    ds, config = load(JOBS / "ds.json")
    assert ds["optimizer"] == {"type": "SGD", "params": {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}}
    assert ds["torch_autocast"]["enabled"]
    assert (config.backbone.name, config.embedding_size, config.image_size) == ("resnet50", 512, 112)
    for stage in (config.plain, config.meta):
        rates = [Schedule(stage, 1, 1).learning_rate(0.01, epoch) for epoch in (0, 9, 10, 19, 20, 29)]
        assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])
        assert stage.epochs == 30
    assert config.meta.sampler == "class_aware"


def test_each_row_of_the_disagreement_between_paper_and_code_is_in_both_presets():
    released = FaceltConfig().head
    paper = FaceltConfig(preset="paper").head
    values = {
        "hallucinator": ("softmax", "linear"),
        "reach_scale": (10, 1),
        "squash": ("released", "paper"),
        "scale": (16, 1),
        "reduction": ("mean", "sum"),
        "centroid_loss": ("released", "paper"),
        "centroid_weight": (0.01, 0.1),
        "centroid_margin": (10, 5),
        "centroid_gradient": (False, True),
        "centroid_update": ("released", "gradient"),
    }
    for knob, (code, print_) in values.items():
        assert (getattr(released, knob), getattr(paper, knob)) == (code, print_)
    assert set(PRESETS["paper"]) | set(PRESETS["cosine"]) <= set(MetaHeadConfig.model_fields)


def test_a_knob_overrides_its_preset_and_a_configuration_survives_json(tmp_path):
    _, config = load(write(tmp_path, {"preset": "paper", "head": {"scale": 30}}))
    assert config.head.scale == 30
    assert config.head.squash == "paper"
    assert FaceltConfig.model_validate(json.loads(json.dumps(config.model_dump()))) == config


@pytest.mark.parametrize("preset", ["released", "paper", "cosine", "facelt"])
def test_a_preset_leaves_out_what_a_switch_makes_idle(preset):
    for switch in ({"memory": False}, {"reach": False}, {"classify": "meta"}, {"attention": False}):
        config = FaceltConfig.model_validate({"preset": preset, "head": switch})
        assert FaceltConfig.model_validate(config.model_dump()) == config
    head = FaceltConfig.model_validate({"preset": preset, "head": {"memory": False}}).head
    assert (head.retrieval, head.mask_own, head.selector) == ("hallucinator", 0, "released")
    with_reach = FaceltConfig.model_validate({"preset": "paper", "head": {"memory": False}}).head
    assert with_reach.reach_scale == 1, "what still does something stays the preset's"


@pytest.mark.parametrize(
    "name, width, neck, pixels",
    [
        ("resnet50", 64, "linear", IMAGENET_PIXELS),
        ("iresnet50", 64, "arcface", FACE_PIXELS),
        ("ir101", 64, "arcface", FACE_PIXELS),
        ("mobilefacenet", 128, "depthwise", FACE_PIXELS),
    ],
)
def test_defaults_that_depend_on_the_network(name, width, neck, pixels):
    config = FaceltConfig.model_validate({"backbone": {"name": name, "init": "weights.pth"}})
    assert (config.backbone.width, config.backbone.neck) == (width, neck)
    assert {knob: getattr(config, knob) for knob in pixels} == pixels
    assert FaceltConfig.model_validate(json.loads(json.dumps(config.model_dump()))) == config
    told = FaceltConfig.model_validate({"backbone": {"name": name, "width": 192, "neck": "relu"}}).backbone
    assert (told.width, told.neck) == (192, "relu")


def test_set_reaches_the_block_and_deepspeed(tmp_path):
    path = write(tmp_path, {})
    overrides = ["plain.epochs=0.5", "ds.train_batch_size=16", "backbone.name=resnet10", "ds.optimizer.params.lr=1e-3"]
    ds, config = load(path, overrides)
    assert config.plain.epochs == 0.5
    assert config.backbone.name == "resnet10"
    assert (ds["train_batch_size"], ds["optimizer"]["params"]["lr"]) == (16, 1e-3)


@pytest.mark.parametrize(
    "block, words",
    [
        ({"epocs": 3}, ["facelt.epocs is not a known key", "plain", "seed"]),
        ({"plain": {"epocs": 3}}, ["facelt.plain.epocs is not a known key", "epochs", "sampler"]),
        ({"head": {"hallucinater": "softmax"}}, ["facelt.head.hallucinater", "hallucinator"]),
        ({"plain": {"epochs": -1}}, ["facelt.plain.epochs is -1", "greater than or equal to 0"]),
        ({"head": {"centroid_on": "squashed"}}, ["facelt.head: centroid_on needs", "paper"]),
        ({"meta": {"epochs": 0}}, ["meta.epochs 0 trains nothing"]),
        ({"memory": {"centroid_lr": 2}}, ["memory.centroid_lr does nothing"]),
        ({"memory_head": {"margin": 0, "margin_power": 1}}, ["memory_head: margin_power does nothing"]),
        ({"memory_head": {"weight": 0, "prior": 1}}, ["memory_head: prior does nothing"]),
        ({"backbone": {"name": "resnet51"}}, ["facelt.backbone.name is 'resnet51'", "resnet50"]),
        ({"backbone": {"name": "timm"}}, ["facelt.backbone", "with timm null", "set both"]),
        ({"backbone": {"timm": "vit_small_patch16_224"}}, ["facelt.backbone", 'name "resnet50" with timm', "set both"]),
        ({"backbone": {"name": "timm", "timm": "x", "width": 32}}, ["facelt.backbone: width does nothing", "timm"]),
        ({"backbone": {"name": "timm", "timm": "x", "checkpointing": True}}, ["facelt.backbone: checkpointing does"]),
        ({"backbone": {"name": "timm", "timm": "x", "channels_last": True}}, ["facelt.backbone: channels_last does"]),
        ({"backbone": {"name": "timm", "timm": "x", "neck": "depthwise"}}, ["facelt.backbone", "needs a map"]),
        (
            {"backbone": {"name": "ir50", "channels_last": True}},
            ["facelt.backbone: channels_last is for ResNets", "ir50"],
        ),
        ({"backbone": {"name": "iresnet50", "stem": "face"}}, ["facelt.backbone: stem does nothing", "iresnet50"]),
        ({"backbone": {"name": "mobilefacenet", "width": 32}}, ["facelt.backbone: width 32", "a multiple of 64"]),
        ({"backbone": {"init_channels": "bgr"}}, ["facelt.backbone: init_channels needs init"]),
        ({"plain_head": {"classifier_start": "means"}}, ["facelt.plain_head: classifier_start needs", "cosine"]),
        ({"plain": {"centroid_lr": 2}}, ["plain.centroid_lr does nothing", "leave it out"]),
        ({"preset": "cosine", "meta": {"centroid_lr": 2}}, ["meta.centroid_lr does nothing", "leave it out"]),
        ({"pixel_std": [1, 0, 1]}, ["facelt.pixel_std.1 is 0", "greater than 0"]),
        ({"pixel_mean": 127.5}, ["facelt.pixel_mean is 127.5"]),
        ({"validation": {"packs": ["a/lfw.bin", "b/lfw.bin"]}}, ["a/lfw.bin and b/lfw.bin are both called lfw"]),
        ({"validation": {"packs": ["a/lfw.bin"], "known": ["lfw/"]}}, ["both called lfw"]),
        ({"validation": {"every": 1.5, "unit": "steps"}}, ["every 1.5 steps; expected a whole number"]),
        ({"validation": {"few": 100}}, ["few 100 is not below many 100"]),
        ({"validation": {"packs": 3}}, ["facelt.validation.packs is 3"]),
        ({"validation": {"pack": "lfw.bin"}}, ["facelt.validation.pack is not a known key", "packs"]),
        ({"preset": "papper"}, ["facelt.preset is 'papper'", "released"]),
        ({"augment": {"flip": 2}}, ["facelt.augment.flip is 2"]),
        ({"resize": 111}, ["facelt: resize 111 is smaller than image_size 112", "leave it out"]),
        ({"augment": {"crop_kind": "fixed"}}, ["facelt: ", "fixed", "needs resize"]),
        ({"augment": {"crop_kind": "resized", "crop": 0.5}}, ["facelt.augment: crop needs", "square"]),
        (["plain"], ["facelt"]),
        ({"head": {"temperature": 8}}, ["facelt.head: temperature needs", "cosine"]),
        ({"head": {"refresh_every": 8}}, ["facelt.head: refresh_every needs", "refresh"]),
        ({"head": {"centroid_momentum": 0.5}}, ["facelt.head: centroid_momentum needs", "mean"]),
        ({"head": {"retrieval": "mean", "mask_own": 0.5}}, ["facelt.head: mask_own"]),
        ({"head": {"retrieval": "cosine", "hallucinator": "linear"}}, ["facelt.head", "linear"]),
        ({"head": {"centroid_loss": "paper"}}, ["facelt.head", "centroid_update"]),
        ({"head": {"centroid_update": "mean", "centroid_gradient": True}}, ["facelt.head: centroid_gradient"]),
        ({"head": {"centroid_update": "mean", "memory_weight_decay": 0.1}}, ["facelt.head: memory_weight_decay"]),
        ({"head": {"margin": "arcface"}}, ["facelt.head: margin", "set both, or neither"]),
        ({"plain_head": {"scale": 32}}, ["facelt.plain_head: scale needs", "cosine"]),
        ({"plain_head": {"classifier": "cosine", "margin_size": 0.3}}, ["facelt.plain_head: margin"]),
        ({"plain": {"sample_rate": 0}}, ["facelt.plain.sample_rate is 0"]),
        ({"plain": {"class_aware_from": 2}}, ["facelt.plain: class_aware_from needs", "class_aware"]),
        ({"meta": {"class_aware_from": 30}}, ["facelt.meta: class_aware_from 30", "epochs 30"]),
        ({"plain_head": {"classifier": "cosine", "learn_scales": True}}, ["plain_head: learn_scales needs", "linear"]),
        ({"plain_head": {"few_shot": 5}}, ["plain_head: few_shot needs", "cosine"]),
        ({"plain_head": {"classifier": "cosine", "few_shot": 5, "loss": "focal"}}, ["loss does nothing beside"]),
        (
            {"plain_head": {"classifier": "cosine", "few_shot": 5}, "plain": {"sample_rate": 0.5}},
            ["plain.sample_rate does nothing beside plain_head.few_shot"],
        ),
        ({"plain_head": {"restart": True, "learn_scales": True}}, ["restart and learn_scales", "take one"]),
        ({"meta": {"freeze_backbone": True, "freeze_network": True}}, ["meta: freeze_backbone does nothing beside"]),
        ({"plain_head": {"focal_gamma": 1}}, ["facelt.plain_head: focal_gamma needs", "focal"]),
        ({"plain_head": {"loss": "balanced_softmax", "tau": 2}}, ["facelt.plain_head: tau needs", "logit_adjusted"]),
        ({"plain_head": {"metric_margin": 2}}, ["facelt.plain_head: metric_margin needs", "lifted"]),
        ({"plain_head": {"metric": "lifted", "range_pairs": 3}}, ["facelt.plain_head: range_pairs needs", "range"]),
        (
            {"plain_head": {"classifier": "cosine", "loss": "balanced_softmax", "margin": "cosface", "margin_size": 1}},
            ["facelt.plain_head", "both shift the logits; take one"],
        ),
        ({"head": {"memory": False, "selector": "zero"}}, ["facelt.head: selector does nothing", '"memory": false']),
        ({"head": {"memory": False, "mask_own": 0.5}}, ["facelt.head: mask_own does nothing", '"memory": false']),
        ({"head": {"reach": False, "reach_scale": 1}}, ["facelt.head: reach_scale does nothing", '"reach": false']),
        ({"head": {"classify": "meta", "squash": "paper"}}, ["facelt.head: squash does nothing", '"meta"']),
        ({"head": {"attention": False, "attention_on": "features"}}, ["facelt.head: attention_on does nothing"]),
        (
            {"head": {"memory": False, "reach": False, "centroid_gradient": True, "centroid_update": "gradient"}},
            ["facelt.head: centroid_gradient does nothing"],
        ),
    ],
)
def test_a_mistake_in_the_block_is_one_line(tmp_path, block, words):
    with pytest.raises(ValueError, match="facelt") as caught:
        load(write(tmp_path, block))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_file_that_is_not_there_or_not_json(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list"):
        load(tmp_path / "list.json")
    (tmp_path / "five.json").write_text('{"facelt": 5}')
    with pytest.raises(ValueError, match="the block facelt is 5; expected an object"):
        load(tmp_path / "five.json", ["seed=3"])
    for override in ("plain.epochs", "=3", "seed.x=1"):
        with pytest.raises(ValueError, match="--set"):
            load(write(tmp_path, {"seed": 1}), [override])


def test_pixels_are_those_of_imagenet_where_the_network_starts_from_it():
    assert FaceltConfig().pixel_mean == (127.5,) * 3
    started = FaceltConfig.model_validate({"backbone": {"init": "resnet50.pth"}})
    assert started.pixel_mean == (123.675, 116.28, 103.53)
    assert started.pixel_std == (58.395, 57.12, 57.375)
    told = FaceltConfig.model_validate({"backbone": {"init": "faces.pth"}, "pixel_mean": [127.5] * 3})
    assert (told.pixel_mean, told.pixel_std) == ((127.5,) * 3, (58.395, 57.12, 57.375))
    assert FaceltConfig.model_validate(told.model_dump()) == told


def test_the_best_is_told_by_the_first_figure_of_the_first_set_unless_another_is_named():
    def main(**knobs) -> list[str | None]:
        config = FaceltConfig.model_validate({"validation": knobs})
        return [config.validation.main_figure(stage) for stage in ("plain", "meta", "memory")]

    assert main() == [None] * 3
    assert main(known="data/val/") == ["val.classifier.all", "val.classifier.all", "val.memory.all"]
    assert main(known="data/val", strangers=["held.out"]) == ["held.out.rank_1"] * 3
    assert main(known="data/val", strangers="held", packs="packs/lfw.bin") == ["lfw.accuracy"] * 3
    assert main(packs="lfw.bin", keep_best="lfw.meta.accuracy") == ["lfw.accuracy", "lfw.meta.accuracy", "lfw.accuracy"]
