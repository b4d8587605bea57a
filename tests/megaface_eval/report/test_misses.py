"""The worst misses."""

import numpy as np
from PIL import Image
from small_sets import report_in

from megaface_eval.features.feature_set import load_features, write_features
from megaface_eval.report.misses import THUMBNAIL, _image, thumbnail_of


def test_misses_are_the_widest_margins_with_thumbnails(made):
    misses = report_in(made / "report-bad_one")["methods"][0]["misses"]
    margins = [miss["distractor_score"] - miss["mate_score"] for miss in misses]
    assert margins == sorted(margins, reverse=True)
    assert min(margins) > 0
    for miss in misses:
        probe, mate, distractor = miss["images"]
        assert probe["thumbnail"].startswith("data:image/jpeg;base64,")
        assert probe["path"] == f"p{probe['row']}.png"
        assert probe["row"] // 5 == mate["row"] // 5
        assert distractor["thumbnail"] is None
        assert miss["rank"] > 1
    assert len({miss["images"][0]["row"] for miss in misses}) == len(misses)


def test_hits_are_the_narrowest_margins(made):
    method = report_in(made / "report-bad_one")["methods"][0]
    hits = method["hits"]
    margins = [hit["mate_score"] - hit["distractor_score"] for hit in hits]
    assert margins == sorted(margins)
    assert min(margins) >= 0
    assert {hit["rank"] for hit in hits} == {1}
    assert len({hit["images"][0]["row"] for hit in hits}) == len(hits) > 1
    assert hits[0]["images"][0]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert "Closest hits: bad_one" in (made / "report-bad_one/report.html").read_text(encoding="utf-8")


def test_a_file_that_is_no_image_has_no_thumbnail(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"not an image")
    assert thumbnail_of(tmp_path / "x.jpg") is None
    assert thumbnail_of(tmp_path / "missing.jpg") is None
    Image.fromarray(np.zeros((900, 300), np.uint8)).save(tmp_path / "tall.png")
    assert len(thumbnail_of(tmp_path / "tall.png")) < 3000
    assert 2 * THUMBNAIL < 300


def test_a_file_name_that_is_no_utf_8_is_found_and_shown(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "\udcff.png")
    write_features(tmp_path / "f", np.eye(2, dtype=np.float32), np.zeros(2, int))
    (tmp_path / "f" / "paths.txt").write_bytes(b"\xff.png\nother.png\n")
    image = _image("probe", load_features(tmp_path / "f"), 0, tmp_path)
    assert image.thumbnail is not None
    assert image.path == "\ufffd.png"
    assert "\ufffd.png" in image.model_dump_json()
