"""What every encoder is: declared layers, declared input, pooled features out."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mi_callback import regions
from mi_callback.errors import EncoderError
from mi_callback.preprocessing import Intensity
from mi_callback.types import LayerFeatures

Layout = Literal["BCHW", "BHWC", "BNC", "BC", "BCDHW"]
Pooling = Literal["mean", "gem", "mean_std", "cls"]

_NDIM = {"BCHW": 4, "BHWC": 4, "BNC": 3, "BC": 2, "BCDHW": 5}


@dataclass(frozen=True)
class Layer:
    """One tapped layer. Its layout is declared, never guessed: `[B, h, w, C]` and `[B, C, h, w]` look alike."""

    layout: Layout
    prefix_tokens: int = 0
    """CLS and register tokens in front of the patch tokens of a `BNC` layer."""


@runtime_checkable
class Encoder(Protocol):
    """Preprocessed images `(n, channels, *size)` → `{layer: (n, d)}`. Any `torch.nn.Module` with these works."""

    name: str
    layers: Mapping[str, Layer]
    size: tuple[int, int]
    channels: int
    intensity: Intensity

    def __call__(self, images: Tensor) -> LayerFeatures: ...

    def fingerprint(self) -> str: ...


class HookedEncoder(nn.Module):
    """Makes an encoder of any network by tapping named submodules during its forward.

    The hooks live for one forward, are removed even when it raises, and end it as soon as the last layer was
    reached. The network is put into eval mode and its gradients are off.

    Args:
        network: Takes `(n, channels, *size)`; must give the same answer to the same image (eval mode).
        layers: Dotted submodule name → layout (`"BCHW"`) or `Layer`.
        size: Input height and width; images are fitted to it with their proportions kept.
        channels: Input channels; single-channel images are repeated.
        intensity: Scaling that the network expects: `minmax`, `quantile`, `zscore`, `none`.
        pooling: `mean`; `gem` (generalised mean, p = 3, of the positive part); `mean_std`; `cls` (first token).
        name: Shown in reports and stored with fitted state.

    Raises:
        EncoderError: If a layer does not exist in the network.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Mapping[str, Layout | Layer],
        size: int | tuple[int, int],
        channels: int = 1,
        intensity: Intensity = "minmax",
        pooling: Pooling = "mean",
        name: str = "module",
    ) -> None:
        super().__init__()
        if not layers:
            raise EncoderError("needed at least one layer to tap; none was named. Example: layers={'layer4': 'BCHW'}.")
        self.layers = {key: layer if isinstance(layer, Layer) else Layer(layer) for key, layer in layers.items()}
        modules = dict(network.named_modules())
        missing = [key for key in self.layers if key not in modules]
        if missing:
            known = [key for key in modules if key][:40]
            raise EncoderError(f"needed submodules {missing}; the network has none of that name. It has: {known}.")
        wrong = [layer.layout for layer in self.layers.values() if layer.layout not in _NDIM]
        if wrong:
            raise EncoderError(f"needed layouts out of {list(_NDIM)}; {wrong} came.")
        self.network = network.eval().requires_grad_(False)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.channels, self.intensity, self.pooling, self.name = channels, intensity, pooling, name

    def train(self, mode: bool = True) -> "HookedEncoder":
        """Stays in eval mode whatever its owner does: batch statistics would make features depend on the batch."""
        return super().train(False)

    def forward(self, images: Tensor) -> LayerFeatures:
        return {key: pool(output, self.layers[key], self.pooling, key) for key, output in self._outputs(images).items()}

    def with_regions(self, images: Tensor) -> tuple[LayerFeatures, LayerFeatures]:
        """As `forward`, and the same pooled over each window of `regions`: `{layer: (n, regions.COUNT, d)}`.

        Layers without a map (`BC`, or pooling `cls`) have no regions.
        """
        whole, parts = LayerFeatures(), LayerFeatures()
        for key, output in self._outputs(images).items():
            layer = self.layers[key]
            whole[key] = pool(output, layer, self.pooling, key)
            if (shape := self._map_shape(output, layer)) is not None:
                parts[key] = pool_windows(output, layer, self.pooling, shape)
        return whole, parts

    def _map_shape(self, output: Tensor, layer: Layer) -> tuple[int, int] | None:
        """Height and width of a layer's map; None where it has none in two dimensions."""
        if self.pooling == "cls":
            return None
        match layer.layout:
            case "BCHW":
                return output.shape[2], output.shape[3]
            case "BHWC":
                return output.shape[1], output.shape[2]
            case "BNC":  # tokens row by row, as many to a side as the input's proportions say
                tokens = output.shape[1] - layer.prefix_tokens
                height = max(1, round(math.sqrt(tokens * self.size[0] / self.size[1])))
                return (height, tokens // height) if tokens % height == 0 else None
            case _:
                return None

    @torch.no_grad()
    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the tapped layers return, in their declared order."""
        found: dict[str, Tensor] = {}
        with self._taps(found), suppress(_AllLayersReached):
            self.network(images)
        unreached = [key for key in self.layers if key not in found]
        if unreached:
            raise EncoderError(f"needed the outputs of {unreached}; the forward of {self.name!r} did not reach them.")
        return {key: found[key] for key in self.layers}

    def fingerprint(self) -> str:
        """Hash of weights, layers and input convention: changes when any feature could."""
        declared = {key: asdict(layer) for key, layer in self.layers.items()}
        # repr: layers without weights (a pooling size, say) change features too.
        spec = (self.name, repr(self.network), declared, self.size, self.channels, self.intensity, self.pooling)
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


class _AllLayersReached(Exception):
    """Ends a forward whose remaining layers nobody asked for."""


def pool(activation: Tensor, layer: Layer, pooling: Pooling, name: str = "layer") -> Tensor:
    """`(n, …)` in the declared layout → `(n, d)` float32, pooled over everything that is not a channel."""
    if activation.ndim != _NDIM[layer.layout]:
        raise EncoderError(
            f"needed a {layer.layout} output of {name!r}; it has shape {tuple(activation.shape)}. Declare its layout."
        )
    activation = activation.float()
    if layer.layout == "BC":
        return activation
    if pooling == "cls":
        if layer.layout != "BNC" or layer.prefix_tokens < 1:
            raise EncoderError(f"needed a BNC layer with a CLS token for pooling 'cls'; {name!r} is {layer}.")
        return activation[:, 0]
    places = _places(activation, layer)
    return _average(places, places.new_full((1, places.shape[2]), 1 / places.shape[2]), pooling)[:, 0]


def pool_windows(activation: Tensor, layer: Layer, pooling: Pooling, shape: tuple[int, int]) -> Tensor:
    """The output of a layer with a map of `shape`, pooled over each window: `(n, regions.COUNT, d)` float32."""
    places = _places(activation.float(), layer)
    return _average(places, regions.weights(*shape).to(places), pooling)


def _places(activation: Tensor, layer: Layer) -> Tensor:
    """Channels, then everything that is not one: `(n, d, places)`."""
    match layer.layout:
        case "BNC":
            return activation[:, layer.prefix_tokens :].transpose(1, 2)
        case "BHWC":
            return activation.flatten(1, 2).transpose(1, 2)
        case _:
            return activation.flatten(2)


def _average(places: Tensor, weights: Tensor, pooling: Pooling) -> Tensor:
    """Pool `(n, d, places)` under each row of `weights` `(k, places)`: `(n, k, d)`."""

    def mean(values: Tensor) -> Tensor:
        return (values @ weights.T).transpose(1, 2)

    match pooling:
        case "mean":
            return mean(places)
        case "gem":
            return generalised_mean(places, weights=weights).transpose(1, 2)
        case "mean_std":
            average = mean(places)
            return torch.cat([average, (mean(places.square()) - average.square()).clamp_min(0).sqrt()], dim=2)
        case _:
            raise EncoderError(f"needed pooling mean, gem, mean_std or cls; {pooling!r} came.")


def generalised_mean(places: Tensor, p: float = 3.0, epsilon: float = 1e-6, weights: Tensor | None = None) -> Tensor:
    """GeM over the last axis (Radenović et al. 2019): between the mean (p = 1) and the maximum (p → ∞).

    With `weights` `(k, places)`, whose rows sum to 1, one such mean for each row: `(…, places)` → `(…, k)`.
    """
    powers = places.clamp_min(epsilon).pow(p)
    return (powers.mean(dim=-1) if weights is None else powers @ weights.T).pow(1 / p)
