"""What the calls of a sample mean, in sentences: how contigs were called, what share is viral, how many calls are wrong.

Each function makes a paragraph of plain text from summary.json, as ``calls.predict`` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from virnucpro.classifier.evidence import MISSED, PRESETS, probability
from virnucpro.rendering import how_many

BY_THRESHOLD = "threshold"
"""How contigs were called that no preset decided on."""
_MEASURED = {
    "viral contigs called viral (recall)": ("recall",),
    "viral contigs called ambiguous": ("ambiguous", "viral"),
    "non-viral contigs called viral (false positive rate)": ("false_positive_rate",),
    "non-viral contigs called ambiguous": ("ambiguous", "non-viral"),
    "truly viral of those called viral (precision), at 1 % viral": ("precision", "0.01"),
    "precision at 5 % viral": ("precision", "0.05"),
    "precision at 20 % viral": ("precision", "0.2"),
}

Summary = Mapping[str, Any]


def by_score(summary: Summary) -> bool:
    """Whether scores were compared with a threshold, and no probabilities with those of a preset."""
    return bool(summary["calls"]["by"] == BY_THRESHOLD)


def thresholds(summary: Summary) -> list[float]:
    """Where the call of a contig changes: on its mean score, or two, highest first, on its probability."""
    if by_score(summary):
        return [summary["threshold"]]
    calls = summary["calls"]
    return [probability(calls[name], calls["prior"]) for name in ("viral", "non_viral")]


def calling(summary: Summary) -> str:
    """By which rule contigs were called, and what probabilities assume."""
    calls = summary["calls"]
    sentences = [_threshold_rule(summary) if by_score(summary) else _preset_rule(summary)]
    if calls["calibrated"]:
        sentences.append(f"Probabilities assume that {percent(calls['prior'])} of all contigs are viral (prior).")
    if limits := unscored_limits(summary):
        sentences.append(f"Contigs {limits} are unscored.")
    return " ".join(sentences)


def unscored_limits(summary: Summary) -> str:
    """Which contigs were left unscored by choice: ``shorter than 500 bases``; empty if none were."""
    calls = summary["calls"]
    limits = [f"shorter than {calls['min_length']:,} bases"] if calls["min_length"] > 0 else []
    limits += [f"with fewer than {calls['min_chunks']:,} scored chunks"] if calls["min_chunks"] > 1 else []
    return " or ".join(limits)


def prevalence(summary: Summary) -> str:
    """The share of viral contigs and its interval, or why that can't be told; empty without calibration."""
    if not summary["calls"]["calibrated"]:
        return ""
    found = summary["prevalence"]
    if found is None:
        return "No contig has a score, so nothing is known of the share that is viral, and there are no q-values."
    contigs, interval = found["contigs"], f"{estimate(found['low'])} to {estimate(found['high'])}"
    if reason := found["reason"]:
        had = f"{contigs:,} scored, interval {interval}"
        return f"What share of the contigs is viral can't be told ({reason}: {had}), so there are no q-values."
    said = f"95 % interval {interval}, of chance alone: for kinds of sequence that the calibration never saw it can be wrong"
    if found["value"] in (0, 1):
        kind, q_values = ("viral", 1) if found["value"] == 0 else ("non-viral", 0)
        return (
            f"The estimated share of viral contigs is at its bound, {estimate(found['value'])}: taken together, the "
            f"{how_many(contigs, 'scored contig')} speak for no {kind} ones ({said}). So all q-values are {q_values}."
        )
    text = f"An estimated {estimate(found['value'])} of the {how_many(contigs, 'scored contig')} {'is' if contigs == 1 else 'are'} viral ({said})."
    prior = summary["calls"]["prior"]
    if not found["low"] <= prior <= found["high"]:
        side, high = ("above", "high") if prior > found["high"] else ("below", "low")
        text += (
            f" The prior, {percent(prior)}, is {side} that interval: probabilities are too {high} for this sample as a whole. "
            "The q-values follow the estimate."
        )
    return text


def false_share(summary: Summary, highest_q: float | None) -> str:
    """The expected share of false ones among the contigs called viral, if they have q-values, of which this is the highest."""
    if highest_q is None or not summary["viral_records"]:
        return ""
    return (
        f"Of the {how_many(summary['viral_records'], 'contig')} called viral, an expected {estimate(highest_q)} are false, which is the "
        "highest of their q-values. That holds for kinds of sequence that the calibration saw; among others more can be false."
    )


def categories(viral: Mapping[str, int]) -> str:
    """Numbers of contigs called viral by category, most first; empty without a classifier that names categories."""
    if not viral:
        return ""
    most_first = sorted(viral.items(), key=lambda item: (-item[1], item[0]))
    counts = ", ".join(f"{count:,} {name}" for name, count in most_first)
    return f"Of the contigs called viral, by the likeliest category: {counts}."


def unusual(count: int, summary: Summary) -> str:
    """How many of the contigs called viral are unlike the classifier's training data; empty if none is."""
    if not count:
        return ""
    be = "is" if count == 1 else "are"
    return (
        f"Of the {how_many(summary['viral_records'], 'contig')} called viral, {count:,} {be} unlike what the classifier was trained on "
        "(distance above 1 in the table of contigs): probabilities may not hold there, so look at their genes first."
    )


def fitted_on(calibration: Mapping[str, Any]) -> str:
    """Numbers of the development data: ``1,200 viral and 1,300 non-viral contigs of 80 and 95 groups``; empty if unknown."""
    numbers = {what: calibration["fitted_on"].get(what, {}) for what in ("contigs", "groups")}
    contigs, groups = (
        [f"{count[kind]:,}" for kind in ("viral", "non-viral") if kind in count] for count in numbers.values()
    )
    if len(contigs) < 2:
        return ""
    text = f"{contigs[0]} viral and {contigs[1]} non-viral contigs"
    return text + (f" of {groups[0]} and {groups[1]} groups (genomes, organisms)" if len(groups) == 2 else "")


def curve(summary: Summary) -> list[Mapping[str, Any]]:
    """The bins of the classifier's calibration curve that have contigs; none if there is no probability to explain."""
    calibration = summary["calibration"]
    if not calibration or summary["records"] == summary["unscored_records"]:
        return []
    return [row for row in calibration["curve"] if row.get("mean_probability") is not None]


def measured(calibration: Mapping[str, Any] | None) -> list[tuple[str, list[float | None]]]:
    """How good the preset was on the development data: what, and its share of all contigs and, if known, of held-out ones.

    Empty without a preset. None stands for a share of nothing.
    """
    found = (calibration or {}).get("measured")
    if not found:
        return []
    columns = [found, found["held_out"]] if "held_out" in found else [found]
    return [(what, [_value(column, keys) for column in columns]) for what, keys in _MEASURED.items()]


def percent(share: float) -> str:
    """A number that somebody chose: ``20 %``, ``0.125 %``."""
    return f"{float(f'{100 * share:.3g}'):g} %"


def estimate(share: float) -> str:
    """An estimated share, as a percentage with one digit after the point."""
    return "less than 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %".replace(".0 %", " %")


def _threshold_rule(summary: Summary) -> str:
    text = f"A contig is called viral if the mean score of its scored chunks is at least {summary['threshold']}."
    if summary["calls"]["calibrated"]:
        text += " Probabilities and q-values play no part in calls, since a threshold was given."
    if summary["configuration"].get("fdr") is not None:
        text += " So fdr has no effect."
    return text


def _preset_rule(summary: Summary) -> str:
    calls = summary["calls"]
    viral, non_viral = thresholds(summary)
    share = percent(PRESETS[calls["by"]])
    text = (
        f"Contigs are called by the preset {calls['by']}: viral from a probability of {viral:.3f} on (logit "
        f"{calls['viral']:.2f}), which at most {share} of the non-viral contigs of the classifier's development data reach; "
        f"non-viral below {non_viral:.3f} (logit {calls['non_viral']:.2f}), where at most {percent(MISSED)} of its viral contigs "
        "are; ambiguous between. Repetitive contigs are at most ambiguous."
    )
    if calls["fdr"] is None:
        return text
    if calls["fdr"] == 0:
        return text + " Nothing is called viral, since fdr is 0: what would be is ambiguous."
    text += f" A viral contig must also have a q-value of at most {calls['fdr']:g} (fdr)"
    found = summary["prevalence"]
    return text + (". There are none, so nothing is called viral." if not found or found["reason"] else ".")


def _value(values: Any, keys: tuple[str, ...]) -> float | None:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, (int, float)) else None
