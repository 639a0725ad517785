"""``slipway check --post cis``: a cluster against the CIS Kubernetes Benchmark 1.12, item by item. Nothing is asked and done here.

Items that the benchmark leaves to manual review are warnings where they do not hold, all others failures. Items that only a person can
judge (which rights users need, how they sign in) are left out.
"""

# Each module adds its items: this is the order in which they are reported.
# isort: off
from harness.lifecycle.checks.postflight.cis import files, control_plane, nodes, policies  # noqa: F401 -- see above

# isort: on
from harness.lifecycle.checks.postflight.cis.core import CHECKS, evaluate

__all__ = ["CHECKS", "evaluate"]
