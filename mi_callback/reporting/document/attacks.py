"""Which attacks were tested and which were not, in the words of European regulators; what the report does not show.

References:
    EDPB, Opinion 28/2024 on certain data protection aspects related to the processing of personal data in the context
    of AI models, paragraph 55 (attacks against which a claim of anonymity is to be tested).
    Article 29 Working Party, Opinion 05/2014 on anonymisation techniques (singling out, linkability, inference).
    Giomi et al., "A unified framework for quantifying privacy risk in synthetic data", PoPETs 2023 (Anonymeter: main
    attack, control, baseline).
"""

from typing import Any

from mi_callback.reporting.document.context import Context, Release
from mi_callback.scores import Scores

TESTED, IN_PART, NOT_RUN = "tested", "tested in part", "not run"


def threat_model(release: Release) -> list[str]:
    """Against whom the audit protects, a sentence each."""
    sentences = [
        "The attacker has the samples that were audited, and recognises a person in one that copies a training image.",
        "The auditor stands for the strongest such attacker: every sample is compared with every training image, under "
        "flips, turns, zooms, changes of contrast and registration, as far as they are switched on in the settings.",
        "Not covered: attackers who have the model, its weights or gradients, choose prompts or conditions, or draw "
        "more samples than were audited; and persons of whom no image is in the training folder.",
    ]
    if release.gives_model:
        sentences.append(
            "The model itself is given away, or that is not excluded: whoever has it can draw any number of samples "
            "and run the attacks that were not run here. For that release this report is a necessary check and no "
            "sufficient one."
        )
    return sentences


def attacks(scores: Scores) -> list[dict[str, str]]:
    """The attacks that EDPB Opinion 28/2024 names, each with whether it was tested and how."""
    membership = scores.target_decoy is not None or scores.control is not None
    rows = [
        (
            "Membership inference",
            IN_PART if membership else NOT_RUN,
            "From the samples alone: are they closer to people trained on than to people held out? Not from the model."
            if membership
            else "Whether a person was trained on can be told without a copy. Held-out people and "
            "detector.contrast=true test it from the samples.",
        ),
        ("Attribute inference", NOT_RUN, "Whether a property of a person can be learned from samples of others."),
        ("Exfiltration", NOT_RUN, "Whether training data can be drawn out of the model by chosen inputs."),
        (
            "Regurgitation of training data",
            TESTED,
            f"All {len(scores)} samples, as they were drawn, against every training image.",
        ),
        ("Model inversion", NOT_RUN, "Whether training images can be optimised for with access to the model."),
        ("Reconstruction", NOT_RUN, "Whether training images can be rebuilt from weights, gradients or many outputs."),
    ]
    return [{"name": name, "status": status, "said": said} for name, status, said in rows]


def criteria(scores: Scores, context: Context) -> dict[str, Any]:
    """Singling out, linkability and inference: the main attack beside a control and a baseline, or None."""
    return {
        "singling_out": _singling_out(scores),
        "linkability": _linkability(scores, context),
        "inference": {
            "question": "Can something be learned about a person that the samples do not show?",
            "main": None,
            "control": None,
            "baseline": None,
            "said": "Not measured.",
        },
    }


def _singling_out(scores: Scores) -> dict[str, Any]:
    flagging, control = scores.flagging, scores.control
    known = flagging.calibrated
    return {
        "question": "Does a sample show one person of the training set?",
        "main": flagging.rate if known else None,
        "control": control.rate if control is not None and control.calibrated else None,
        "baseline": flagging.rule.alpha if known and flagging.rule.fdr is None else None,
        "said": "Main: share of samples that are flagged. Control: the share that is flagged against "
        "people who were not trained on. "
        "Baseline: the share that is flagged at most where nothing is copied, by calibration on held-out people.",
    }


def _linkability(scores: Scores, context: Context) -> dict[str, Any]:
    power, train = scores.power, context.sides["train"]
    main = None
    if power is not None:
        main = sum(float(found.double().mean()) for found in power.traced.values()) / len(power.traced)
    people = None if train is None else train.people or train.images
    return {
        "question": "Can a copy be linked to the record of the person whom it shows?",
        "main": main,
        "control": None,
        "baseline": None if people is None or main is None else 1 / people,
        "said": "Main: share of copies that were planted by the auditor whose right person is named; it says how well "
        "copies would be linked, not that there are any. Baseline: naming a training person at random.",
    }


def limits(scores: Scores, context: Context) -> list[str]:
    """What the report does not show, a sentence each."""
    found = [
        "This report is no proof of anonymity. It is evidence for an assessment by the persons named in it.",
        "It makes no statement about compliance with the law, and is no medical device.",
        "It holds for the files with the hashes above. Other samples of the same model are covered by the certificate "
        "only as far as they are drawn in the same way.",
        "Copies of kinds that the detector does not see are not counted; the power shows the kinds that were tried.",
        "A flag is evidence, not proof: a person has to look at the pairs.",
    ]
    if scores.power is None:
        found.append("Power was not measured: how many copies would have been missed is unknown.")
    if not scores.flagging.null.subjects_known:
        found.append("Whose the real images are is not known: each counts as its own person, which is too optimistic.")
    if scores.flagging.null.kind != "held_out":
        found.append("There were no held-out people: chance was estimated from the training people themselves.")
    if context.release.gives_model:
        found.append("Attacks on the model itself were not run.")
    return found
