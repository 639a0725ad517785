"""The administrator's kubeconfig of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import FORMER_FILE, ClusterAccess, NamedCluster, Output, option, target
from harness.cli.output import say
from harness.cli.root import app


@app.command()
def kubeconfig(
    *,
    cluster: NamedCluster,
    file: Annotated[Path | None, target(), FORMER_FILE] = None,
    server: Annotated[
        str | None,
        option("--server", help="The address of the API server in it.  [default: a control-plane node that answers]", metavar="IP"),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge it into ~/.kube/config, or into the file of --to; other clusters stay.")
    ] = False,
    access: ClusterAccess,
    output: Output,
) -> None:
    """Print or write the administrator's kubeconfig of a cluster."""
    from harness.lifecycle.cluster import kubeconfig as cluster_kubeconfig

    members = access.members(cluster.name)
    config = cluster_kubeconfig.fetch(cluster.name, *members, server=server)
    if merge:
        path = file or cluster_kubeconfig.default_path()
        cluster_kubeconfig.merge(config, path)
        if not output.printed({"cluster": cluster.name, "file": str(path)}):
            say(f"{path} has the cluster {cluster.name}; kubectl uses it from now on")
    elif file is not None:
        cluster_kubeconfig.write(config, file)
        if not output.printed({"cluster": cluster.name, "file": str(file)}):
            say(f"kubectl --kubeconfig {file} get nodes")
    else:
        text = cluster_kubeconfig.text(config)
        if not output.printed({"cluster": cluster.name, "kubeconfig": text}):
            say(text, end="")
