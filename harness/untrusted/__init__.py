"""Readers for whatever a machine, an image, a registry or an archive says.

Nothing that comes from outside may become a path, a program or a terminal sequence on this machine, and nothing of it may take more
memory or time than its size allows. Every function raises ``error`` (StoreError unless the caller names another) with a message that
begins with ``what``, the origin of the input.
"""

from __future__ import annotations

from harness.untrusted.display import shown, uncoloured
from harness.untrusted.json_reader import json_document, json_object
from harness.untrusted.kubeconfig import KUBECONFIG_LIMITS, KubeIdentity, kube_identity
from harness.untrusted.names import address, is_reachable, name, relative_path
from harness.untrusted.numerals import decimal, integer, number
from harness.untrusted.pattern import Pattern
from harness.untrusted.stream import Ceiling
from harness.untrusted.tree import FILE_LIMIT, UntrustedTree
from harness.untrusted.xml_reader import XML_LIMITS, XmlElement, XmlLimits, xml_document
from harness.untrusted.yaml_reader import YAML_LIMITS, YamlLimits, yaml_check, yaml_document, yaml_documents, yaml_excess, yaml_scalars

__all__ = [
    "FILE_LIMIT",
    "KUBECONFIG_LIMITS",
    "XML_LIMITS",
    "YAML_LIMITS",
    "Ceiling",
    "KubeIdentity",
    "Pattern",
    "UntrustedTree",
    "XmlElement",
    "XmlLimits",
    "YamlLimits",
    "address",
    "decimal",
    "integer",
    "is_reachable",
    "json_document",
    "json_object",
    "kube_identity",
    "name",
    "number",
    "relative_path",
    "shown",
    "uncoloured",
    "xml_document",
    "yaml_check",
    "yaml_document",
    "yaml_documents",
    "yaml_excess",
    "yaml_scalars",
]
