"""A run opened to be looked into: every quantity of its equations for every image, on one process.

B: images, D: embedding size, K: classes, H x W: positions of the last map, S: side of the images.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import normalize

from facelt.errors import UserError
from facelt.head.heads import Embeddings, MetaHead, PlainHead
from facelt.images.dali import Dataset, Decoding
from facelt.network.attention import ModulatedAttention
from facelt.network.embedder import Embedder
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from facelt.run_folder.checkpoint import CheckpointState
from recordio_tools.dataset import RecordDataset
from recordio_tools.format.pictures import DECODABLE


class Attended(NamedTuple):
    """spatial_BHW: MA(f) of equation 5. share_B: ‖MA(f) ⊗ SA(f)‖ / ‖f‖, how much attention adds to the map."""

    spatial_BHW: Tensor
    share_B: Tensor


class Seen(NamedTuple):
    """What a run makes of a batch. embeddings, concept_BD (e), coefficients (o, equation 1): None in stage plain.

    probabilities_BK: softmax of its classifier. attended: None without attention.
    """

    direct_BD: Tensor
    probabilities_BK: Tensor
    embeddings: Embeddings | None
    concept_BD: Tensor | None
    coefficients_BK: Tensor | None
    attended: Attended | None


@dataclass(frozen=True)
class OpenedRun:
    """A checkpoint with its network and all its class rows, in evaluation mode."""

    folder: Path
    state: CheckpointState
    embedder: Embedder
    head: MetaHead | PlainHead
    device: torch.device

    @classmethod
    def of(cls, path: str | Path, device: torch.device) -> "OpenedRun":
        """Open a run, a stage of it, or a checkpoint. Raises UserError where there is none, or several ranks run."""
        if group.world_size() > 1:
            raise UserError(f"{group.world_size()} ranks were started; figures are made by one: start it without")
        folder = checkpoint.find(path)
        state = checkpoint.read_state(folder)
        partition = Partition(state.num_classes)
        embedder = Embedder(state.config, state.stage == "meta", memory=state.stage == "memory")
        embedder.load_state_dict(checkpoint.read_weights(folder))
        head = (MetaHead if state.stage == "meta" else PlainHead)(state.config, partition)
        head.load_state_dict(checkpoint.read_rows(folder, partition, head.state_dict().keys()))
        return cls(folder, state, embedder.to(device).eval(), head.to(device).eval(), device)

    @property
    def meta(self) -> bool:
        """Whether it is of stage meta, with a memory."""
        return isinstance(self.head, MetaHead)

    @property
    def centroids_KD(self) -> Tensor:
        """The memory. Only of a meta run."""
        assert isinstance(self.head, MetaHead)
        return self.head.memory.centroids.detach()

    def need_memory(self, what: str) -> None:
        """Raise UserError for a run without a memory. what: that needs one."""
        if not self.meta:
            raise UserError(
                f"{what}: {self.folder} is of stage {self.state.stage}, without a meta head; give a meta run"
            )

    def need_attention(self, what: str) -> None:
        """Raise UserError for a run without attention. what: that needs it."""
        if not isinstance(self.embedder.attention, ModulatedAttention):
            raise UserError(f"{what}: {self.folder} has no attention; give a meta run with head.attention")

    def decoding(self, batch: int) -> Decoding:
        """How it wants images decoded."""
        return Decoding.of(self.state.config, batch, self.device)

    @torch.no_grad()
    def see(self, images_B3SS: Tensor) -> Seen:
        """Everything that the run makes of a batch: for figures, not for sets of millions of classes."""
        with self._watched() as attended:
            embedded = self.embedder(images_B3SS)
        direct_BD, head = embedded.direct_BD, self.head
        if isinstance(head, MetaHead):
            v = head.embeddings(embedded, direct_BD)
            o_BK = head.memory.coefficients(direct_BD, embedded.temperature)
            x_BD = v.squashed_BD if head.knobs.classify == "squashed" else v.meta_BD
            logits_BK = head.knobs.scale * x_BD @ normalize(head.classifier.weight).T
            p_BK = logits_BK.softmax(1)
            return Seen(direct_BD, p_BK, v, embedded.concept_BD, o_BK, next(iter(attended), None))
        weight_KD, bias_K = head.classifier.weight, head.classifier.bias
        if bias_K is None:
            logits_BK = head.plain_knobs.scale * normalize(direct_BD) @ normalize(weight_KD).T
        else:
            logits_BK = direct_BD @ weight_KD.T + bias_K
        return Seen(direct_BD, logits_BK.softmax(1), None, None, None, None)

    @contextmanager
    def _watched(self):
        """What attention does while the network runs: a list that gets one `Attended`, or stays empty."""
        found: list[Attended] = []

        def note(attention: ModulatedAttention, inputs: tuple[Tensor], output: Tensor) -> None:
            f_BCHW = inputs[0]
            added_B, whole_B = ((x.flatten(1)).norm(dim=1) for x in (output - f_BCHW, f_BCHW))
            found.append(Attended(attention.spatial(f_BCHW), added_B / whole_B.clamp(min=1e-12)))

        if not isinstance(self.embedder.attention, ModulatedAttention):
            yield found
            return
        hook = self.embedder.attention.register_forward_hook(note)
        try:
            yield found
        finally:
            hook.remove()


@dataclass(frozen=True)
class SomeImages:
    """Some images of a set, as a set: its numbers `images`, in this order."""

    whole: Dataset
    images: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def jpeg(self, i: int) -> NDArray[np.uint8]:
        return self.whole.jpeg(int(self.images[i]))

    @property
    def folder(self) -> Path | str:
        return getattr(self.whole, "folder", "the data folder")

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.whole.labels[self.images]

    @property
    def keys(self) -> NDArray[np.int64]:
        return self.whole.keys[self.images]

    @property
    def image_size(self) -> tuple[int, int]:
        return self.whole.image_size


@dataclass(frozen=True)
class PictureFiles:
    """Picture files as a set; `of` has looked at each of them."""

    paths: list[Path]
    encoded: list[NDArray[np.uint8]]
    image_size: tuple[int, int]

    @classmethod
    def of(cls, paths: list[Path]) -> "PictureFiles":
        """Raises UserError, in one line, for a file that is not there or is no picture."""
        encoded = []
        for path in paths:
            try:
                content = path.read_bytes()
                size = picture(content).size
            except FileNotFoundError:
                raise UserError(f"--image {path}: no such file; give a picture ({', '.join(DECODABLE)})") from None
            except UnidentifiedImageError:
                raise UserError(f"--image {path}: not a picture; give one ({', '.join(DECODABLE)})") from None
            except Exception as error:  # on hostile bytes Pillow's decoders raise whatever they stumble over
                raise UserError(f"--image {path}: cannot be read ({error}); give another picture") from None
            encoded.append(np.frombuffer(content, np.uint8))
        return cls(paths, encoded, (size[1], size[0]))

    def __len__(self) -> int:
        return len(self.paths)

    def jpeg(self, i: int) -> NDArray[np.uint8]:
        return self.encoded[i]

    @property
    def folder(self) -> Path:
        return self.paths[0].parent

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.zeros(len(self.paths), np.int64)

    @property
    def keys(self) -> NDArray[np.int64]:
        return np.arange(len(self.paths))


def picture(encoded: bytes | NDArray[np.uint8]) -> Image.Image:
    """An encoded image as RGB, upright, for people to look at. Raises what Pillow raises."""
    content = encoded if isinstance(encoded, bytes) else encoded.tobytes()
    with Image.open(BytesIO(content), formats=DECODABLE) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def check_training_set(run: OpenedRun, dataset: RecordDataset, path: str, option: str = "--data") -> None:
    """Raise UserError where a set cannot be the one that the run was trained on."""
    if dataset.num_classes != run.state.num_classes:
        raise UserError(
            f"{option} {path}: has {dataset.num_classes} classes, the run was trained on {run.state.num_classes}; "
            "give the set that it was trained on"
        )


def name_of(dataset: RecordDataset, label: int) -> str:
    """What to call an identity."""
    return f"identity {label}" if dataset.names is None else dataset.names[label]
