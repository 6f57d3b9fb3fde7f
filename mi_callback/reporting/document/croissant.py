"""What an audit says of the synthetic data set, as metadata that a publisher of it can take over. No name, no path.

References:
    MLCommons, "Croissant Format Specification", version 1.0, 2024 (https://docs.mlcommons.org/croissant).
    Jain et al., "A Standardized Machine-readable Dataset Documentation Format for Responsible AI", 2024.
"""

from collections.abc import Mapping
from typing import Any

from mi_callback.reporting.document.context import NOT_STATED

CROISSANT, RAI = "http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"
"""What the metadata conform to."""

TERMS = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
}
"""Meaning of the words in it, for JSON-LD: those of the specification that are used here."""


def croissant(report: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-LD of the generated images that were audited: a fragment, without the files, which are not published yet.

    Args:
        report: What `build_report` returns.
    """
    data, release = report["data"]["generated"], report["release"]
    described = {
        "@context": TERMS,
        "@type": "sc:Dataset",
        "conformsTo": [CROISSANT, RAI],
        "name": "audited-synthetic-images",
        "description": f"{data['images']} synthetic medical images in {data['files']} files, audited for copies of the "
        "images that their generator was trained on.",
        "dateCreated": report["created"],
        "identifier": f"sha256:{data['sha256']}",
        "rai:dataCollection": _stated("Drawn from a generative model: {}.", release["generator"])
        or "Drawn from a generative model.",
        "rai:dataUseCases": _stated("{}", release["purpose"]),
        "rai:personalSensitiveInformation": _privacy(report),
        "rai:dataLimitations": [*report["limits"], *report["threat_model"]],
        "rai:dataReleaseMaintenancePlan": _plan(release),
    }
    return {key: value for key, value in described.items() if value is not None}


def _privacy(report: Mapping[str, Any]) -> list[str]:
    """What is known of people in the images, a sentence each."""
    verdict, found, certificate = report["verdict"], report["memorized"], report["certificate"]
    counted = (
        f"{found['flagged']} of {found['samples']} images were flagged as copies of training images; "
        f"{found['expected']:.1f} are expected by chance."
    )
    sentences = [verdict["sentence"], *verdict["doubts"], counted]
    if certificate is not None:
        sentences.append(certificate["statement"])
    by = f"mi_callback {report['versions']['mi_callback']}"
    return [*sentences, f"Audited by {by} under settings {report['fingerprints']['settings']}."]


def _plan(release: Mapping[str, str]) -> str | None:
    parts = [
        _stated("Responsible: {}.", release["responsible"]),
        _stated("To be looked at again by {}.", release["review_by"]),
        _stated("Terms: {}.", release["terms"]),
    ]
    return " ".join(part for part in parts if part) or None


def _stated(sentence: str, value: str) -> str | None:
    return None if value == NOT_STATED else sentence.format(value)
