"""An encoder of any network: named submodules are tapped during its forward, and what they return is pooled."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.encoders.pooling import Layer, Layout, Pooling, map_shape, pool, pool_windows
from mi_callback.encoders.protocol import Card, RegionalFeatures
from mi_callback.errors import EncoderError, choice
from mi_callback.images.intensity import Intensity, Scaling
from mi_callback.types import Images, LayerFeatures


class HookedEncoder(nn.Module):
    """Makes an encoder of any network by tapping named submodules during its forward.

    The hooks live for one forward, are removed even when it raises, and end it as soon as the last layer was
    reached. The network is put into eval mode and its gradients are off. Images are cast to its floating point type.

    Args:
        network: Takes `(n, channels, *size)`; must give the same answer to the same image (eval mode).
        layers: Dotted submodule name → `Layer`, or its layout (`"BCHW"`).
        size: Input height and width, or depth, height and width; one number stands for a square. Images are fitted to
            it with their proportions kept.
        channels: Input channels; single-channel images are repeated.
        intensity: Scaling that the network expects: `minmax`, `quantile`, `zscore`, `none`, or a window (low, high)
            that becomes [0, 1], in Hounsfield units, say (see `images.intensity`).
        pooling: `mean`, `gem`, `mean_std` or `cls` (see `pooling.Pooling`).
        name: Shown in reports and stored with fitted state.
        mean, std: Subtracted from and divided into the scaled images, one number or one per channel.
        card: Licence and citation of the weights.

    Raises:
        EncoderError: If a layer does not exist in the network, a kind is unknown, or what is declared contradicts
            itself.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> encoder = HookedEncoder(network, {"1": "BCHW"}, size=32, intensity="quantile")
        >>> {layer: tuple(found.shape) for layer, found in encoder(torch.rand(5, 1, 32, 32)).items()}
        {'1': (5, 8)}
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        layers: Mapping[str, Layer | Layout | str],
        size: int | Sequence[int],
        channels: int = 1,
        intensity: Intensity | Sequence[float] = "minmax",
        pooling: Pooling | str = "mean",
        name: str = "module",
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        card: Card | None = None,
    ) -> None:
        super().__init__()
        self.layers = _check_layers(layers, network)
        self.network = network.eval().requires_grad_(False)
        self.size = _check_size(size)
        self.intensity: Intensity = _check_intensity(intensity)
        self.pooling = choice("pooling", pooling, Pooling, EncoderError)
        self.channels, self.name, self.card = channels, name, card or Card()
        self.register_buffer("mean", self._per_channel("mean", mean), persistent=False)
        self.register_buffer("std", self._per_channel("std", std), persistent=False)

    def train(self, mode: bool = True) -> "HookedEncoder":
        """Stays in eval mode whatever its owner does: batch statistics would make features depend on the batch."""
        return super().train(False)

    def forward(self, images: Images) -> LayerFeatures:
        """Pooled features of preprocessed images, layer by layer.

        Raises:
            EncoderError: If a layer was not reached, or returned something else than was declared.
        """
        return {key: pool(output, self.layers[key], self.pooling, key) for key, output in self._outputs(images).items()}

    def with_windows(self, images: Images) -> RegionalFeatures:
        """As `forward`, and the same pooled over each window of `images.windows`.

        Layers without a map (`BC`, or pooling `cls`) have no windows.
        """
        whole, parts = LayerFeatures(), LayerFeatures()
        for key, output in self._outputs(images).items():
            layer = self.layers[key]
            whole[key] = pool(output, layer, self.pooling, key)
            if self.pooling is not Pooling.CLS and (shape := map_shape(output, layer, self.size)) is not None:
                parts[key] = pool_windows(output, layer, self.pooling, shape)
        return RegionalFeatures(whole, parts)

    @torch.no_grad()
    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the tapped layers return, in their declared order."""
        found: dict[str, Tensor] = {}
        with self._taps(found), suppress(_AllLayersReached):
            self.network(self._ready(images))
        unreached = [key for key in self.layers if key not in found]
        if unreached:
            raise EncoderError(f"needed the outputs of {unreached}; the forward of {self.name!r} did not reach them.")
        return {key: found[key] for key in self.layers}

    def _ready(self, images: Tensor) -> Tensor:
        floating = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), images.dtype)
        shape = (1, -1, *(1 for _ in self.size))
        return ((images - self.mean.view(shape)) / self.std.view(shape)).to(floating)

    def _per_channel(self, name: str, values: float | Sequence[float]) -> Tensor:
        found = torch.as_tensor(values, dtype=torch.float32).flatten()
        if len(found) not in (1, self.channels) or (name == "std" and (found <= 0).any()):
            raise EncoderError(
                f"needed {name} as one number or one for each of {self.channels} channels"
                f"{', above 0' if name == 'std' else ''}; {values!r} came."
            )
        return found

    def fingerprint(self) -> str:
        """Hash of weights, layers and input convention: changes when any feature could."""
        declared = {key: vars(layer) for key, layer in self.layers.items()}
        # repr: layers without weights (a pooling size, say) change features too.
        taken = (self.size, self.channels, self.intensity, self.mean.tolist(), self.std.tolist())
        spec = (self.name, repr(self.network), declared, *taken, self.pooling)
        digest = hashlib.blake2b(repr(spec).encode(), digest_size=16)
        for key, value in sorted(self.network.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @contextmanager
    def _taps(self, found: dict[str, Tensor]) -> Iterator[None]:
        def tap(key: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                found[key] = output = output[0] if isinstance(output, tuple) else output
                if not isinstance(output, Tensor):
                    raise EncoderError(
                        f"needed a tensor from the layer {key!r}; it returns {type(output).__name__}. Tap a submodule."
                    )
                if len(found) == len(self.layers):
                    raise _AllLayersReached

            return hook

        handles = [self.network.get_submodule(key).register_forward_hook(tap(key)) for key in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Outputs(nn.Module):
    """Gives names to the tensors that a network returns, `outputs.0`, `outputs.1`, …, so that they can be tapped.

    For networks whose submodules cannot be (compiled ones) or need not be (that return their hidden states).
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.network = network
        self.outputs = nn.ModuleList(nn.Identity() for _ in range(count))

    def forward(self, images: Images) -> None:
        returned = self.network(images)
        returned = list(returned) if isinstance(returned, (tuple, list)) else [returned]
        if len(returned) < len(self.outputs):
            raise EncoderError(f"needed {len(self.outputs)} tensors from the network; it returns {len(returned)}.")
        for name, tensor in zip(self.outputs, returned, strict=False):
            name(tensor)


class _AllLayersReached(Exception):
    """Ends a forward whose remaining layers nobody asked for."""


def _check_layers(layers: Mapping[str, Layer | Layout | str], network: nn.Module) -> dict[str, Layer]:
    if not layers:
        raise EncoderError("needed at least one layer to tap; none was named. Example: layers={'layer4': 'BCHW'}.")
    modules = dict(network.named_modules())
    if missing := [key for key in layers if key not in modules]:
        known = [key for key in modules if key][:40]
        raise EncoderError(f"needed submodules {missing}; the network has none of that name. It has: {known}.")
    return {key: layer if isinstance(layer, Layer) else Layer(layer) for key, layer in layers.items()}


def _check_size(size: int | Sequence[int]) -> tuple[int, ...]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) not in (2, 3) or min(sides) < 1:
        raise EncoderError(f"needed a size of (height, width) or (depth, height, width); {size!r} came.")
    return sides


def _check_intensity(intensity: Intensity | Sequence[float]) -> Intensity:
    """A scaling that exists, or a window of two rising levels, which may come as any sequence."""
    if isinstance(intensity, str):
        return choice("intensity", intensity, Scaling, EncoderError)
    levels = tuple(intensity)
    if len(levels) != 2 or not levels[0] < levels[1]:
        raise EncoderError(f"needed an intensity window (low, high) with low < high; {levels} came.")
    return float(levels[0]), float(levels[1])
