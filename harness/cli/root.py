"""The program itself: its groups of verbs, and the sections in which ``slipway --help`` lists the verbs."""

from __future__ import annotations

from typing import Any

from harness.cli.program import Group, Program, QuickGroup

HELP = """Builds, tests, shares and runs cluster images: a whole distributed application, Kubernetes included, in one OCI artifact.

\b
  slipway build -t web kubefiles/web                             build a CloudImage
  slipway inspect web                                            what is in it
  slipway run web --control-plane 10.0.0.1 --workers 10.0.0.2    make a cluster that runs it
"""

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Images",
        (
            "new",
            "build",
            "find-images",
            "outdated",
            "images",
            "inspect",
            "history",
            "diff",
            "tag",
            "rmi",
            "prune",
            "manifest",
            "merge",
            "convert",
        ),
    ),
    ("Sharing", ("push", "pull", "login", "logout", "search", "catalog", "save", "load")),
    ("Trust", ("keys", "sign", "verify", "attest", "conformance", "e2e", "sbom", "provenance")),
    (
        "Clusters",
        (
            "run",
            "apply",
            "drift",
            "apps",
            "join",
            "remove",
            "upgrade",
            "rollback",
            "status",
            "check",
            "delete",
            "exec",
            "debug",
            "logs",
            "kubeconfig",
            "certs",
            "backup",
            "restore",
            "generate",
        ),
    ),
    ("Machines", ("nodes", "engine", "version")),
)
"""The sections of ``slipway --help``, each with its verbs in order."""


class Verbs(QuickGroup):
    """Lists the verbs by theme."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name)) and not command.hidden}
        placed = {name for _, names in SECTIONS for name in names}
        rest = tuple(name for name in commands if name not in placed)
        width = max(len(name) for name in commands)
        for title, names in (*SECTIONS, ("More", rest)):
            rows = [
                (name.ljust(width), commands[name].get_short_help_str(formatter.width - width - 6)) for name in names if name in commands
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


app = Program(
    cls=Verbs,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
nodes_app = Program(cls=Group, help="Manage machines to run clusters on.", no_args_is_help=True)
engine_app = Program(cls=Group, help="The Docker engine of this machine.", no_args_is_help=True)
app.add_typer(nodes_app, name="nodes")
app.add_typer(engine_app, name="engine")
