"""The environment of templates and commands: what the image says < the Clusterfile < ``-e``; a machine's own wins over all."""

from __future__ import annotations

from collections.abc import Mapping

from harness.clusterfile import ALL, Clusterfile, Host, is_redacted
from harness.clusterfile.schema import RESERVED
from harness.errors import Fault, InputError


def environment(
    image_env: Mapping[str, str],
    clusterfile: Clusterfile | None,
    overrides: Mapping[str, str],
    host: Host | None = None,
    *,
    app: str | None = None,
    app_env: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Effective environment of a machine, or without ``host`` of the cluster; with ``app`` of one application (``app_env``: its image's).

    CertSANs joins what ``certSANS`` and the environment say. Reserved names are left out. Raises InputError for a value that was not kept
    with a stored Clusterfile and is given nowhere else.
    """
    cluster = clusterfile.cluster if clusterfile else None
    variables = {
        **image_env,
        **(app_env or {}),
        **_networks(clusterfile),
        **(cluster.env if cluster else {}),
        **_of_application(clusterfile, app),
        **overrides,
        **(host.env if host else {}),
    }
    names = [*(cluster.cert_sans if cluster else ()), *(word.strip() for word in variables.get("CertSANs", "").split(","))]
    if any(names):
        variables["CertSANs"] = ",".join(dict.fromkeys(name for name in names if name))
    lost = [name for name, value in variables.items() if is_redacted(value)]
    if lost:
        path = clusterfile.path if clusterfile else ""
        raise InputError(Fault(f"{path} .spec.env.{name}", "was not kept, since it is a secret", f"-e {name}=VALUE") for name in lost)
    return {name: value for name, value in variables.items() if name not in RESERVED}


def _networks(clusterfile: Clusterfile | None) -> dict[str, str]:
    """PodCIDR and SvcCIDR, as ``network`` or kubeadm's ClusterConfiguration says them."""
    if clusterfile is None:
        return {}
    variables: dict[str, str] = {}
    for document in clusterfile.kubeadm:
        networking = document.get("networking")
        if document.get("kind") == "ClusterConfiguration" and isinstance(networking, Mapping):
            for key, name in (("podSubnet", "PodCIDR"), ("serviceSubnet", "SvcCIDR")):
                if networking.get(key):
                    variables[name] = str(networking[key])
    cluster = clusterfile.cluster
    own = {"PodCIDR": cluster.pod_cidr, "SvcCIDR": cluster.svc_cidr} if cluster else {}
    return {**variables, **{name: value for name, value in own.items() if value}}


def _of_application(clusterfile: Clusterfile | None, app: str | None) -> Mapping[str, str]:
    configs = clusterfile.application.configs if clusterfile and clusterfile.application else ()
    env = {config.name: config.env for config in configs}
    return {**env.get(ALL, {}), **env.get(app, {})} if app is not None else {}
