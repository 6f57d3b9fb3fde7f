"""What every encoder is: declared layers, declared input, pooled features out."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

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

    @torch.no_grad()
    def forward(self, images: Tensor) -> LayerFeatures:
        found: dict[str, Tensor] = {}
        with self._taps(found), suppress(_AllLayersReached):
            self.network(images)
        unreached = [key for key in self.layers if key not in found]
        if unreached:
            raise EncoderError(f"needed the outputs of {unreached}; the forward of {self.name!r} did not reach them.")
        return {key: pool(found[key], layer, self.pooling, key) for key, layer in self.layers.items()}

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
    match layer.layout:
        case "BNC":
            places = activation[:, layer.prefix_tokens :].transpose(1, 2)
        case "BHWC":
            places = activation.flatten(1, 2).transpose(1, 2)
        case _:
            places = activation.flatten(2)
    match pooling:
        case "mean":
            return places.mean(dim=2)
        case "gem":
            return generalised_mean(places)
        case "mean_std":
            return torch.cat([places.mean(dim=2), places.std(dim=2, unbiased=False)], dim=1)
        case _:
            raise EncoderError(f"needed pooling mean, gem, mean_std or cls; {pooling!r} came.")


def generalised_mean(places: Tensor, p: float = 3.0, epsilon: float = 1e-6) -> Tensor:
    """GeM over the last axis (Radenović et al. 2019): between the mean (p = 1) and the maximum (p → ∞)."""
    return places.clamp_min(epsilon).pow(p).mean(dim=-1).pow(1 / p)
