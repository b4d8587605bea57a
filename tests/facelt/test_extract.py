"""Features: of every embedding, of ONNX recognisers and pixels, at any number of ranks; mistakes in one line."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from io import BytesIO

import numpy as np
import onnx
import pytest
import torch
from faces import write_faces
from launching import ROOT, environment, launch
from onnx import TensorProto, helper
from onnx_models import by_hand as by_model
from onnx_models import write_model
from PIL import Image
from tiny import TINY

from facelt import extract
from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.features import draft
from facelt.features.draft import Draft, read_progress
from facelt.features.stored import read_features
from facelt.head.heads import MetaHead
from facelt.network.embedder import Embedder
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from megaface_eval.features.feature_set import load_features
from megaface_eval.run import main as identify
from recordio_tools.__main__ import main as recordio_tools
from recordio_tools.dataset import RecordDataset

K, D = 5, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("extract") / "data", classes=K, images=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose meta stage has random weights everywhere, and a plain stage."""
    folder = tmp_path_factory.mktemp("extract") / "run"
    config = FaceltConfig.model_validate(TINY["facelt"])
    torch.manual_seed(1)
    for stage in ("plain", "meta"):
        embedder = Embedder(config, stage == "meta", stage == "memory").eval()
        partition = Partition(K)
        head = MetaHead(config, partition)
        for parameter in [*head.memory.parameters(), *embedder.attention.parameters()]:
            torch.nn.init.normal_(parameter)
        classes = {"num_classes": K, "starts": partition.starts()}
        state = checkpoint.CheckpointState(stage=stage, step=3, finished=True, global_batch=8, config=config, **classes)
        rows = {name: p.detach() for name, p in head.named_parameters()}
        checkpoint.save(folder, state, weights=embedder.state_dict(), moments={"none": torch.zeros(1)}, rows=rows)
    return folder


def images(data) -> torch.Tensor:
    dataset = RecordDataset(data)
    decoded = [np.asarray(Image.open(BytesIO(dataset.jpeg(i).tobytes()))) for i in range(len(dataset))]
    return (torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() - 127.5) / 127.5


def by_hand(run, data) -> dict[str, torch.Tensor]:
    """Every embedding by the equations, from the checkpoint's tensors."""
    folder = checkpoint.find(run)
    embedder = Embedder(FaceltConfig.model_validate(TINY["facelt"]), True).eval()
    embedder.load_state_dict(checkpoint.read_weights(folder))
    rows = checkpoint.read_rows(folder, Partition(K))
    with torch.no_grad():
        v, e, *_ = embedder(images(data))
    o = torch.softmax(v @ rows["memory.hallucinator_weight"].T + rows["memory.hallucinator_bias"], 1)
    infused = v + e * (o @ rows["memory.centroids"])
    gamma = torch.cdist(v, rows["memory.centroids"], compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    meta = infused * (10 / gamma)[:, None]
    squashed = meta / (1 + meta.norm(dim=1, keepdim=True))
    every = {"direct": v, "memory": infused - v, "infused": infused, "meta": meta, "squashed": squashed}
    return {**every, "reachability": gamma}


def test_every_embedding_and_what_stands_beside_it(run, data, tmp_path):
    names = ["direct", "memory", "infused", "meta", "squashed"]
    arguments = ["--checkpoint", str(run), "--embedding", *names, "--data", str(data), "--output", str(tmp_path / "f")]
    assert extract.main([*arguments, "--batch", "7"]) == 0
    want = by_hand(run, data)
    for name in names:
        folder = tmp_path / "f" / name
        np.testing.assert_allclose(np.load(folder / "features.npy"), want[name], rtol=2e-3, atol=2e-3)
        np.testing.assert_array_equal(np.load(folder / "labels.npy"), np.repeat(np.arange(K), 5))
        np.testing.assert_allclose(np.load(folder / "reachability.npy"), want["reachability"], rtol=2e-3)
        np.testing.assert_allclose(np.load(folder / "norm.npy"), want[name].norm(dim=1), rtol=2e-3)
        assert (folder / "names.txt").read_text().split() == [f"person-{k}" for k in range(K)]
        facts = json.loads((folder / "meta.json").read_text())
        assert (facts["embedding"], facts["dimension"], facts["images"], facts["step"]) == (name, D, 25, 3)
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == sorted(names)


def test_the_direct_feature_alone_has_its_reachability_and_a_plain_run_none(run, data, tmp_path):
    for stage in ("meta", "plain"):
        arguments = ["--checkpoint", str(run / stage), "--data", str(data), "--output", str(tmp_path / stage)]
        assert extract.main(arguments) == 0
    want = by_hand(run, data)
    np.testing.assert_allclose(np.load(tmp_path / "meta" / "features.npy"), want["direct"], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(np.load(tmp_path / "meta" / "reachability.npy"), want["reachability"], rtol=2e-3)
    files = {path.name for path in (tmp_path / "plain").iterdir()}
    assert files == {"features.npy", "labels.npy", "names.txt", "norm.npy", "meta.json"}


def test_the_memory_is_a_feature_set_that_serves_as_a_cohort(run, tmp_path):
    assert extract.main(["--checkpoint", str(run), "--memory-set", str(tmp_path / "memory")]) == 0
    centroids = checkpoint.read_rows(checkpoint.find(run), Partition(K))["memory.centroids"]
    memory = load_features(tmp_path / "memory")
    np.testing.assert_array_equal(memory.stored.read(0, K), centroids)
    np.testing.assert_array_equal(memory.labels, np.arange(K))
    assert memory.meta["embedding"] == "centroids"


def test_two_ranks_are_one(run, data, tmp_path):
    arguments = ["--checkpoint", str(run), "--embedding", "meta", "--data", str(data), "--batch", "4"]
    assert extract.main([*arguments, "--output", str(tmp_path / "one")]) == 0
    done = launch("--module", "facelt.extract", *arguments, "--output", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    one, two = (np.load(tmp_path / name / "features.npy") for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-4)


def test_pixels_and_flip_by_hand(data, tmp_path):
    arguments = ["--pixels", "32", "--data", str(data)]
    assert extract.main([*arguments, "--output", str(tmp_path / "plain")]) == 0
    assert extract.main([*arguments, "--output", str(tmp_path / "flip"), "--flip"]) == 0
    grey = torch.einsum("bchw,c->bhw", images(data), torch.tensor([0.299, 0.587, 0.114]))
    unit = lambda x: torch.nn.functional.normalize(x.flatten(1) - x.flatten(1).mean(1, keepdim=True))  # noqa: E731
    got = torch.from_numpy(np.load(tmp_path / "plain" / "features.npy"))
    torch.testing.assert_close(torch.nn.functional.normalize(got), unit(grey), rtol=1e-3, atol=1e-3)
    flipped = torch.from_numpy(np.load(tmp_path / "flip" / "features.npy"))
    torch.testing.assert_close(flipped, unit(grey) + unit(grey.flip(2)), rtol=1e-3, atol=1e-3)


def write_onnx(path, channels: int = 3, batch: int | str = "n") -> None:
    """A recogniser whose three features are the mean of each input channel at 112 x 112."""
    entry = helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, channels, 112, 112])
    out = helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, channels, 1, 1])
    node = helper.make_node("GlobalAveragePool", ["data"], ["features"])
    model = helper.make_model(helper.make_graph([node], "mean", [entry], [out]), ir_version=9)
    model.opset_import[0].version = 17
    onnx.save(model, path)


@pytest.mark.parametrize("batch", ["n", 1])
def test_an_onnx_recogniser_gets_the_pixels_it_expects(data, tmp_path, batch):
    write_onnx(tmp_path / "mean.onnx", batch=batch)
    arguments = ["--onnx", str(tmp_path / "mean.onnx"), "--data", str(data)]
    assert extract.main([*arguments, "--output", str(tmp_path / "usual")]) == 0
    told = ["--mean", "100", "--std", "255", "--channels", "bgr"]
    assert extract.main([*arguments, *told, "--output", str(tmp_path / "told")]) == 0
    means = images(data).mean((2, 3)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "usual" / "features.npy"), means, atol=0.01)
    want = ((means * 127.5 + 27.5) / 255)[:, ::-1]
    np.testing.assert_allclose(np.load(tmp_path / "told" / "features.npy"), want, atol=0.01)
    facts = json.loads((tmp_path / "told" / "meta.json").read_text())
    assert (facts["mean"], facts["std"], facts["channels"]) == (100, 255, "bgr")


def test_pictures_that_are_not_square_are_cut_from_the_middle(tmp_path):
    wide = write_faces(tmp_path / "data", classes=8, images=2, size=16)
    path = write_model(tmp_path / "m.onnx", size=(16, 12))
    assert extract.main(["--onnx", str(path), "--data", str(wide), "--output", str(tmp_path / "f")]) == 0
    middle = images(wide)[:, :, :, 2:14].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "f" / "features.npy"), by_model(middle), rtol=1e-3, atol=1e-3)


def test_half_keeps_float16_and_its_norms_are_those_of_the_rows(data, tmp_path, capsys):
    arguments = ["--onnx", str(write_model(tmp_path / "m.onnx", size=(32, 32), times=300.0)), "--data", str(data)]
    assert extract.main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    assert extract.main([*arguments, "--output", str(tmp_path / "half"), "--half"]) == 0
    whole, half = (np.load(tmp_path / name / "features.npy") for name in ("whole", "half"))
    assert (half.dtype, half.nbytes) == (np.float16, whole.nbytes // 2)
    np.testing.assert_allclose(half, whole, rtol=1e-3, atol=1)
    norms = np.load(tmp_path / "half" / "norm.npy")
    assert norms.dtype == np.float32
    np.testing.assert_allclose(norms, np.linalg.norm(half.astype(np.float64), axis=1), rtol=1e-5)
    for read in (lambda path: read_features(str(path)).rows_ND[:], lambda path: load_features(path).stored.read(0, 25)):
        np.testing.assert_array_equal(read(tmp_path / "half"), half)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"next: python -m megaface_eval.run --probes {tmp_path / 'half'} --distractors DISTRACTORS" in last
    arguments[1] = str(write_model(tmp_path / "large.onnx", size=(32, 32), times=1e5))
    assert "beyond float16's 65504; leave it out" in refused(
        capsys, *arguments, "--output", str(tmp_path / "f"), "--half"
    )


def test_features_that_are_not_finite_or_all_alike_end_in_one_line(data, tmp_path, capsys):
    out = ["--data", str(data), "--output", str(tmp_path / "f")]
    path = write_model(tmp_path / "nan.onnx", size=(32, 32), times=float("nan"))
    assert "is NaN or infinite (25 of 25 in its batch)" in refused(capsys, "--onnx", str(path), *out)
    path = write_model(tmp_path / "m.onnx", size=(32, 32))
    alike = refused(capsys, "--onnx", str(path), *out, "--mean", "-100000")
    assert "their features are all alike; the model wants other pixels: see --mean" in alike
    assert not (tmp_path / "f").exists()


def test_an_output_that_another_process_is_writing_is_refused(data, tmp_path, capsys):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "f")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        assert other.stdout.readline() == b"writing\n"
        for more in ([], ["--force"]):
            answer = refused(capsys, "--pixels", "8", "--data", str(data), "--output", str(tmp_path / "f"), *more)
            assert f"process {other.pid} on {socket.gethostname()} writes it; wait for it" in answer
        with pytest.raises(UserError, match=f"another process writes it, process {other.pid} on"):
            Draft(tmp_path / "f", {}, force=True)  # one that began in the very same moment
        other.kill()
    assert extract.main(["--pixels", "8", "--data", str(data), "--output", str(tmp_path / "f")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


WRITER = """
import sys
from pathlib import Path
from facelt.features.draft import Draft
draft = Draft(Path(sys.argv[1]), {}, force=True)
print("writing", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def broken_off(monkeypatch):
    """Extract until the recogniser fails in the batch of this number, counted over all data folders."""

    def run(arguments: list[str], fails_at: int) -> int:
        batches = []
        pixels = extract.from_pixels

        def failing(size: int):
            whole = pixels(size)

            def embed(images_B3SS):
                if len(batches) == fails_at:
                    raise RuntimeError("no more")
                batches.append(1)
                return whole.embed(images_B3SS)

            return replace(whole, embed=embed)

        with monkeypatch.context() as patch:
            patch.setattr(extract, "from_pixels", failing)
            with suppress(RuntimeError):
                assert extract.main(arguments) == 0
        return len(batches)

    return run


def test_the_same_command_goes_on_and_leaves_what_it_has_finished(data, tmp_path, capsys, broken_off):
    other = write_faces(tmp_path / "other", classes=3, images=2)
    given = ["--pixels", "8", "--batch", "4", "--data", str(data), str(other)]  # 7 and 2 batches
    assert extract.main([*given, "--output", str(tmp_path / "whole")]) == 0
    broken = [*given, "--output", str(tmp_path / "broken")]
    assert broken_off(broken, 3) == 3
    assert broken_off(broken, 5) == 5
    assert "goes on behind 12 of 25 images" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "broken").iterdir()) == [".other.unfinished", data.name]
    assert broken_off(broken, 9) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'broken' / data.name}: made by this command already; left as it is" in said
    for name in (data.name, "other"):
        for file in (tmp_path / "whole" / name).iterdir():
            assert (tmp_path / "broken" / name / file.name).read_bytes() == file.read_bytes(), file
    assert broken_off(broken, 9) == 0
    assert broken_off([*broken, "--force"], 99) == 9
    assert "exists already" in refused(capsys, *broken, "--flip")


def test_what_another_command_left_unfinished_is_never_gone_on_with(data, tmp_path, capsys, broken_off):
    out = ["--output", str(tmp_path / "f")]
    given = ["--pixels", "8", "--batch", "4"]
    assert broken_off([*given, "--data", str(data), *out], 3) == 3
    kept = {path: path.read_bytes() for path in (tmp_path / ".f.unfinished").rglob("*") if path.is_file()}
    other = write_faces(tmp_path / "other", images=5, called="else")
    content = (other / "train.rec").read_bytes()
    (other / "train.rec").write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
    for changed, said in (
        (["--pixels", "16", "--batch", "4", "--data", str(data)], "--pixels was 8, is 16"),
        (["--pixels", "8", "--batch", "5", "--data", str(data)], "--batch was 4, is 5"),
        ([*given, "--data", str(data), "--half", "--flip"], "--flip was False, is True (1 more)"),
        ([*given, "--data", str(other)], "data was 25 images"),
    ):
        for more in ([], ["--force"]):
            answer = refused(capsys, *changed, *out, *more)
            assert f"unfinished features lie in {tmp_path / '.f.unfinished'}, of another command: {said}" in answer
    assert {path: path.read_bytes() for path in (tmp_path / ".f.unfinished").rglob("*") if path.is_file()} == kept
    (tmp_path / ".f.unfinished" / "progress.json").write_text('{"steps": 3')
    assert broken_off([*given, "--data", str(data), *out], 99) == 7, "damaged: begun anew"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "other"]


def test_another_checkpoint_does_not_go_on_with_what_one_began(run, data, tmp_path, capsys, monkeypatch):
    out = ["--data", str(data), "--batch", "4", "--output", str(tmp_path / "f")]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read_weights", lambda folder: sys.exit(7))  # before the first batch: nothing is kept
        with pytest.raises(SystemExit):
            extract.main(["--checkpoint", str(run / "plain"), *out])
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(draft.Draft, "finish", lambda self: sys.exit(7))
        with pytest.raises(SystemExit):
            extract.main(["--checkpoint", str(run / "plain"), *out])
    assert "recogniser was" in refused(capsys, "--checkpoint", str(run / "meta"), *out)
    assert extract.main(["--checkpoint", str(run / "plain"), *out]) == 0, "nothing is left but to put it in place"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert load_features(tmp_path / "f").meta["step"] == 3


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_process_that_is_stopped_or_killed_is_gone_on_from(data, tmp_path, number, status):
    given = ["--pixels", "8", "--batch", "4", "--data", str(data)]
    assert extract.main([*given, "--output", str(tmp_path / "whole")]) == 0
    broken = [*given, "--output", str(tmp_path / "broken")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SLOW, *broken], cwd=ROOT, env=environment(), **pipes) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == status
    assert ("interrupted; run the same command to go on" in said) == (number != signal.SIGKILL)
    assert read_progress(tmp_path / "broken").steps == 2
    assert extract.main(broken) == 0
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "broken" / file.name).read_bytes() == file.read_bytes(), file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]


SLOW = """
import sys, time
from dataclasses import replace
from facelt import extract
from facelt.features import feature_set
feature_set.BLOCK_SECONDS = 0
pixels = extract.from_pixels

def slow(size):
    whole, batches = pixels(size), []
    def embed(images_B3SS):
        batches.append(1)
        print("batch", flush=True)
        time.sleep(60 if len(batches) == 3 else 0)
        return whole.embed(images_B3SS)
    return replace(whole, embed=embed)

extract.from_pixels = slow
sys.exit(extract.main(sys.argv[1:]))
"""


def tool(*arguments: object) -> None:
    assert recordio_tools([str(one) for one in arguments]) == 0


def test_a_miss_in_a_report_leads_to_its_photograph(tmp_path):
    """Through pack, curate, shuffle, unpack, pack again and extract, into the evaluator's report."""
    rng = np.random.default_rng(0)
    for name, people, each in (("album", 4, 5), ("crowd", 30, 2)):
        for person in range(people):
            for number in range(each):
                path = tmp_path / name / f"p{person}" / "2020" / f"größe {number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        at = tmp_path / f"{name}-sets"
        tool("pack", tmp_path / name, at / "packed", "--size", "32", "--nested")
        tool("curate", at / "packed", at / "lt", "--images", str(people * each - 3), "--reading", "uniform")
        tool("shuffle", at / "lt", at / "shuffled")
        tool("unpack", at / "shuffled", at / "files")
        tool("pack", at / "files" / "images.lst", at / name, "--size", "32")
        out = str(tmp_path / "features" / name)
        assert extract.main(["--pixels", "16", "--data", str(at / name), "--output", out]) == 0
    options = ["--probes", f"{tmp_path}/features/album", "--distractors", f"{tmp_path}/features/crowd"]
    options += ["--probe-images", f"{tmp_path}/album", "--distractor-images", f"{tmp_path}/crowd"]
    assert identify([*options, "--gallery", "50", "--output", f"{tmp_path}/report"]) == 0
    misses = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["methods"][0]["misses"]
    assert misses
    probes = load_features(tmp_path / "features" / "album")
    for miss in misses:
        for image in miss["images"]:
            root = tmp_path / ("crowd" if image["role"] == "distractor" else "album")
            assert image["thumbnail"] is not None
            photograph = np.asarray(Image.open(root / image["path"])).astype(float)
            grey = photograph @ (0.299, 0.587, 0.114)
            if image["role"] == "probe":
                assert miss["identity"] == image["path"].split("/")[0]
                row = probes.stored.read(image["row"], image["row"] + 1)[0].reshape(16, 16)
                small = grey.reshape(16, 2, 16, 2).mean((1, 3))
                assert np.corrcoef(row.ravel(), small.ravel())[0, 1] > 0.8, "its own picture's pixels"


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        extract.main(list(arguments))
    assert left.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_mistakes(run, data, tmp_path, capsys):
    out = ["--data", str(data), "--output", str(tmp_path / "out")]
    answer = refused(capsys, "--checkpoint", str(run / "plain"), "--embedding", "meta", *out)
    assert "of stage plain, which has only direct" in answer
    assert "no checkpoint there" in refused(capsys, "--checkpoint", str(tmp_path), *out)
    assert "no such file" in refused(capsys, "--onnx", str(tmp_path / "none.onnx"), *out)
    (tmp_path / "bad.onnx").write_text("text")
    assert "cannot load it" in refused(capsys, "--onnx", str(tmp_path / "bad.onnx"), *out)
    write_onnx(tmp_path / "grey.onnx", channels=1)
    assert "expected N x 3 x H x W" in refused(capsys, "--onnx", str(tmp_path / "grey.onnx"), *out)
    assert "needs --checkpoint" in refused(capsys, "--pixels", "8", "--embedding", "meta", *out)
    assert "--output-name is of ONNX models" in refused(capsys, "--pixels", "8", "--output-name", "fc1", *out)
    (tmp_path / "out").mkdir()
    assert "exists" in refused(capsys, "--pixels", "8", *out)
    assert not list((tmp_path / "out").iterdir())


def test_two_sources_of_one_name_and_counts_that_are_none(data, tmp_path, capsys):
    twin = shutil.copytree(data, tmp_path / "elsewhere" / data.name)
    arguments = ["--pixels", "32", "--output", str(tmp_path / "out")]
    assert "same name" in refused(capsys, *arguments, "--data", str(data), str(twin))
    for option in ("--batch", "--threads", "--pixels"):
        assert "whole number from 1; see" in refused(capsys, *arguments, "--data", str(data), option, "0")
    assert not (tmp_path / "out").exists()


def test_an_image_that_one_rank_cannot_decode_leaves_nothing_behind(data, tmp_path):
    broken = shutil.copytree(data, tmp_path / "broken")
    content = (broken / "train.rec").read_bytes()
    at = content.rindex(b"\xff\xd8\xff")  # the last image: of the second rank
    (broken / "train.rec").write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    arguments = ["--pixels", "32", "--data", str(broken), "--batch", "25", "--output", str(tmp_path / "out")]
    done = launch("--module", "facelt.extract", *arguments)
    assert done.returncode == 2, done.stderr
    assert any("facelt.extract: error:" in line and "does not decode" in line for line in done.stderr.splitlines())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_an_image_that_does_not_decode_leaves_nothing_behind(data, tmp_path, capsys):
    broken = shutil.copytree(data, tmp_path / "broken")
    content = (broken / "train.rec").read_bytes()
    at = content.rindex(b"\xff\xd8\xff")
    (broken / "train.rec").write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    answer = refused(capsys, "--pixels", "32", "--data", str(broken), "--output", str(tmp_path / "out"))
    assert "does not decode" in answer
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as left:
        extract.main(["--help"])
    assert left.value.code == 0
    assert "python -m facelt.extract --checkpoint RUN" in capsys.readouterr().out


def test_a_memory_that_cannot_be_written_is_refused_in_one_line(run, tmp_path, capsys):
    out = ["--memory-set", str(tmp_path / "memory")]
    assert "stage plain, which has no memory" in refused(capsys, "--checkpoint", str(run / "plain"), *out)
    assert "--memory-set needs --checkpoint" in refused(capsys, "--pixels", "8", *out)
    assert "--data is missing" in refused(capsys, "--checkpoint", str(run))
    assert "--output is missing" in refused(capsys, "--checkpoint", str(run), "--data", "x")
    assert "--output is missing" in refused(capsys, "--checkpoint", str(run), *out, "--data", "x")
    more = ["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "features")]
    assert "nowhere" in refused(capsys, "--checkpoint", str(run), *out, *more)
    assert "is an output too" in refused(capsys, "--checkpoint", str(run), *out, *more[:3], str(tmp_path / "memory"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "memory").mkdir()
    assert "exists" in refused(capsys, "--checkpoint", str(run), *out)
    assert list((tmp_path / "memory").iterdir()) == []


def test_the_direct_feature_needs_no_memory_and_says_what_is_missing_then(run, data, tmp_path, capsys):
    alone = shutil.copytree(checkpoint.find(run), tmp_path / "alone")
    (alone / "classes-00000-of-00001.safetensors").unlink()
    assert extract.main(["--checkpoint", str(alone), "--data", str(data), "--output", str(tmp_path / "f")]) == 0
    assert "written without what it says of them" in capsys.readouterr().err
    assert not (tmp_path / "f" / "reachability.npy").exists()
    assert "unreadable" in refused(
        capsys, "--checkpoint", str(alone), "--embedding", "meta", "--data", str(data), "--output", str(tmp_path / "g")
    )
