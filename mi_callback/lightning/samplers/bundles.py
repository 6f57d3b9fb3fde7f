"""MONAI bundles: what an item of their configuration makes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mi_callback.errors import SamplerError
from mi_callback.lightning.samplers.averages import averaged_copy
from mi_callback.lightning.samplers.found import FoundSampler, Setting, attribute, is_a


class BundleSampler:
    """Evaluates an item of a bundle's configuration for each batch, with the module's network in place of the bundle's.

    Args:
        config: The configuration file, or files that complete each other, as `ConfigParser` reads them.
        sample: Id of the item that makes images, `(n, c, h, w)`.
        count: Id of the item that holds n.
        network: Dotted name below the module of the network that is trained; the module itself when None.
        network_id: Id of the item in whose place it is put; None to leave the configuration's own.

    Example:
        >>> MemorizationCallback(sampler=BundleSampler("bundle/configs/inference.json"))  # doctest: +SKIP
    """

    def __init__(
        self,
        config: str | Path | Sequence[str | Path],
        sample: str = "sample",
        count: str = "batch_size",
        network: str | None = None,
        network_id: str | None = "network",
    ) -> None:
        self.config = [config] if isinstance(config, (str, Path)) else list(config)
        self.sample, self.count, self.network, self.network_id = sample, count, network, network_id

    def bind(self, module: nn.Module, setting: Setting) -> FoundSampler:
        """How to draw images from this module; see `ReadySampler`."""
        missing = [str(file) for file in self.config if not Path(file).is_file()]
        if missing:
            raise SamplerError(f"needed the configuration of a bundle; {missing} are no files.")
        network = module if self.network is None else attribute(module, self.network)
        averaged = None if self.network is None else averaged_copy(module, self.network, network)

        def draw(n: int, condition: Any = None) -> Any:
            return self._evaluate(network if averaged is None else averaged[1], n, condition)

        return FoundSampler(
            draw, f"item {self.sample!r} of the bundle {Path(self.config[0]).name}", averaged is not None
        )

    def _evaluate(self, network: nn.Module, n: int, condition: Any) -> Any:
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config([str(file) for file in self.config])
        parser[self.count] = n
        if condition is not None:
            parser["condition"] = condition
        if self.network_id is not None:
            parser[self.network_id] = network
        drawn = parser.get_parsed_content(self.sample)
        return drawn[0] if isinstance(drawn, tuple) and not is_a(drawn, "torch", "Tensor") else drawn
