"""The administrator's kubeconfig of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import FORMER_FILE, ClusterAccess, Json, NamedCluster, target
from harness.cli.output import print_json, say, wants_json
from harness.cli.root import app


@app.command()
def kubeconfig(
    *,
    cluster: NamedCluster,
    file: Annotated[Path | None, target(), FORMER_FILE] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            help="The address of the API server in it.  [default: a control-plane node that answers]",
            metavar="IP",
            show_default=False,
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge it into ~/.kube/config, or into the file of --to; other clusters stay.")
    ] = False,
    access: ClusterAccess,
    output: Json = "text",
) -> None:
    """Print or write the administrator's kubeconfig of a cluster."""
    from harness.lifecycle.cluster import kubeconfig as kubeconfigs

    as_json = wants_json(output)
    members = access.members(cluster.name)
    config = kubeconfigs.fetch(cluster.name, *members, server=server)
    if merge:
        path = file or kubeconfigs.default_path()
        kubeconfigs.merge(config, path)
        print_json({"cluster": cluster.name, "file": str(path)}) if as_json else say(
            f"{path} has the cluster {cluster.name}; kubectl uses it from now on"
        )
    elif file is not None:
        kubeconfigs.write(config, file)
        print_json({"cluster": cluster.name, "file": str(file)}) if as_json else say(f"kubectl --kubeconfig {file} get nodes")
    else:
        text = kubeconfigs.text(config)
        print_json({"cluster": cluster.name, "kubeconfig": text}) if as_json else say(text, end="")
