"""Any network of timm's, which an extra installs: vision transformers, ConvNeXt and what else it knows by name."""

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from facelt.config import Pixel
from facelt.errors import UserError
from facelt.network.batch_norm import KINDS
from facelt.network.blockwise import Blockwise


class TimmNetwork(Blockwise):
    """timm's network of that name without its classifier, as a map of one place: its pooled feature, B x C x 1 x 1.

    Parameters have timm's names under "net.". A network of a fixed image size, such as a vision transformer, is built
    for image_size. batch_norm: a key of `batch_norm.KINDS`.
    Raises UserError: timm is not installed, does not know the name, or has a batch normalisation that cannot be that.
    """

    def __init__(self, name: str, image_size: int, batch_norm: str) -> None:
        super().__init__(0, KINDS[batch_norm])
        timm = _timm()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3) or ["vit_small_patch16_224"]
            raise UserError(f"backbone.timm {name}: timm has no such network; expected one such as {', '.join(near)}")
        sized = {"img_size": image_size} if _has_a_size(timm, name) else {}
        try:
            self.net: Any = timm.create_model(name, pretrained=False, num_classes=0, **sized)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"backbone.timm {name} at image_size {image_size}: timm refuses it ({reason})") from None
        if batch_norm != "local":
            _exchange(self.net, name, batch_norm)
        self.channels = self.net.num_features

    def begin(self, images_B3HW: Tensor) -> Tensor:
        """All of it: timm's networks differ in what lies within."""
        return self.net(images_B3HW)[:, :, None, None]

    def blocks(self) -> Iterator[nn.Module]:
        """None that are known here."""
        return iter(())


def pixels(name: str) -> dict[str, Pixel]:
    """pixel_mean and pixel_std of 0 … 255 that timm's own weights of a network were trained with."""
    found = _timm().get_pretrained_cfg(name)
    if found is None:
        raise UserError(f"backbone.timm {name}: timm says not what pixels it takes; set pixel_mean and pixel_std")
    times_255 = {"pixel_mean": found.mean, "pixel_std": found.std}
    return {knob: tuple(255 * value for value in values) for knob, values in times_255.items()}


def resampled(net: TimmNetwork, name: str, tensor: Tensor) -> Tensor:
    """A file's tensor for the network's: position embeddings of another image size are interpolated, others are not."""
    own = net.net.state_dict()[name]
    if name != "pos_embed" or own.shape == tensor.shape or own.shape[-1] != tensor.shape[-1]:
        return tensor
    from timm.layers.pos_embed import resample_abs_pos_embed  # pyright: ignore[reportMissingImports]

    return resample_abs_pos_embed(tensor, list(net.net.patch_embed.grid_size), num_prefix_tokens=_prefix(net.net))


def _prefix(net: Any) -> int:
    """How many position embeddings belong to no patch, such as the class token's."""
    return 0 if getattr(net, "no_embed_class", False) else net.num_prefix_tokens


def _timm() -> Any:
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError('backbone.name timm needs the package timm: pip install "facelt[timm]"') from None
    return timm


def _has_a_size(timm: Any, name: str) -> bool:
    """Whether a network of timm's is built for one size of image."""
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        return True
    return "img_size" in inspect.signature(timm.model_entrypoint(name)).parameters


def _exchange(net: nn.Module, name: str, batch_norm: str) -> None:
    """Every plain BatchNorm2d within becomes one of that kind. Raises UserError for others."""
    for parent in list(net.modules()):
        for child_name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                own = KINDS[batch_norm](child.num_features, child.eps, child.momentum, child.affine)
                own.load_state_dict(child.state_dict())
                setattr(parent, child_name, own)
            elif isinstance(child, nn.modules.batchnorm._BatchNorm):
                kind = type(child).__name__
                raise UserError(
                    f'backbone.timm {name} has {kind}, which is not "{batch_norm}" here; set backbone.batch_norm local'
                )
