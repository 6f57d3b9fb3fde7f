"""Lets every Hydra app find the config groups of mi_callback: `+callbacks=memorization`. Imports no torch."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class MemorizationSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="mi_callback", path="pkg://mi_callback.conf")
