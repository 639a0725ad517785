"""The environment that templates of these tests are rendered with."""

from __future__ import annotations

ENV = {"Port": "8443", "PodCIDR": "100.64.0.0/10", "Empty": "", "lower": "l", "etc-dir": "/data", "Nested": "{{ .Port }}", "Yes": "false"}
