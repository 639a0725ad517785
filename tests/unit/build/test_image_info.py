"""Run settings of an image, and the values that must not be in them."""

from __future__ import annotations

from harness import kubefile
from harness.build.image_info import exposed
from harness.build.layers import BuildStep
from harness.cloudimage import Info

KUBEFILE = """FROM scratch
ARG DB_PASSWORD=changeit1
ARG PORT=8443
ARG API_TOKEN=fromfile1
CMD app --login ${DB_PASSWORD} --port ${PORT}
"""


def test_exposed_secret_build_argument_in_image_is_reported() -> None:
    parsed = kubefile.parse(KUBEFILE, "K", build_args={"DB_PASSWORD": 'hunter"2 é'})
    (warning,) = exposed(parsed, Info(type="app", launch=parsed.launch or ('app --login hunter"2 é --port 8443',)), [])
    assert warning.startswith("K:2: the value of ARG DB_PASSWORD looks like a secret")
    assert "run -e" in warning
    assert "hunter" not in warning
    (warning,) = exposed(parsed, Info(type="app"), [BuildStep("1", "RUN curl -H fromfile1", None)])
    assert warning.startswith("K:4:")


def test_exposed_argument_harmless_or_outside_image_is_not_reported() -> None:
    parsed = kubefile.parse(KUBEFILE, "K")
    assert exposed(parsed, Info(type="app", launch=("app --port 8443",)), [BuildStep("1", "COPY a b", None)]) == []
