"""Every quantity of an opened run against the equations in float64; files that are no pictures."""

import numpy as np
import pytest
import torch
from by_hand import see_by_hand
from PIL import Image
from runs import write_random_run

from facelt.errors import UserError
from facelt.figures.opened import OpenedRun, PictureFiles, SomeImages, picture
from facelt.images.one_pass import each_batch

CPU = torch.device("cpu")
HEADS = [
    {},
    {"hallucinator": "linear"},
    {"retrieval": "cosine", "temperature": 5},
    {"retrieval": "mean"},
    {"attention": False},
]


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_all_that_a_meta_run_sees_by_hand(tmp_path, dataset, head):
    run = write_random_run(tmp_path / "run", 5, head=head)
    want = see_by_hand(run, dataset)
    (batch,) = each_batch(OpenedRun.of(run, CPU).see, dataset, OpenedRun.of(run, CPU).decoding(30), "images")
    seen = batch.output
    v = seen.embeddings
    pairs = {
        "direct": (seen.direct_BD, want.direct),
        "e": (seen.concept_BD, want.e),
        "o": (seen.coefficients_BK, want.o),
        "memory": (v.memory_BD, want.memory),
        "infused": (v.infused_BD, want.infused),
        "reach": (v.reach_B, want.reach),
        "meta": (v.meta_BD, want.meta),
        "probabilities": (seen.probabilities_BK, want.probabilities),
    }
    assert (seen.attended is None) == (want.spatial is None)
    if seen.attended is not None:
        pairs["spatial"] = (seen.attended.spatial_BHW, want.spatial)
        pairs["share"] = (seen.attended.share_B, want.share)
    for name, (got, by_hand) in pairs.items():
        torch.testing.assert_close(got.double(), by_hand, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_a_plain_run_has_a_classifier_and_no_memory(tmp_path, dataset, classifier):
    run = write_random_run(tmp_path / "run", 5, plain_head={"classifier": classifier})
    opened = OpenedRun.of(run / "plain", CPU)
    (batch,) = each_batch(opened.see, dataset, opened.decoding(30), "images")
    assert batch.output.embeddings is None
    assert batch.output.attended is None
    if classifier == "linear":
        want = see_by_hand(run / "plain", dataset).probabilities
        torch.testing.assert_close(batch.output.probabilities_BK.double(), want, rtol=1e-3, atol=1e-4)
    else:
        weight = opened.head.classifier.weight
        cosines = torch.nn.functional.cosine_similarity(batch.output.direct_BD[:, None], weight[None], dim=2)
        torch.testing.assert_close(batch.output.probabilities_BK, torch.softmax(64 * cosines, 1), rtol=1e-3, atol=1e-4)
    for ask in (opened.need_memory, opened.need_attention):
        with pytest.raises(UserError, match=r"draw it: .*run/plain"):
            ask("draw it")


def test_some_images_of_a_set_are_those(dataset):
    some = SomeImages(dataset, np.array([7, 2]))
    assert len(some) == 2
    assert some.labels.tolist() == dataset.labels[[7, 2]].tolist()
    assert some.keys.tolist() == dataset.keys[[7, 2]].tolist()
    assert some.jpeg(0).tobytes() == dataset.jpeg(7).tobytes()


def test_a_picture_stands_upright(tmp_path):
    lying = Image.new("RGB", (40, 20))
    tags = lying.getexif()
    tags[0x0112] = 6
    lying.save(tmp_path / "a.jpg", exif=tags)
    assert picture((tmp_path / "a.jpg").read_bytes()).size == (20, 40)
    assert PictureFiles.of([tmp_path / "a.jpg"]).image_size == (40, 20)


def test_files_that_are_no_pictures_are_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:80])
    for name, said in (("none.jpg", "no such file"), ("text.jpg", "not a picture"), ("half.png", "cannot be read")):
        with pytest.raises(UserError, match=f"--image .*{name}: {said}"):
            PictureFiles.of([tmp_path / name])
    with pytest.raises(UserError, match="cannot be read"):
        PictureFiles.of([tmp_path])
