"""Methods that give the same maps are one treatment: they are ranked, tested and counted once."""

from collections.abc import Collection, Iterable, Mapping, Sequence

SameAs = Mapping[str, Mapping[str, str]]
"""By model, CAMs to a CAM that gives the same maps; a CAM that is not named has maps of its own."""


def first_of(cam: str, same: Mapping[str, str]) -> str:
    """The CAM that stands for this one: the end of its chain of equal maps."""
    seen = {cam}
    while (other := same.get(cam)) is not None and other not in seen:
        seen.add(other)
        cam = other
    return cam


def treatments(cams: Iterable[str], *models: Mapping[str, str]) -> dict[str, list[str]]:
    """The different treatments among some CAMs, each with its twins.

    Args:
        cams: names.
        models: for each model, CAMs to the CAM that gives the same maps. Several models are taken together: only
            methods that coincide under all of them are one treatment.

    Returns:
        In the order of the names, the CAM that stands for a treatment, and the other CAMs that are the same.

    >>> treatments(["gradcam", "hirescam", "eigencam"], {"hirescam": "gradcam"})
    {'gradcam': ['hirescam'], 'eigencam': []}
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for cam in cams:
        key = tuple(first_of(cam, same) for same in models) or (cam,)
        groups.setdefault(key, []).append(cam)
    found = {}
    for key, members in groups.items():
        first = next((cam for cam in members if cam in key), members[0])
        found[first] = [cam for cam in members if cam != first]
    return found


def twins_under(models: Collection[str], cams: Sequence[str], same_as: SameAs) -> list[tuple[str, str]]:
    """Model and CAM of every method that gives the same maps as another one that stands for it."""
    return [
        (model, twin)
        for model in models
        for twins in treatments(cams, same_as.get(model, {})).values()
        for twin in twins
    ]


def merged(parts: Iterable[SameAs]) -> dict[str, dict[str, str]]:
    """What several runs found about the same models, together."""
    whole: dict[str, dict[str, str]] = {}
    for part in parts:
        for model, same in part.items():
            for cam, other in same.items():
                whole.setdefault(model, {}).setdefault(cam, other)
            whole.setdefault(model, {})
    return whole
