"""Necks: from the last feature map to the embedding, the direct feature.

B: images, C: channels, H x W: positions of the map, D: embedding size.
"""

from collections.abc import Callable

from torch import Tensor, nn

from facelt.errors import UserError

NormLayer = Callable[[int], nn.Module]


class Neck(nn.Module):
    """Average pooling and a linear map to the embedding: the direct feature.

    kind: "linear"; "relu" after it, as the authors' added layer has it; or "batch_norm" after it.
    """

    def __init__(self, channels: int, embedding_size: int, kind: str, norm_layer: NormLayer) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, embedding_size)
        after = {"linear": nn.Identity, "relu": nn.ReLU, "batch_norm": lambda: norm_layer(embedding_size)}
        self.after = after[kind]()

    def forward(self, map_BCHW: Tensor) -> Tensor:
        v_BD11 = self.fc(map_BCHW.mean((2, 3)))[:, :, None, None]
        return self.after(v_BD11).flatten(1)


class ArcFaceNeck(nn.Module):
    """Batch normalisation, a linear map of the whole map, batch normalisation: output E of ArcFace (Deng et al. 2019).

    Named as in insightface's IResNet. The last scale stays at 1, as there. Dropout is left out.
    """

    def __init__(self, map_CHW: tuple[int, int, int], embedding_size: int, norm_layer: NormLayer) -> None:
        super().__init__()
        channels, height, width = map_CHW
        self.bn2 = norm_layer(channels)
        self.fc = nn.Linear(channels * height * width, embedding_size)
        self.features = norm_layer(embedding_size)
        self.features.weight.requires_grad_(False)  # pyright: ignore[reportCallIssue] - a batch normalisation's

    def forward(self, map_BCHW: Tensor) -> Tensor:
        v_BD = self.fc(self.bn2(map_BCHW).flatten(1))
        return self.features(v_BD[:, :, None, None]).flatten(1)


class DepthwiseNeck(nn.Module):
    """Global depthwise convolution: a weight for each place of each channel, then a linear map (Chen et al. 2018).

    Named as `features` of insightface's MobileFaceNet.
    """

    def __init__(self, map_CHW: tuple[int, int, int], embedding_size: int, norm_layer: NormLayer) -> None:
        super().__init__()
        channels, height, width = map_CHW
        depthwise = nn.Conv2d(channels, channels, (height, width), groups=channels, bias=False)
        pooling = nn.Module()
        pooling.layers = nn.Sequential(depthwise, norm_layer(channels))
        linear = nn.Linear(channels, embedding_size, bias=False)
        self.layers = nn.ModuleList([pooling, nn.Flatten(), linear, norm_layer(embedding_size)])

    def forward(self, map_BCHW: Tensor) -> Tensor:
        pooling, flat, linear, after = self.layers
        pooled_BC = flat(pooling.layers(map_BCHW))  # pyright: ignore[reportCallIssue] - layers is a Sequential
        return after(linear(pooled_BC)[:, :, None, None]).flatten(1)


class Pooled(nn.Module):
    """The mean of the map, and nothing after it, as the authors' ResNet-10 has it in its first stage."""

    def forward(self, map_BCHW: Tensor) -> Tensor:
        return map_BCHW.mean((2, 3))


def build(kind: str, map_CHW: tuple[int, int, int], embedding_size: int, norm_layer: NormLayer) -> nn.Module:
    """The neck of that name (`backbone.neck`) on a map of that shape: B x C x H x W -> B x D.

    Raises UserError where the embedding is to have another size than the map that is its own.
    """
    if kind == "none":
        if map_CHW[0] != embedding_size:
            raise UserError(
                f'neck "none" leaves the {map_CHW[0]} channels of the map, and embedding_size is {embedding_size}; '
                f"set embedding_size={map_CHW[0]}, or take another neck"
            )
        return Pooled()
    if kind == "arcface":
        return ArcFaceNeck(map_CHW, embedding_size, norm_layer)
    if kind == "depthwise":
        return DepthwiseNeck(map_CHW, embedding_size, norm_layer)
    return Neck(map_CHW[0], embedding_size, kind, norm_layer)
