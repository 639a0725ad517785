"""Parts of manifests of workloads."""

from __future__ import annotations


def pods_of(name: str) -> str:
    """YAML of the spec of a workload, indented by two: its pods have the label ``app``. The spec of the pods follows, indented by four."""
    return f"""selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}"""
