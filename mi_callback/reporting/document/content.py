"""Scores and their context → one dictionary with all that a report says. Nothing in it names a person or a file."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from mi_callback.reporting.document.attacks import attacks, criteria, limits, threat_model
from mi_callback.reporting.document.context import Context, Side
from mi_callback.reporting.document.schema import SCHEMA_NAME
from mi_callback.reporting.document.sentences import certainty, gate_in_words, verdict_in_words
from mi_callback.reporting.record.reviews import Decision, Review
from mi_callback.scores import Scores
from mi_callback.statistics.rates.clopper_pearson import clopper_pearson
from mi_callback.statistics.rates.detectable import CHANCE, smallest_detectable_rate
from mi_callback.statistics.verdict import LEVEL, more_than_control

BINS, PEOPLE = (10, 40), 10
"""Fewest and most bins of the distribution of MI, and people that are counted one by one."""

PRIVACY_SCORE = (
    "1 minus the upper limit of the certificate: the share of samples that are no copies of training images, at least, "
    "with 95 % confidence, where copies are of the kinds that were planted. It is 0 to 1, larger is more private, and "
    "no measure of anonymity. Not given where the power was not measured."
)


def build_report(scores: Scores, context: Context) -> dict[str, Any]:
    """Everything that is said, as JSON holds it: `report.schema.json` says what each part means.

    Args:
        scores: Of what was judged.
        context: All the rest.
    """
    report = {
        "schema": SCHEMA_NAME,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": _verdict(scores),
        "gate": _gate(context),
        "release": context.release.shown,
        "data": {name: None if side is None else _side(side) for name, side in context.sides.items()},
        "files": {name: dict(counts) for name, counts in context.files.items()},
        "threat_model": threat_model(context.release),
        "attacks": attacks(scores),
        "criteria": criteria(scores, context),
        "control": _control(scores),
        "contrast": _contrast(scores),
        "privacy_score": _privacy_score(scores),
        "certificate": _certificate(scores),
        "power": _power(scores),
        "detectable": _detectable(scores),
        "memorized": _memorized(scores),
        "reviews": reviews_in_report([key for key, flag in zip(context.keys, scores.flagged, strict=True) if flag],
                                     context.reviews),
        "subgroups": _subgroups(scores, context.subgroups),
        "distribution": _distribution(scores, context),
        "limits": limits(scores, context),
        "filtered": None,
        "numbers": _numbers(scores, context.set_scores),
        "settings": dict(context.settings),
        "versions": dict(context.versions),
        "fingerprints": dict(context.fingerprints),
    }  # fmt: skip
    return _finite(report)


def reviews_in_report(flagged: Sequence[str], reviews: Mapping[str, Review]) -> dict[str, Any]:
    """Decisions on what is flagged now, and how many flags nobody has decided on.

    Args:
        flagged: Keys of the flagged images.
        reviews: Decisions, by key.
    """
    decided = [reviews[key] for key in dict.fromkeys(flagged) if key in reviews]
    of = Counter(reviews[key].decision for key in flagged if key in reviews)
    return {
        "confirmed": of[Decision.CONFIRMED],
        "false_alarm": of[Decision.FALSE_ALARM],
        "open": len(flagged) - of.total(),
        "decisions": [
            {"key": one.key, "decision": str(one.decision), "by": one.by, "time": one.time} for one in decided
        ],
    }


def _verdict(scores: Scores) -> dict[str, Any]:
    return {
        "verdict": str(scores.verdict),
        "sentence": verdict_in_words(scores),
        "certainty": certainty(scores),
        "doubts": list(scores.doubts),
        "notes": list(scores.notes),
    }


def _gate(context: Context) -> dict[str, Any]:
    passed = context.gate.passed
    return {
        "passed": passed,
        "sentence": gate_in_words(passed),
        "conditions": [condition._asdict() for condition in context.gate.conditions],
    }


def _side(side: Side) -> dict[str, Any]:
    return side._asdict()


def _control(scores: Scores) -> dict[str, Any] | None:
    """The same samples against people who were trained on and against people who were not."""
    control = scores.control
    if control is None or not control.calibrated:
        return None
    return {
        "members_flagged": scores.n_flagged,
        "members_rate": scores.flagging.rate,
        "non_members_flagged": control.count,
        "non_members_rate": control.rate,
        "p_value": min(1.0, more_than_control(scores.flagging, control)),
    }


def _contrast(scores: Scores) -> dict[str, Any] | None:
    contrast = scores.target_decoy
    if contrast is None:
        return None
    return {
        "p_value": contrast.p_value,
        "least_p_value": contrast.least,
        "closest_in_train": float(contrast.in_train.double().mean()),
        "expected_in_train": contrast.expected_share,
        "people_leaked": contrast.leaked,
        "fdr": contrast.fdr,
    }


def _certificate(scores: Scores) -> dict[str, Any] | None:
    if not scores.flagging.calibrated:
        return None
    found = scores.certificate()
    return {
        "rate_upper": found.rate_upper,
        "confidence": found.confidence,
        "n": found.n,
        "flagged": found.flagged,
        "power_measured": found.power is not None,
        "power_lower": found.power_lower,
        "statement": found.statement,
    }


def _privacy_score(scores: Scores) -> dict[str, Any]:
    known = scores.flagging.calibrated and scores.power is not None
    return {"value": 1 - scores.certificate().rate_upper if known else None, "definition": PRIVACY_SCORE}


def _power(scores: Scores) -> dict[str, Any] | None:
    power = scores.power
    if power is None:
        return None
    names = ("change", "flagged", "lower", "upper", "right_person")
    return {
        "overall": power.overall,
        "images": power.n,
        "found": power.counts[0],
        "alpha": power.alpha,
        "missed": power.missed,
        "by_change": [dict(zip(names, row, strict=True)) for row in power.table()],
    }


def _detectable(scores: Scores) -> dict[str, Any]:
    flagging, rate = scores.flagging, None
    if flagging.calibrated and flagging.rule.fdr is None and scores.power is not None:
        null = flagging.null
        rate = smallest_detectable_rate(
            flagging.n_distinct,
            flagging.rule.alpha,
            null.n_subjects,
            scores.power.overall,
            null.several_each,
            null.kind,
            LEVEL / len(flagging.levels),  # as the verdict, which looks at as many
        )
    return {"rate": rate, "chance": CHANCE}


def _memorized(scores: Scores) -> dict[str, Any]:
    """Counts; people are numbered by how often they are matched, which tells nobody who they are."""
    rows = scores.flagged.nonzero().flatten().tolist()
    images = [int(scores.match[i]) for i in rows]
    known = scores.images.subjects_known
    people = Counter(scores.match_subject[i] for i in rows) if known else None
    counted = (Counter(images) if people is None else people).most_common(PEOPLE)
    called = "training image" if people is None else "person"
    return {
        "samples": len(scores),
        "distinct": scores.flagging.n_distinct,
        "flagged": scores.n_flagged,
        "expected": scores.flagging.expected,
        "training_images": len(set(images)),
        "people": None if people is None else len(people),
        "most_copied": [{"who": f"{called} {k}", "flagged": n} for k, (_, n) in enumerate(counted, start=1)],
    }


def _subgroups(scores: Scores, names: Sequence[str] | None) -> list[dict[str, Any]]:
    rows = []
    for name in sorted(set(names or ())):
        chosen = torch.tensor([one == name for one in names or ()])
        flagged, n = int(scores.flagged[chosen].sum()), int(chosen.sum())
        lower, upper = clopper_pearson(flagged, n)
        rows.append({"name": name, "n": n, "flagged": flagged, "share": flagged / n, "lower": lower, "upper": upper})
    return rows


def _distribution(scores: Scores, context: Context) -> dict[str, Any]:
    """Shares of samples and of null images by MI."""
    mi, null = scores.mi.double(), context.null_mi
    everything = mi if null is None else torch.cat([mi, null.double()])
    everything = everything[everything.isfinite()]
    low, high = float(everything.min()), float(everything.max())
    bins = min(max(BINS[0], round(2 * len(everything) ** 0.5)), BINS[1])
    edges = torch.linspace(low, high if high > low else low + 1, bins + 1, dtype=torch.float64)

    def shares(values: torch.Tensor) -> list[float]:
        counts = torch.histogram(values[values.isfinite()].double().contiguous(), edges).hist
        return [float(count) / max(len(values), 1) for count in counts]

    return {
        "edges": edges.tolist(),
        "generated": shares(mi),
        "null": None if null is None else shares(null),
        "null_kind": str(scores.null_kind),
        "null_images": scores.flagging.null.n_images,
        "null_people": scores.null_subjects if scores.flagging.null.subjects_known else None,
    }


def _numbers(scores: Scores, set_scores: Mapping[str, float]) -> dict[str, Any]:
    """The flat dictionary that is logged of a training run, with what it rests on."""
    flagging = scores.flagging
    return {
        "n": len(scores),
        "alpha": flagging.rule.alpha,
        "fdr": flagging.rule.fdr,
        "null": str(flagging.null.kind),
        "null_subjects": flagging.null.n_subjects,
        "smallest_p": flagging.null.smallest_p,
        **scores.summary(),
        **set_scores,
    }


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
