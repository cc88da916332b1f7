"""The part of a configuration that asks for certificates; docs/certificates.md says what they mean."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from camrobust.contract.config_parts import StrictPart

Sigma = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=5)]
MOST_SIGMAS, MOST_RADII = 10, 20
ATTACK_STEPS, ATTACK_COPIES = 10, 8
"""Steps of the attack on an image's order, and noisy copies in each."""


def tried_at(share: float, tries: int) -> int:
    """At how many images of a radius the samples are drawn again: at radius 0 there is one, the image itself."""
    return tries if share else min(tries, 1)


class CertifyConfig(StrictPart):
    """Which guarantees are computed for every map, by randomised smoothing."""

    sigma: tuple[Sigma, ...] = Field(
        (0.05, 0.12, 0.25),
        min_length=1,
        max_length=MOST_SIGMAS,
        description="standard deviations of the noise under which maps are averaged, shares of the pixel range",
    )
    samples: int = Field(1000, ge=2, le=1_000_000, description="noisy copies of an image for each sigma")
    pilot: int = Field(
        100, ge=1, le=1_000_000, description="other noisy copies, which choose the class that is explained"
    )
    alpha: float = Field(
        0.01, gt=0, lt=0.5, description="largest probability that the certificate of one image, CAM and sigma is wrong"
    )
    radii: tuple[Share, ...] = Field(
        (0.05, 0.1, 0.2, 0.5),
        min_length=1,
        max_length=MOST_RADII,
        description="l2 distances from the image, as shares of sigma",
    )
    item: Literal["rank", "top"] = Field(
        "rank", description="what is averaged over the noise: the rank of a segment, or whether it is in the top"
    )
    top: float = Field(0.2, gt=0, le=1, description="share of the segments that counts as the top")
    tries: int = Field(
        0, ge=0, le=100, description="other images at each radius where the samples are drawn again, the first one "
        "attacked and the rest in random directions, to see how well the orders agree there"
    )  # fmt: skip

    @property
    def copies(self) -> int:
        """Noisy copies of an image that pass, those of the pilot and of other images within the radii included."""
        again = sum(tried_at(share, self.tries) for share in self.radii)
        return len(self.sigma) * (self.pilot + self.samples * (1 + again))

    @property
    def attack_passes(self) -> int:
        """Forward and backward passes of the attacks on an image's order."""
        attacked = sum(1 for share in self.radii if share) if self.tries else 0
        return len(self.sigma) * attacked * ATTACK_STEPS * ATTACK_COPIES

    @field_validator("sigma", "radii")
    @classmethod
    def _different(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"must be different numbers, got {list(value)}")
        return value
