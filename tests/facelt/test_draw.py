"""Every figure is written as what its name says; mistakes in one line, nothing half-written."""

import pytest
from faces import write_faces
from PIL import Image
from runs import write_random_run

from facelt import draw

KINDS = {
    "tsne": ["--train", "train", "--many", "7", "--few", "6", "--panels", "plain", "direct", "meta"],
    "neurons": ["--top", "2", "--faces", "3"],
    "neurons of images": ["--image", "red.png", "--top", "2", "--faces", "3"],
    "averages": ["--faces", "5"],
    "attention": ["--images", "3"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draw")
    write_faces(folder / "train", classes=4, images=8)
    write_random_run(folder / "run", 4)
    Image.new("RGB", (70, 50), "red").save(folder / "red.png")
    return folder


def words(kind, *more, run="run"):
    return [kind.split()[0], run, "--data", "train", *more]


@pytest.mark.parametrize("kind", KINDS)
def test_figures(folder, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(folder)
    out = tmp_path / "figure.png"
    assert draw.main([*words(kind, *KINDS[kind]), "--output", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {out}"
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


@pytest.mark.parametrize("suffix, begins", [("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")])
def test_the_name_says_the_kind(folder, tmp_path, monkeypatch, suffix, begins):
    monkeypatch.chdir(folder)
    out = tmp_path / f"figure.{suffix}"
    assert draw.main([*words("averages", "--faces", "5"), "--output", str(out)]) == 0
    assert out.read_bytes().startswith(begins)


MISTAKES = [
    (words("averages"), "o.jpg", "expected a name that ends with .png, .svg, .pdf"),
    (words("averages", run="train"), "o.png", "no checkpoint there"),
    (words("averages", run="run/plain"), "o.png", "without a meta head"),
    (words("attention", run="run/plain"), "o.png", "has no attention"),
    (words("neurons", "--image", "train/property"), "o.png", "not a picture"),
    (words("tsne", "--train", "train"), "o.png", "1 people with 8 images"),
    (words("tsne", "--train", "other"), "o.png", "--train other: has 3 classes, the run was trained on 4"),
    (words("tsne", "--train", "train", "--few", "200"), "o.png", "expected few below many"),
    (["cloud", "run"], "o.png", "invalid choice: 'cloud'"),
]


@pytest.mark.parametrize("given, name, said", MISTAKES, ids=[said for *_, said in MISTAKES])
def test_mistakes(folder, tmp_path, monkeypatch, capsys, given, name, said):
    monkeypatch.chdir(folder)
    if not (folder / "other").exists():
        write_faces(folder / "other", classes=3)
    more = ["--classes", "1"] if said == "1 people with 8 images" else []
    with pytest.raises(SystemExit) as left:
        draw.main([*given, *more, "--output", str(tmp_path / name)])
    assert left.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / name).exists()
