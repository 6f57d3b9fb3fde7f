"""The verdict and how certain it is, for people who do not read statistics."""

from mi_callback.scores import Scores
from mi_callback.statistics.verdict import Verdict


def verdict_in_words(scores: Scores) -> str:
    """The verdict in one sentence."""
    flags = f"{scores.n_flagged} of {len(scores)} samples are flagged as copies"
    flagging = scores.flagging
    chance = (
        f"at most {flagging.expected:.1f} are expected by chance"
        if flagging.rule.fdr is None
        else f"about {flagging.expected:.1f} of these flags are expected to be false"
    )
    match scores.verdict:
        case Verdict.MEMORIZED:
            return f"The generator returns training images: {flags}, where {chance}."
        case Verdict.CLEAN:
            return f"No evidence of memorization was found: {flags}, where {chance}."
        case _:
            looked = f" {flags}: look at them." if scores.n_flagged else ""
            return f"Whether the generator returns training images cannot be decided.{looked}"


def certainty(scores: Scores) -> str:
    """How certain that is, in one sentence or two."""
    if scores.verdict == Verdict.INCONCLUSIVE:
        return "Why: " + "; ".join(scores.doubts) + "."
    if scores.verdict == Verdict.MEMORIZED:
        return _certainty_of_memorized(scores)
    if not scores.flagging.calibrated:  # a null may decide at a false discovery rate and not at alpha
        return "No certificate can be given: there are too few held-out people for alpha."
    statement = scores.certificate().statement
    return statement[0].upper() + statement[1:] + ". No evidence is no proof of absence."


def gate_in_words(passed: bool | None) -> str:
    """What a gate says to a release."""
    words = {
        True: "The gate is passed.",
        False: "The gate is not passed: do not release.",
        None: "The gate cannot be decided: do not release before it is.",
    }
    return words[passed]


def _certainty_of_memorized(scores: Scores) -> str:
    flagging = scores.flagging
    if flagging.rule.fdr is not None:
        return f"Flags were chosen at a false discovery rate of {flagging.rule.fdr:g}: that share of them may be false."
    chance = min(1.0, max(0.0, flagging.chance()))
    odds = f"{chance:.1%}" if chance >= 0.001 else "less than 0.1 %"
    return (
        f"So many flags have a probability of {odds} where nothing is copied. The verdict is about the batch: a single "
        "flag may be false."
    )
