"""The page holds what it must, and nothing from elsewhere; mistakes in one line."""

import html
import re

import pytest
from browser import by_axe, needs_axe, width_at
from faces import write_faces
from PIL import Image
from runs import write_random_run

from facelt import explain


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    write_faces(folder / "train", classes=4, images=8)
    (folder / "train" / "names.txt").write_text("Ann <3>\nBea\nCio\nDee\n")
    write_random_run(folder / "run", 4, backbone={"name": "resnet10", "width": 8, "stem": "face"})
    Image.new("RGB", (70, 50), "red").save(folder / "red.png")
    return folder


def arguments(folder, output, run="run", image="red.png", *more):
    named = ["--image", folder / image, "--data", folder / "train", "--output", output]
    return [str(word) for word in (folder / run, *named, *more)]


def test_the_page_of_a_meta_run(folder, tmp_path, capsys):
    assert explain.main(arguments(folder, tmp_path / "page.html", "run", "red.png", "--top", "2")) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'page.html'}\n"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for part in ('id="reachability"', 'id="selector"', 'id="nearest"', 'id="read"', 'id="norms"', "red.png"):
        assert part in page
    assert re.search(r"γ = \d+\.\d{3}", page)
    assert re.search(r"mean \|e\| = 0\.\d{3}", page)
    assert "modulated attention" in page
    assert "4 × 4 positions" in page
    assert len(re.findall(r'<th scope="row">.*training images', page)) == 4  # two tables of two
    faces = 6 * 5  # of four rows, and of the classifier's class
    assert len(re.findall(r'src="data:image/jpeg;base64,', page)) == faces + 2
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert html.escape("Ann <3>") in page or "Ann" not in page
    assert "<3>" not in page


@needs_axe
def test_axe_finds_nothing_serious_and_a_phone_shows_all_of_it(folder, tmp_path):
    page = tmp_path / "page.html"
    assert explain.main(arguments(folder, page, "run", "red.png", "--top", "2")) == 0
    for dark in (False, True):
        assert by_axe(page, tmp_path, dark=dark) == []
    assert width_at(page, 390, tmp_path)[0] == 390


def test_the_page_of_a_plain_run_says_what_it_lacks(folder, tmp_path):
    assert explain.main(arguments(folder, tmp_path / "page.html", "run/plain")) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "it has no memory, so there is no γ, no |e|" in page
    assert "Likeliest identities" in page
    assert not any(part in page for part in ('id="reachability"', 'id="norms"', "modulated attention"))


def test_mistakes(folder, tmp_path, capsys):
    (folder / "text.png").write_text("text")
    write_faces(tmp_path / "other", classes=3)
    (tmp_path / "there.html").touch()
    other = arguments(folder, tmp_path / "o.html")
    other[other.index("--data") + 1] = str(tmp_path / "other")
    for words, said in (
        (arguments(folder, tmp_path / "o.html", "run", "text.png"), "not a picture; give one (JPEG"),
        (arguments(folder, tmp_path / "o.html", "run", "none.png"), "no such file"),
        (arguments(folder, tmp_path / "o.html", "train"), "no checkpoint there"),
        (arguments(folder, tmp_path / "there.html"), "exists already"),
        (other, "has 3 classes, the run was trained on 4"),
        ([*arguments(folder, tmp_path / "o.html"), "--top", "0"], "whole number from 1"),
    ):
        with pytest.raises(SystemExit) as left:
            explain.main(words)
        assert left.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(lines) == 1, lines
        assert said in lines[0]
        assert not (tmp_path / "o.html").exists()
