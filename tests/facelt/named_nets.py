"""Small networks built from the names that others give their layers: what `--init` reads is saved from these.

Written from the formats' own lists of names, and apart from facelt.network, whose outputs must be theirs.
"""

import torch
from torch import Tensor, nn

DEPTHS = (2, 2, 2, 2)


def with_statistics(net: nn.Module) -> nn.Module:
    """Numbers that show in every batch normalisation and PReLU; in evaluation mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.4)
    return net.eval()


class ArcfaceTorchBlock(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(inside), nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(inside, out, 3, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, stride, 1, bias=False)
        self.prelu = nn.PReLU(out)
        self.downsample = None
        if stride == 2:
            self.downsample = nn.Sequential(nn.Conv2d(inside, out, 1, 2, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return residual + (x if self.downsample is None else self.downsample(x))


class ArcfaceTorch(nn.Module):
    """The names of backbone.pth: conv1, bn1, prelu, layer1 … layer4, bn2, fc, features."""

    def __init__(self, width: int = 8, side: int = 32, size: int = 16, depths: tuple[int, ...] = DEPTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(width), nn.PReLU(width)
        inside = width
        for i, depth in enumerate(depths):
            out = width * 2**i
            blocks = [ArcfaceTorchBlock(inside, out, 2), *(ArcfaceTorchBlock(out, out, 1) for _ in range(depth - 1))]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            inside = out
        self.bn2 = nn.BatchNorm2d(inside)
        self.fc = nn.Linear(inside * (side // 16) ** 2, size)
        self.features = nn.BatchNorm1d(size)

    def forward(self, images: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


class AdaFaceBlock(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer = nn.MaxPool2d(1, stride)
        if inside != out:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inside),
            nn.Conv2d(inside, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.PReLU(out),
            nn.Conv2d(out, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class AdaFace(nn.Module):
    """The names of AdaFace's IR-nets: input_layer, body counted through, output_layer. Returns unit features."""

    def __init__(self, width: int = 8, side: int = 32, size: int = 16, depths: tuple[int, ...] = DEPTHS) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        blocks, inside = [], width
        for i, depth in enumerate(depths):
            for j in range(depth):
                blocks.append(AdaFaceBlock(inside, width * 2**i, 1 if j else 2))
                inside = width * 2**i
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(inside),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(inside * (side // 16) ** 2, size),
            nn.BatchNorm1d(size, affine=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.output_layer(self.body(self.input_layer(images)))
        return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)


def _layers(*modules: nn.Module) -> nn.Module:
    """Modules one after another under the name `layers`, as arcface_torch's MobileFaceNet wraps them."""
    return _Named(nn.Sequential(*modules))


class _Named(nn.Module):
    def __init__(self, layers: nn.Sequential, residual: bool = False) -> None:
        super().__init__()
        self.layers, self.residual = layers, residual

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def _convolved(inside: int, out: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True) -> nn.Module:
    convolution = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return _layers(convolution, nn.BatchNorm2d(out), *([nn.PReLU(out)] if active else []))


def _deep(inside: int, out: int, stride: int, between: int) -> nn.Module:
    return _Named(
        nn.Sequential(
            _convolved(inside, between, 1),
            _convolved(between, between, 3, stride, between),
            _convolved(between, out, 1, active=False),
        ),
        residual=stride == 1,
    )


class ArcfaceTorchMobileFaceNet(nn.Module):
    """The names of arcface_torch's `mbf`, blocks (1, 4, 6, 2): layers, conv_sep, features."""

    def __init__(self, width: int = 64, side: int = 32, size: int = 16) -> None:
        super().__init__()
        w = width
        self.layers = nn.ModuleList(
            [
                _convolved(3, w, 3, 2),
                _convolved(w, w, 3, 1, 64),
                _deep(w, w, 2, 128),
                _layers(*(_deep(w, w, 1, 128) for _ in range(4))),
                _deep(w, 2 * w, 2, 256),
                _layers(*(_deep(2 * w, 2 * w, 1, 256) for _ in range(6))),
                _deep(2 * w, 2 * w, 2, 512),
                _layers(*(_deep(2 * w, 2 * w, 1, 256) for _ in range(2))),
            ]
        )
        self.conv_sep = _convolved(2 * w, 512, 1)
        whole = nn.Conv2d(512, 512, side // 16, groups=512, bias=False)
        self.features = _layers(
            _layers(whole, nn.BatchNorm2d(512)),
            nn.Flatten(),
            nn.Linear(512, size, bias=False),
            nn.BatchNorm1d(size),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))
