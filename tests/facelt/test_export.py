"""Exported files answer as their checkpoint does, or are not written; the card tells what they are."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from faces import write_faces
from runs import write_random_prototypes, write_random_run

from facelt import export, extract
from facelt.errors import UserError
from facelt.features import exporting
from facelt.features.exporting import Trial
from facelt.features.facts import METADATA_KEY, RecogniserFacts
from facelt.features.recognisers import from_checkpoint
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from recordio_tools.dataset import RecordDataset

K = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_random_run(tmp_path_factory.mktemp("export") / "run", K)
    return write_random_prototypes(folder, K)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("export") / "data", classes=K, images=3)


def pixels(data) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in export.pictures(str(data), 32)])


def want(folder, embedding: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the checkpoint's own recogniser says of images of 0 … 255."""
    recogniser = from_checkpoint(checkpoint.find(folder), (embedding,), torch.device("cpu"), exact=True)
    said = recogniser.embed(torch.from_numpy((images.transpose(0, 3, 1, 2) - 127.5) / 127.5).float())
    return {"features": said.features[0].numpy()} | {name: column.numpy() for name, column in said.columns.items()}


def answers(path, images: np.ndarray, inside: bool = True) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path))
    fed = images.transpose(0, 3, 1, 2).astype(np.float32)
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": fed if inside else (fed - 127.5) / 127.5}), strict=True))


def assert_alike(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name, values in wanted.items():
        scale = np.linalg.norm(values, axis=1, keepdims=True) if values.ndim == 2 else np.abs(values).clip(1)
        assert (np.abs(got[name] - values) / scale).max() < 1e-4, name


def test_the_direct_feature_at_any_batch(run, data, tmp_path):
    path, images = tmp_path / "m.onnx", pixels(data)
    assert export.main([str(run / "plain"), "--onnx", str(path)]) == 0
    for part in (images, images[:1], images[:3]):
        got = answers(path, part)
        assert list(got) == ["features"]
        assert_alike(got, want(run / "plain", "direct", part))
    assert [(node.op_type, node.name) for node in onnx_graph(path).node][:2] == [
        ("Sub", "Sub_pixels"),
        ("Mul", "Mul_pixels"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def onnx_graph(path):
    import onnx

    return onnx.load(str(path)).graph


def test_prototypes_say_who_it_is(run, data, tmp_path):
    path, images = tmp_path / "m.onnx", pixels(data)
    assert export.main([str(run / "memory"), "--onnx", str(path), "--identify"]) == 0
    got, wanted = answers(path, images), want(run / "memory", "direct", images)
    assert_alike(got, wanted)
    centroids = checkpoint.read_rows(checkpoint.find(run / "memory"), Partition(K))["memory.centroids"].numpy()
    cosines = wanted["features"] @ centroids.T
    cosines /= np.linalg.norm(wanted["features"], axis=1)[:, None] * np.linalg.norm(centroids, axis=1)
    np.testing.assert_array_equal(got["identity"], cosines.argmax(1))
    said = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    facts = RecogniserFacts.read(said[METADATA_KEY], path)
    assert (facts.stage, facts.step, facts.classes, facts.threshold, facts.temperature) == ("memory", 4, K, 0.25, 16)
    assert said["input"] == "N x 3 x 32 x 32 float32, RGB, 0 … 255"


def test_extract_reads_what_was_exported_as_it_reads_the_run(run, data, tmp_path):
    path, common = tmp_path / "m.onnx", ["--data", str(data), "--batch", "4"]
    assert export.main([str(run / "meta"), "--onnx", str(path), "--embedding", "meta", "--data", str(data)]) == 0
    assert_alike(answers(path, pixels(data)), want(run / "meta", "meta", pixels(data)))
    assert extract.main(["--onnx", str(path), *common, "--output", str(tmp_path / "file")]) == 0
    whole = ["--checkpoint", str(run / "meta"), "--embedding", "meta", *common]
    assert extract.main([*whole, "--output", str(tmp_path / "run")]) == 0
    for name in ("features.npy", "reachability.npy"):
        got, wanted = (np.load(tmp_path / folder / name) for folder in ("file", "run"))
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    assert json.loads((tmp_path / "file" / "meta.json").read_text())["embedding"] == "meta"


def test_a_large_memory_lies_beside_the_model(run, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exporting, "LARGEST", 1000)
    path, images = tmp_path / "m.onnx", pixels(data)
    arguments = [str(run / "meta"), "--onnx", str(path), "--embedding", "meta", "--pixels", "outside"]
    path.write_text("an older one")
    assert export.main([*arguments, "--force"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert "weights in m.onnx.data" in capsys.readouterr().err
    assert_alike(answers(path, images, inside=False), want(run / "meta", "meta", images))


def test_int8_says_what_it_costs(run, data, tmp_path, capsys):
    path, images = tmp_path / "m.onnx", pixels(data)
    assert export.main([str(run / "plain"), "--onnx", str(path), "--int8"]) == 0
    said = capsys.readouterr().err
    assert "INT8: cosine to float32" in said
    assert "of its size" in said
    assert "of its processor time" in said
    kinds = {node.op_type for node in onnx_graph(path).node}
    assert "ConvInteger" in kinds
    got, wanted = answers(path, images)["features"], want(run / "plain", "direct", images)["features"]
    cosines = (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() > 0.9


def test_an_answer_that_differs_is_seen_and_nothing_is_written(run, tmp_path, monkeypatch, capsys):
    wanted = {"features": np.eye(3), "cosine": np.array([1.0, 1.0, 1.0])}
    trial = Trial(np.zeros((3, 4, 4, 3), np.uint8), wanted, np.eye(3))
    right = {**wanted, "identity": np.array([0, 1, 2])}
    assert trial.furthest(right) == 0
    assert trial.furthest({**right, "features": np.eye(3) + np.array([2e-4, 0, 0])}) == pytest.approx(2e-4)
    assert trial.furthest({**right, "cosine": np.array([1.0, 0.5, 1.0])}) == 0.5
    assert trial.furthest({**right, "identity": np.array([0, 1, 1])}) == 1
    assert trial.furthest({**right, "features": np.eye(3) * np.nan}) == np.inf
    with pytest.raises(UserError, match="not written"):
        trial.check(lambda pixels: {"features": np.ones((len(pixels), 3))}, tmp_path / "m.onnx")
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    assert "its answers differ" in refused(capsys, str(run / "plain"), "--safetensors", str(tmp_path / "m.safetensors"))
    assert list(tmp_path.iterdir()) == []


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        export.main(list(words))
    assert left.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_mistakes(run, tmp_path, capsys, monkeypatch):
    onnx, plain = ["--onnx", str(tmp_path / "m.onnx")], str(run / "plain")
    answer = refused(capsys, plain, *onnx, "--embedding", "meta")
    assert answer.endswith("of stage plain, which has only direct; give a meta run")
    assert "is of stage plain; give a run with stage memory" in refused(capsys, plain, *onnx, "--identify")
    assert "nothing to write" in refused(capsys, plain)
    assert "no checkpoint there" in refused(capsys, str(tmp_path), *onnx)
    assert "--int8 is of --onnx" in refused(capsys, plain, "--card", str(tmp_path / "c.md"), "--int8")
    assert "--report is of --card" in refused(capsys, plain, *onnx, "--report", str(tmp_path))
    assert "ends in .safetensors" in refused(capsys, plain, "--safetensors", str(tmp_path / "m.bin"))
    (tmp_path / "there").write_text("mine")
    assert "exists already" in refused(capsys, plain, "--onnx", str(tmp_path / "there"))
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert "--onnx needs onnxscript: pip install 'facelt[export]'" in refused(capsys, plain, *onnx)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_card_is_what_hugging_face_reads(run, tmp_path, capsys):
    yaml = pytest.importorskip("yaml")
    report = tmp_path / "report"
    report.mkdir()
    (report / "table.md").write_text("| top-1 |\n| --- |\n| 51.2 [48.0, 54.4] |\n")
    source = {"stage": "meta", "step": 3, "data": "/somewhere/test"}
    (report / "report.json").write_text(json.dumps({"source": source}))
    card = tmp_path / "README.md"
    assert export.main([str(run / "meta"), "--card", str(card), "--report", str(report)]) == 0
    _, front, text = card.read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(front)
    assert (facts["library_name"], facts["pipeline_tag"]) == ("facelt", "image-feature-extraction")
    assert "face-recognition" in facts["tags"]
    assert "51.2 [48.0, 54.4]" in text
    assert "/somewhere" not in text
    for heading in ("Use", "Training data", "Recipe", "Figures", "Responsible use"):
        assert f"\n## {heading}\n" in text
    recipe = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert recipe["facelt"]["embedding_size"] == 16
    (report / "report.json").write_text(json.dumps({"source": {**source, "step": 9}}))
    arguments = [str(run / "meta"), "--card", str(tmp_path / "two.md"), "--report"]
    assert "is of meta step 9, the checkpoint is of meta step 3; give its own" in refused(
        capsys, *arguments, str(report)
    )
    assert "no report there" in refused(capsys, *arguments, str(tmp_path))
    (report / "report.json").write_text(json.dumps({"methods": [{"meta": {"step": 3}}], "gallery": {"size": 1000}}))
    assert export.main([*arguments, str(report)]) == 0
    assert "among 1,000 distractors" in (tmp_path / "two.md").read_text(encoding="utf-8")


def test_a_card_without_figures_says_so(run, tmp_path):
    assert export.main([str(run / "memory"), "--card", str(tmp_path / "card.md")]) == 0
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "None were given. Measure before use" in text
    assert "a face whose highest cosine is below 0.250 is taken for a stranger's" in text


def test_data_that_does_not_decode_is_said(run, data, tmp_path, capsys):
    assert len(RecordDataset(data)) == len(pixels(data)) + 2
    answer = refused(capsys, str(run), "--safetensors", str(tmp_path / "m.safetensors"), "--data", str(tmp_path))
    assert str(tmp_path) in answer
