"""CloudImages to and from registries."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from harness import log
from harness.cli.options import (
    AllowOlder,
    Output,
    Plan,
    Platforms,
    RegistryOptions,
    SiteAccess,
    argument,
    in_lower_case,
    local_images,
    option,
    platform_of,
)
from harness.cli.output import local_store, say
from harness.cli.root import app
from harness.errors import Fault, InputError, UsageError

if TYPE_CHECKING:
    from harness.oci.reference import Reference
    from harness.oci.registry.client import Client
    from harness.transfer.pull import PullResult
    from harness.transfer.push import Pushed


def connect(to: SiteAccess, *, briefly: bool = False, writing: bool = False) -> Client:
    """A client for the registries of this command; ``briefly``: the user waits for a few words, not for gigabytes."""
    from harness.oci.registry.errors import RetryPolicy
    from harness.transfer import access

    return access.client(to.access, retry=RetryPolicy(attempts=3) if briefly else access.RETRIES, mirrors=not writing)


def reference(text: str, what: str) -> Reference:
    """Raises InputError when it is no name of an image."""
    from harness.oci.reference import Reference

    try:
        return Reference.parse(in_lower_case(text))
    except ValueError as wrong:
        raise InputError([Fault(f"{what} {text}", str(wrong))]) from wrong


def new_name(text: str, what: str) -> str:
    """A name to give to an image. Raises InputError when it is none, or one of a digest, which cannot be given."""
    named = reference(text, what)
    if named.digest:
        raise InputError([Fault(f"{what} {text}", "an image is given a name, not a digest", "write REPOSITORY:TAG")])
    return named.familiar


def fetch(name: str, to: SiteAccess) -> None:
    """Pull an image that is not in the store, when its name says which registry has it."""
    from harness.oci.reference import names_registry
    from harness.transfer import pull

    store = local_store()
    source = reference(name, "IMAGE")
    if not names_registry(name) or source.familiar in store.names() or (source.digest and store.has(source.digest)):
        return
    with connect(to) as client:
        pull.pull(store, source, client)


@app.command(short_help="Send a CloudImage to a registry.")
def push(
    *,
    name: Annotated[str, local_images("The image in the local store.", "NAME")],
    target: Annotated[
        str | None,
        argument(help="The name in the registry.  [default: the registry that NAME says]", metavar="TARGET"),
    ] = None,
    expand: Annotated[
        str | None,
        option(
            "--expand",
            help="Push the embedded container images to this registry, each under its own name; `run --registry` then uses them.",
            metavar="REGISTRY[/PATH]",
        ),
    ] = None,
    no_replace: Annotated[bool, typer.Option("--no-replace", help="Refuse a tag that the registry has with other bytes.")] = False,
    plan: Plan = False,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Send a CloudImage to a registry: only the blobs that it lacks, then the manifests, its attestations, the tag last."""
    from harness.transfer import push

    if expand is not None:
        if no_replace or plan:
            raise UsageError("--no-replace and --plan are for a CloudImage under its tag", hint="leave out --expand")
        if target is not None:
            raise UsageError("TARGET and --expand are two things", hint="push the CloudImage, and expand it, one after the other")
        with connect(to, writing=True) as client:
            _expand(name, expand, client, output)
        return
    destination = reference(target or name, "TARGET" if target else "NAME")
    if destination.digest:
        raise UsageError(f"{target or name}: a push goes to a tag, not to a digest", hint="write REGISTRY/REPOSITORY:TAG")
    if target is None and not name.startswith(destination.domain):
        log.info(f"{name} names no registry: it goes to {destination.domain}, as Docker does it")
    if plan:
        _plan_push(name, destination, to, replace=not no_replace, output=output)
        return
    with connect(to, writing=True) as client:
        pushed = push.push(local_store(), name, destination, client, replace=not no_replace)
    traffic = f"sent {log.size(pushed.sent)}: {pushed.uploaded} blobs uploaded, {pushed.mounted} mounted, {pushed.present} there already"
    _tell(pushed, destination.familiar, traffic, output)


def _plan_push(name: str, destination: Reference, to: RegistryOptions, *, replace: bool, output: Output) -> None:
    """Show what a push would do to a tag. Raises TakenError as the push would."""
    from harness.transfer import push

    digest = local_store().resolve(name).digest
    with connect(to, writing=True) as client:
        now = push.present(destination, digest, client, replace=replace)
    if output.printed({"reference": str(destination), "digest": digest, "present": now}):
        return
    change = "would be new" if now is None else "exists with these bytes" if now == digest else f"would be replaced: it is {now}"
    say(f"{destination.familiar}  {digest}\n  the tag {change}")


def _tell(result: Pushed | PullResult, name: str, traffic: str, output: Output) -> None:
    if output.printed(result):
        return
    say(f"{name}  {result.digest}\n  {traffic}")
    for tag in result.attachments:
        say(f"  with {tag}")


def _expand(name: str, registry: str, client: Client, output: Output) -> None:
    from harness import cloudimage
    from harness.oci.registry.config import Site
    from harness.transfer import mirror

    store = local_store()
    result = mirror.expand(store, cloudimage.read(store, name), Site.parse(registry), client)
    if output.printed(result):
        return
    for image in result.images:
        say(image)
    say(f"  sent {log.size(result.sent)}: {result.uploaded} blobs uploaded, {result.present} there already")
    for image in result.partly:
        say(f"  only one platform of {image} is here: its tag works there, the digest of its index does not")


@app.command(short_help="Fetch a CloudImage from a registry.")
def pull(
    *,
    name: Annotated[str, argument(help="The image, as REGISTRY/REPOSITORY:TAG or with a digest.", metavar="NAME")],
    as_name: Annotated[str | None, option("--as", help="Another name for it in the local store.", metavar="NAME")] = None,
    platform: Platforms = None,
    allow_older: AllowOlder = False,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Fetch a CloudImage from a registry: only what the local store lacks. An interrupted pull resumes."""
    from harness.transfer import pull
    from harness.trust import policy

    source = reference(name, "NAME")
    local = reference(as_name, "--as").familiar if as_name else None
    platforms = [platform_of(text) for text in platform or ()]
    with connect(to) as client:
        admit = policy.gate(allow_older=allow_older).admit_remote
        pulled = pull.pull(local_store(), source, client, name=local, platforms=platforms, admit=admit)
    traffic = f"received {log.size(pulled.received)}: {pulled.fetched} blobs fetched, {pulled.present} here already"
    _tell(pulled, pulled.name, traffic, output)


Registry = Annotated[str, argument(help="The registry, as HOST[:PORT].  [default: docker.io]", metavar="REGISTRY")]


@app.command(short_help="Log in to a registry.")
def login(
    *,
    registry: Registry = "docker.io",
    username: Annotated[str | None, option("--username", "-u", help="The user name at the registry.", metavar="USER")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")] = False,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Verify a user name and password at a registry, and keep them where Docker does (or its credential helper)."""
    from harness.oci.registry.credentials import Credential, CredentialStore
    from harness.transfer import access

    host = _host(registry)
    if username is None and password_stdin:
        raise UsageError("--password-stdin needs --username")
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else os.environ.get("SLIPWAY_REGISTRY_PASSWORD")
    if None in (username, password) and sys.stdin.isatty():
        access.require_answer(host, to.access)
    if username is None:
        username = _ask("Username", "--username USER")
    if password is None:
        password = _ask("Password", "--password-stdin reads it from standard input", hide_input=True)
    if not username or not password:
        raise UsageError("name and password may not be empty")
    access.sign_in(host, Credential(username, password), to.access)
    where = CredentialStore().store(host, username, password)
    if output.printed({"registry": host, "username": username, "keptIn": str(where)}):
        return
    say(f"logged in to {host} as {username}; kept in {where}")


def _ask(what: str, hint: str, *, hide_input: bool = False) -> str:
    """Raises UsageError where there is no terminal."""
    if not sys.stdin.isatty():
        raise UsageError(f"{what.lower()}: there is no terminal to ask for it", hint=hint)
    return str(typer.prompt(what, hide_input=hide_input))


@app.command()
def logout(*, registry: Registry = "docker.io", output: Output) -> None:
    """Log out of a registry."""
    from harness.oci.registry.credentials import CredentialStore

    host = _host(registry)
    erased = CredentialStore().erase(host)
    if output.printed({"registry": host, "loggedOut": erased}):
        return
    say(f"logged out of {host}" if erased else f"there was no login for {host}")


def _host(text: str) -> str:
    host = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    if not host or "/" in host or "@" in host:
        raise UsageError(f"{text}: not a registry", hint="write HOST or HOST:PORT")
    return host
