"""The hidden states of a transformers backbone as submodules that can be tapped."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mi_callback.encoders.checkpoints import describe_error
from mi_callback.encoders.huggingface.families import Family, as_pair, trained_size
from mi_callback.errors import EncoderError
from mi_callback.types import Images


class HiddenStates(nn.Module):
    """Passes each wanted hidden state of a backbone through a module of its own, `hidden.4`, so that it can be tapped.

    Args:
        backbone: A transformers model.
        family: Which tensors it returns.
        standardise: Whether each channel of each image is brought to zero mean and unit variance first.
        options: Further arguments of the backbone's forward.
    """

    def __init__(self, backbone: nn.Module, family: Family, standardise: bool, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone, self.family = backbone, family
        self.standardise, self.options = standardise, dict(options)
        self.hidden = nn.ModuleDict()

    def tap(self, positions: Sequence[int]) -> None:
        """Name the hidden states at `positions`."""
        self.hidden = nn.ModuleDict({str(position): nn.Identity() for position in positions})

    def forward(self, images: Images) -> None:
        """Show each wanted hidden state to the module that bears its position."""
        wanted = [int(position) for position in self.hidden]
        # Newer versions of transformers keep the listed ones only; older ones read a list as True and keep them all.
        states = self.states(images, wanted)
        for position, named in zip(wanted, self.hidden.values(), strict=True):
            named(states[position])

    def states(self, images: Images, wanted: bool | list[int] = True) -> tuple[Tensor, ...]:
        """The hidden states of images, in the family's layout."""
        if self.standardise:
            spread, centre = torch.std_mean(images, dim=(2, 3), correction=0, keepdim=True)
            images = (images - centre) / spread.clamp_min(1e-6)
        options = dict(self.options)
        if self.family.masks:  # patches are sorted by this noise: rising, it leaves them in the order of the image
            config: Any = self.backbone.config
            rows, columns = (s // p for s, p in zip(images.shape[2:], as_pair(config.patch_size), strict=True))
            options["noise"] = torch.arange(rows * columns, device=images.device).expand(len(images), -1)
        output = self.backbone(pixel_values=images, output_hidden_states=wanted, return_dict=True, **options)
        return tuple(getattr(output, self.family.field))

    def extra_repr(self) -> str:
        """What changes the features beside weights and modules: part of the encoder's fingerprint."""
        return f"{self.family}, standardise={self.standardise}, {self.options}"


@torch.no_grad()
def try_states(network: HiddenStates, images: Images, kind: str) -> tuple[Tensor, ...]:
    """The hidden states of images, or an error that says what the model refuses them for."""
    try:
        states = network.eval().states(images)
    except Exception as error:  # each family refuses in its own way
        raise EncoderError(
            f"needed hidden states from this {kind} for images of shape {tuple(images.shape[1:])}; it refuses them: "
            f"{describe_error(error)}. It was trained at {trained_size(network.backbone.config)}: pass size=…."
        ) from error
    return states


def choose_positions(layers: Sequence[int] | None, count: int, kind: str) -> list[int]:
    """Positions among `count` hidden states, none negative: those that were asked for, else three evenly spread."""
    last = count - 1
    if layers is None:
        spread = [max(1, round(last * third / 3)) for third in (1, 2, 3)]
        return sorted({min(last, position) for position in spread})
    asked = [int(position) for position in layers]
    found = [position % count for position in asked if -count <= position < count]
    if not asked or len(set(found)) < len(asked):
        raise EncoderError(
            f"needed different positions in the {count} hidden states of this {kind}, {-count} to {last}; {asked} came."
        )
    return found
