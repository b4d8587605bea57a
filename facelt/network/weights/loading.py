"""`backbone.init`: what belongs to a file of weights, and its tensors into a network."""

from pathlib import Path

from torch import Tensor

from facelt.config import BackboneConfig, FaceltConfig, Pixel
from facelt.errors import UserError
from facelt.network import timm_network
from facelt.network.embedder import Embedder
from facelt.network.timm_network import TimmNetwork
from facelt.network.weights import files, formats


def pixels(knobs: BackboneConfig) -> dict[str, Pixel]:
    """pixel_mean and pixel_std that belong to `init`. Raises UserError where that is not the network of the knobs."""
    assert knobs.init is not None
    if knobs.timm is not None:
        return timm_network.pixels(knobs.timm)
    given = formats.recognise(Path(knobs.init), knobs.init_channels)
    formats.check(Path(knobs.init), given, knobs)
    return given.pixels


def load(embedder: Embedder, config: FaceltConfig) -> str:
    """Load `init` into the backbone, and into the neck where the file has that of the configuration, in place.

    A network that takes BGR has the channels of its first convolution exchanged: here it takes RGB.
    Returns a line: what the file is, what pixels it takes, how many of its tensors were taken and left.
    Raises UserError where it does not fit.
    """
    knobs = config.backbone
    assert knobs.init is not None
    path = Path(knobs.init)
    if isinstance(embedder.backbone, TimmNetwork):
        title, tensors, left = _of_timm(embedder.backbone, knobs, path)
        channels, own_pixels = "RGB", timm_network.pixels(knobs.timm or "")
    else:
        given = formats.recognise(path, knobs.init_channels)
        formats.check(path, given, knobs)
        title, tensors, left = given.title, dict(given.tensors), list(given.left)
        channels, own_pixels = given.channels.upper(), given.pixels
        if given.channels == "bgr":
            tensors[given.first] = tensors[given.first].flip(1)
    taken = _fitting(embedder, tensors, path)
    left += [name.partition(".")[2] for name in tensors if name not in taken]
    embedder.load_state_dict(taken, strict=False)
    parts = [title, f"takes {channels} {_in_words(own_pixels)}" + (", turned to RGB" if channels == "BGR" else "")]
    told = {name: getattr(config, name) for name in own_pixels}
    if any(told[name] != tuple(own_pixels[name]) for name in own_pixels):
        parts.append(f"given {_in_words(told)} all the same, as set")
    shown = f" ({', '.join(left[:3])}{' …' if len(left) > 3 else ''})" if left else ""
    parts.append(f"{len(taken)} tensors taken, {len(left)} left{shown}")
    return f"--init {path}: {'; '.join(parts)}"


def _in_words(pixels: dict[str, Pixel]) -> str:
    return " ".join(f"{name} {[round(value, 3) for value in values]}" for name, values in pixels.items())


def _fitting(embedder: Embedder, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Those of the tensors that the network has. Raises UserError where one lacks, or has another shape."""
    own = embedder.state_dict()
    neck, of_file = ({n for n in names if n.startswith("neck.") and not _counts(n)} for names in (own, tensors))
    wanted = [name for name in own if name.startswith("backbone.") or (neck == of_file and name.startswith("neck."))]
    for name in wanted:
        if name not in tensors:
            if not _counts(name):
                raise UserError(f"--init {path}: lacks {name.partition('.')[2]}; expected a whole network of this kind")
            continue
        given, here = tuple(tensors[name].shape), tuple(own[name].shape)
        if given != here:
            what = "embedding_size and image_size" if name in neck else "the knobs of backbone"
            raise UserError(f"--init {path}: {name} is {given}, this network has {here}; set {what} as in the file")
    return {name: tensors[name] for name in wanted if name in tensors}


def _counts(name: str) -> bool:
    """A batch normalisation's count of batches, which older files lack, and nothing here reads."""
    return name.endswith("num_batches_tracked")


def _of_timm(network: TimmNetwork, knobs: BackboneConfig, path: Path) -> tuple[str, dict[str, Tensor], list[str]]:
    """Title, tensors by the names here, and the names of what is no part of timm's network."""
    if knobs.init_channels == "bgr":
        raise UserError("backbone.init_channels bgr: a network of timm's takes RGB; leave it out")
    read, names = files.read(path), network.net.state_dict()
    prefix = files.wrapper(read.tensors, next(iter(names)))
    if prefix is None:
        try:
            held = formats.recognise(path).title
        except UserError:
            held = f"other names ({', '.join([*read.tensors][:3])} …)"
        raise UserError(
            f"--init {path}: holds {held}, the network here is timm's {knobs.timm}; set backbone as in the file"
        )
    given = {name: read.tensors[prefix + name] for name in names if prefix + name in read.tensors}
    tensors = {f"backbone.net.{name}": timm_network.resampled(network, name, t) for name, t in given.items()}
    return f"timm's {knobs.timm}", tensors, [name for name in read.tensors if name.removeprefix(prefix) not in given]
