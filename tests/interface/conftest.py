import pytest

from tests.photos import write_photos


@pytest.fixture
def base(tmp_path):
    """A configuration over two photos."""
    write_photos(tmp_path / "photos", 2)
    return {
        "output": str(tmp_path / "out"),
        "datasets": [{"name": "made up", "images": str(tmp_path / "photos")}],
        "models": ["tests.toys:pooled"],
        "cams": ["gradcam"],
        "perturbations": ["gaussian_noise:1"],
    }
