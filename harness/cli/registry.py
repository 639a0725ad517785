"""CloudImages to and from registries."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import log
from harness.cli.output import AllowOlder, Json, app, plain, platform_of, print_json, say, wants_json
from harness.errors import Fault, InputError, UsageError
from harness.oci.store import Store

PlainHttp = Annotated[bool, typer.Option("--plain-http", help="Use plain HTTP without TLS for the registry.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Do not verify the registry's TLS certificate.")]
Ca = Annotated[Path | None, typer.Option("--ca", help="CA certificates to trust besides the system's, as a file.", show_default=False)]
Cert = Annotated[Path | None, typer.Option("--cert", help="The client certificate for the registry.", show_default=False)]
CertKey = Annotated[Path | None, typer.Option("--cert-key", help="The key of the client certificate.", show_default=False)]


def connect(
    plain_http: bool,
    insecure: bool,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    *,
    briefly: bool = False,
    writing: bool = False,
) -> Any:
    """A client for the registries of this command; ``briefly``: somebody waits for a few words, not for gigabytes."""
    from harness import transfer
    from harness.oci.registry.errors import RetryPolicy

    access = transfer.RegistryAccess(plain_http, insecure, ca, cert, key)
    return transfer.client(access, retry=RetryPolicy(attempts=3) if briefly else transfer.RETRIES, mirrors=not writing)


def reference(text: str, what: str) -> Any:
    """Raises InputError when it is no name of an image."""
    from harness.oci.reference import Reference

    try:
        return Reference.parse(text)
    except ValueError as wrong:
        raise InputError([Fault(f"{what} {text}", str(wrong))]) from wrong


def fetch(name: str, plain_http: bool, ca: Path | None) -> None:
    """Pull an image that is not in the store, when its name says which registry has it."""
    from harness import transfer

    store = Store.default()
    there = reference(name, "IMAGE")
    head = name.partition("/")[0]
    named = "/" in name and ("." in head or ":" in head or head == "localhost")
    if not named or there.familiar in store.names() or (there.digest and store.has(there.digest)):
        return
    with connect(plain_http, False, ca, None, None) as client:
        transfer.pull(store, there, client)


@app.command(short_help="Send a CloudImage to a registry.")
def push(
    name: Annotated[str, typer.Argument(help="The image in the local store.", show_default=False)],
    target: Annotated[
        str | None, typer.Argument(help="The name in the registry.  [default: the registry that NAME says]", show_default=False)
    ] = None,
    expand: Annotated[
        str | None,
        typer.Option(
            "--expand",
            metavar="REGISTRY[/PATH]",
            help="Push the embedded container images to this registry, each under its own name; `run --registry` then uses them.",
            show_default=False,
        ),
    ] = None,
    plain_http: PlainHttp = False,
    insecure: Insecure = False,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    output: Json = "text",
) -> None:
    """Send a CloudImage to a registry: only the blobs that it lacks, then the manifests, the tag last."""
    from harness import transfer

    as_json = wants_json(output)
    if expand is not None:
        if target is not None:
            raise UsageError("TARGET and --expand are two things", hint="push the CloudImage, and expand it, one after the other")
        with connect(plain_http, insecure, ca, cert, cert_key, writing=True) as client:
            _expand(name, expand, client, as_json)
        return
    there = reference(target or name, "TARGET" if target else "NAME")
    if there.digest:
        raise UsageError(f"{target or name}: a push goes to a tag, not to a digest", hint="write REGISTRY/REPOSITORY:TAG")
    with connect(plain_http, insecure, ca, cert, cert_key, writing=True) as client:
        pushed = transfer.push(Store.default(), name, there, client)
    if as_json:
        print_json(plain(pushed))
        return
    say(f"{there.familiar}  {pushed.digest}")
    say(f"  sent {log.size(pushed.sent)}: {pushed.uploaded} blobs uploaded, {pushed.mounted} mounted, {pushed.present} there already")
    for tag in pushed.attachments:
        say(f"  with {tag}")


def _expand(name: str, registry: str, client: Any, as_json: bool) -> None:
    from harness import cloudimage
    from harness.oci.registry.config import Site
    from harness.transfer import mirror

    store = Store.default()
    done = mirror.expand(store, cloudimage.read(store, name), Site.parse(registry), client)
    if as_json:
        print_json(plain(done))
        return
    for image in done.images:
        say(image)
    say(f"  sent {log.size(done.sent)}: {done.uploaded} blobs uploaded, {done.present} there already")
    for image in done.partly:
        say(f"  only one platform of {image} is here: its tag works there, the digest of its index does not")


@app.command(short_help="Fetch a CloudImage from a registry.")
def pull(
    name: Annotated[str, typer.Argument(help="The image, as REGISTRY/REPOSITORY:TAG or with a digest.", show_default=False)],
    as_name: Annotated[str | None, typer.Option("--as", help="Another name for it in the local store.", show_default=False)] = None,
    platform: Annotated[
        list[str] | None, typer.Option(help="Fetch only this platform of it; may be repeated.  [default: all]", show_default=False)
    ] = None,
    allow_older: AllowOlder = False,
    plain_http: PlainHttp = False,
    insecure: Insecure = False,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    output: Json = "text",
) -> None:
    """Fetch a CloudImage from a registry: only what the local store lacks. An interrupted pull resumes."""
    from harness import transfer
    from harness.trust import policy

    as_json = wants_json(output)
    there = reference(name, "NAME")
    local = reference(as_name, "--as").familiar if as_name else None
    platforms = [platform_of(text) for text in platform or ()]
    with connect(plain_http, insecure, ca, cert, cert_key) as client:
        admit = policy.gate(allow_older=allow_older).admit_remote
        pulled = transfer.pull(Store.default(), there, client, name=local, platforms=platforms, admit=admit)
    if as_json:
        print_json(plain(pulled))
        return
    say(f"{pulled.name}  {pulled.digest}")
    say(f"  received {log.size(pulled.received)}: {pulled.fetched} blobs fetched, {pulled.present} here already")
    for tag in pulled.attachments:
        say(f"  with {tag}")


@app.command(short_help="Log in to a registry.")
def login(
    registry: Annotated[str, typer.Argument(help="HOST[:PORT].  [default: docker.io]")] = "docker.io",
    username: Annotated[str | None, typer.Option("--username", "-u", help="The user name at the registry.", show_default=False)] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")] = False,
    plain_http: PlainHttp = False,
    insecure: Insecure = False,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
) -> None:
    """Verify a user name and password at a registry, and keep them where Docker does (or its credential helper)."""
    from harness import transfer
    from harness.oci.registry.credentials import Credential, CredentialStore

    host = _host(registry)
    if username is None:
        if password_stdin:
            raise UsageError("--password-stdin needs --username")
        username = typer.prompt("Username")
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else os.environ.get("SLIPWAY_REGISTRY_PASSWORD")
    if password is None:
        password = typer.prompt("Password", hide_input=True)
    if not username or not password:
        raise UsageError("name and password may not be empty")
    access = transfer.RegistryAccess(plain_http, insecure, ca, cert, cert_key)
    transfer.sign_in(host, Credential(username, password), access)
    where = CredentialStore().store(host, username, password)
    say(f"logged in to {host} as {username}; kept in {where}")


@app.command()
def logout(registry: Annotated[str, typer.Argument(help="HOST[:PORT].  [default: docker.io]")] = "docker.io") -> None:
    """Log out of a registry."""
    from harness.oci.registry.credentials import CredentialStore

    host = _host(registry)
    say(f"logged out of {host}" if CredentialStore().erase(host) else f"there was no login for {host}")


def _host(text: str) -> str:
    host = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    if not host or "/" in host or "@" in host:
        raise UsageError(f"{text}: not a registry", hint="write HOST or HOST:PORT")
    return host
