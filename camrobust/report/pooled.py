"""What several runs that share a leaderboard have not in common."""

from camrobust.contract.run_record import CombinedRecord, DescribedRecord

SHOWN = 8
"""Most perturbations that are named."""


def pooled_sentences(run: DescribedRecord) -> list[str]:
    """Say which strengths were left out of a leaderboard of several runs, or that its rows hold different ones."""
    if not isinstance(run, CombinedRecord) or not run.uncommon:
        return []
    levels: dict[str, list[str]] = {}
    for one in run.uncommon:
        said = one.strength if one.severity is None else f"severity {one.severity}"
        if said not in levels.setdefault(one.perturbation, []):
            levels[one.perturbation].append(said)
    named = [f"{name} ({', '.join(said[:SHOWN])}{', …' * (len(said) > SHOWN)})" for name, said in levels.items()]
    more = f" and {len(named) - SHOWN} more perturbations" if len(named) > SHOWN else ""
    what = f"{', '.join(named[:SHOWN])}{more}"
    if run.strengths == "common":
        return [f"Left out, because not every CAM of every model was measured there: {what}."]
    return [
        f"Rows are means over different noise and cannot be compared: only some were measured under {what} "
        "(--strengths all)."
    ]
