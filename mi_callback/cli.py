"""The commands, with Hydra overrides such as `detector.alpha=0.01`.

`mi-audit train=DIR generated=DIR [held_out=DIR] [out=DIR]`
`mi-encoders [name=NAME] [train=DIR [held_out=DIR] [encoders=[…]]]`
"""

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mi_callback.errors import MemorizationError

EXIT_CODES = {"clean": 0, "memorized": 2, "inconclusive": 3}
"""Exit code of `mi-audit` by verdict; 1 is an error."""


@hydra.main(version_base="1.3", config_path="pkg://mi_callback.conf", config_name="audit")
def _run(config: DictConfig) -> None:
    from mi_callback.auditing.folders import audit

    options: dict[str, Any] = {
        key: config[key]
        for key in (
            "train",
            "generated",
            "held_out",
            "out",
            "axis",
            "volumes",
            "colour",
            "power",
            "set_scores",
            "evidence",
        )
    }
    if missing := [key for key in ("train", "generated") if options[key] is None]:
        print(f"mi-audit: needed {' and '.join(f'{key}=DIR' for key in missing)}; see mi-audit --help", file=sys.stderr)
        sys.exit(1)
    detector = instantiate(config.detector, _convert_="all")
    try:
        scores = audit(**options, size=config.size and tuple(config.size), progress=True, **detector)
    except MemorizationError as error:
        print(f"mi-audit: {error}", file=sys.stderr)
        sys.exit(1)
    print(scores)
    if scores.power is not None and scores.flagging.calibrated:
        print(f"\npower self-test, planted copies of training images:\n{scores.power}\n")
    if scores.flagging.resolvable and scores.flagging.calibrated and scores.verdict != "memorized":
        print(f"certificate: {scores.certificate()}")
    if config.out is not None:
        print(f"every image with its match (patient data): {config.out}/scores.csv")
        gallery = Path(config.out) / "evidence" / "gallery.png"  # an audit removes that of an earlier one
        if config.evidence and gallery.is_file():
            print(f"flagged images beside their matches (patient data): {gallery}")
    sys.exit(EXIT_CODES[scores.verdict])


@hydra.main(version_base="1.3", config_path="pkg://mi_callback.conf", config_name="encoders")
def _run_encoders(config: DictConfig) -> None:
    from mi_callback.auditing.listing import listing_table
    from mi_callback.auditing.ranking import rank, ranking_table
    from mi_callback.encoders.listing import list_encoders

    if config.train is None and (misplaced := [key for key in ("held_out", "encoders") if config[key] is not None]):
        print(f"mi-encoders: needed train=DIR for {' and '.join(misplaced)}; see mi-encoders --help", file=sys.stderr)
        sys.exit(1)
    try:
        if config.name is not None:
            print(*list_encoders([config.name]))
        if config.train is None:
            if config.name is None:
                print(listing_table(list_encoders()))
            return
        options = {key: config[key] for key in ("train", "held_out", "axis", "volumes", "colour", "power", "images")}
        encoders = None if config.encoders is None else OmegaConf.to_container(config.encoders, resolve=True)
        detector = instantiate(config.detector, _convert_="all")
        rows = rank(encoders, **options, size=config.size and tuple(config.size), **detector)  # type: ignore[arg-type]
    except MemorizationError as error:
        print(f"mi-encoders: {error}", file=sys.stderr)
        sys.exit(1)
    print(ranking_table(rows))
    if all(row.power is None for row in rows):
        sys.exit(1)


def main() -> None:
    """Entry point of `mi-audit`."""
    _run()


def encoders() -> None:
    """Entry point of `mi-encoders`."""
    _run_encoders()


if __name__ == "__main__":
    main()
