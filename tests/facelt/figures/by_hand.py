"""The equations of a meta run, written out in float64 from the tensors of its checkpoint."""

from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from facelt.network.embedder import Embedder
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from recordio_tools.dataset import RecordDataset


def decoded(dataset: RecordDataset) -> torch.Tensor:
    """Its images as the network takes them, N x 3 x S x S in float64."""
    pictures = [np.asarray(Image.open(BytesIO(dataset.jpeg(i).tobytes()))) for i in range(len(dataset))]
    return (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).double() - 127.5) / 127.5


def see_by_hand(run: Path, dataset: RecordDataset) -> SimpleNamespace:
    """direct, e, o, memory, infused, meta, reach, probabilities and spatial, for all images of a set."""
    folder = checkpoint.find(run)
    state = checkpoint.read_state(folder)
    config = state.config
    embedder = Embedder(config, state.stage == "meta", state.stage == "memory").eval()
    embedder.load_state_dict(checkpoint.read_weights(folder))
    embedder.double()
    rows = {n: t.double() for n, t in checkpoint.read_rows(folder, Partition(state.num_classes)).items()}
    weight = rows["classifier.weight"]
    with torch.no_grad():
        f = embedder.backbone(decoded(dataset))
        v, e, temperature, _ = embedder(decoded(dataset))
    if state.stage == "plain":
        logits = v @ weight.T + rows["classifier.bias"]
        return SimpleNamespace(direct=v, probabilities=torch.softmax(logits, 1))
    c = rows["memory.centroids"]
    if config.head.retrieval == "cosine":
        o = torch.softmax(temperature * normalize(v) @ normalize(c).T, 1)
    elif config.head.retrieval == "mean":
        o = torch.full((len(v), len(c)), 1 / len(c), dtype=torch.float64)
    else:
        o = v @ rows["memory.hallucinator_weight"].T + rows["memory.hallucinator_bias"]
        o = torch.softmax(o, 1) if config.head.hallucinator == "softmax" else o
    distances = (v[:, None] - c[None]).norm(dim=2)
    reach = distances.min(1).values
    infused = v + e * (o @ c)
    meta = infused * (config.head.reach_scale / reach)[:, None]
    squashed = meta / (1 + meta.norm(dim=1, keepdim=True))
    logits = config.head.scale * squashed @ normalize(weight).T
    attention = embedder.attention
    spatial = share = None
    if config.head.attention:
        with torch.no_grad():
            B, _, H, W = f.shape
            spatial = torch.softmax(attention.fc_spatial(f.flatten(1)), 1).view(B, H, W)
            share = (attention(f) - f).flatten(1).norm(dim=1) / f.flatten(1).norm(dim=1)
    return SimpleNamespace(
        direct=v, e=e, o=o, memory=o @ c, infused=infused, meta=meta, reach=reach, distances=distances,
        probabilities=torch.softmax(logits, 1), centroids=c, spatial=spatial, share=share,
    )  # fmt: skip
