"""``slipway run APPIMAGE``: applications are put into a cluster that runs, or brought up to date in it.

The steps are journalled on the machine that launches. Their inputs hold the identity of the application's record in the cluster, so
that what was removed and comes again is launched again; and whatever differs launches all of its commands again, in order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness import cloudimage, log
from harness.cloudimage import CloudImage, ImageSet, PlatformImage, unpacked
from harness.clusterfile import ApplicationDocument, Clusterfile, Config, Hook, Phase, is_redacted
from harness.clusterfile import hooks as values
from harness.clusterfile.parse import image_hooks
from harness.errors import CheckError, Fault, InputError, SlipwayError, StoreError, UsageError
from harness.kubefile import version_range
from harness.lifecycle.apps import launch as launched
from harness.lifecycle.apps import records, tracking
from harness.lifecycle.apps import target as targets
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.target import Target, Where
from harness.lifecycle.cluster import request as clusterfiles
from harness.lifecycle.kube import readiness
from harness.lifecycle.plan import Journal, Plan, Step, digest, execute
from harness.lifecycle.provision import distribution, registry, rootfs
from harness.lifecycle.steps import preparation
from harness.lifecycle.steps.context import ClusterContext
from harness.lifecycle.steps.launch import launch_title
from harness.nodes import Node, each
from harness.nodes.files import Files, add, install_files, read_files, tar_stream
from harness.oci.model import OCI_INDEX, Platform, canonical_json
from harness.oci.store import Store
from harness.runtimes import ClusterNetwork

PHASES = (Phase.PRE_LAUNCH, Phase.POST_LAUNCH, Phase.PRE_UNINSTALL, Phase.PRE_CLEAN_HOST, Phase.POST_CLEAN_HOST, Phase.POST_UNINSTALL)
"""When hooks of an application image run; all of them where its commands are launched."""

_CERTS_D = "/etc/containerd/certs.d"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for: one application image, under a name, with what is different about it."""

    document: ApplicationDocument
    """Has an image."""
    configs: tuple[Config, ...] = ()
    by_file: bool = False
    """It belongs to the Clusterfile of the cluster."""
    elsewhere: registry.Elsewhere | None = None
    """The site's registry, for a cluster that uses it."""
    timeout: float = 600
    whole: bool = True
    """Nothing else counts; else what was asked for the last time does, where this says nothing."""

    @classmethod
    def of(
        cls,
        image: str,
        name: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        commands: Sequence[str] | None = None,
        parts: Sequence[str] | None = None,
        found: Clusterfile | None = None,
        elsewhere: registry.Elsewhere | None = None,
        timeout: float = 600,
    ) -> Request:
        """What a command line asks for. Of a Clusterfile count the document Application that names the image, or the one that names none,
        and Config documents; options win over it. Raises UsageError for a name that cannot be one.
        """
        own, image = found or Clusterfile(""), records.familiar(image)
        named = next((app for app in own.apps if records.familiar(app.image or "") == image and name in (None, app.name)), None)
        written = named or own.application or ApplicationDocument("")
        document = dataclasses.replace(
            written,
            name=records.check_name(name) if name else named.name if named else records.name_of(image),
            image=image,
            env={**written.env, **(env or {})},
            commands=written.commands if commands is None else tuple(commands),
            launch=written.launch if parts is None else tuple(parts),
        )
        if document.commands is not None and parts is not None:
            raise UsageError("--apps and launch commands are both given", hint="commands replace the launch of applications: one of both")
        whole = bool(own.apps or own.application or own.configs)
        return cls(document, own.configs, by_file=named is not None, elsewhere=elsewhere, timeout=timeout, whole=whole)

    def over(self, before: Installed) -> Request:
        """This one, with what was asked for the last time where it says nothing. Raises InputError for what was not kept, being secret."""
        kept, mine = before.application, self.document
        if kept is None or self.whole:
            return self
        launch = mine.launch if mine.launch is not None or mine.commands is not None else kept.launch
        commands = mine.commands if mine.launch is not None or mine.commands is not None else kept.commands
        env, configs = {**kept.env, **mine.env}, before.configs
        lost = [Fault(f"-e {name}", "was not kept, since it is a secret", f"-e {name}=VALUE") for name in env if is_redacted(env[name])]
        texts = (*(commands or ()), *(one.data for one in configs), *(file.data for one in kept.configs for file in one.files))
        values = [value for one in kept.configs for value in (*one.env.values(), *(one.commands or ()))]
        if any(is_redacted(text) for text in (*texts, *values)):
            lost.append(Fault(f"the application {before.name}", "not all that it was given was kept: some may be secret", "-f, or --cmds"))
        if lost:
            raise InputError(lost)
        document = dataclasses.replace(mine, env=env, launch=launch, commands=commands, configs=kept.configs)
        return dataclasses.replace(self, document=document, configs=configs)

    @property
    def clusterfile(self) -> Clusterfile:
        """As it is kept."""
        return Clusterfile("", apps=(self.document,), configs=self.configs)

    @property
    def effective(self) -> Clusterfile:
        """As the image is launched by."""
        return Clusterfile("", application=dataclasses.replace(self.document, image=None, env={}), configs=self.configs)


@dataclasses.dataclass(frozen=True)
class Done:
    """How it ended."""

    name: str
    image: str
    digest: str
    cluster: str
    objects: tuple[str, ...]
    """What it made in the cluster."""
    dropped: tuple[str, ...]
    """What an earlier version had made and this one does not; it is gone."""
    unknown: tuple[str, ...]
    """Launch commands that did more than kubectl and helm: what that was nobody can take back by itself."""
    seconds: float


@dataclasses.dataclass
class Work:
    """What the steps share."""

    target: Target
    request: Request
    image: CloudImage
    store: Store
    record: Installed
    """As it is kept in the cluster; with a uid once it is."""
    commands: tuple[str, ...]
    hooks: tuple[Hook, ...]
    dropped: list[tracking.Object] = dataclasses.field(default_factory=list)
    exchanges: list[distribution.Exchange] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def folder(self) -> str:
        """On the machine that launches."""
        return f"{self.target.root}/{self.name}"

    @property
    def tree(self) -> str:
        return f"{self.folder}/rootfs"

    @property
    def main(self) -> PlatformImage:
        """For the machine that launches."""
        platform = self.target.platforms.get(self.target.first.address) or Platform.host()
        return self.image.platform(platform)

    @functools.cached_property
    def images(self) -> ImageSet:
        """For every platform that the cluster has, as far as the image is made for it."""
        return functools.reduce(ImageSet.union, records.of_platforms(self.image, set(self.target.platforms.values())), ImageSet())

    @functools.cached_property
    def env(self) -> dict[str, str]:
        """What templates and commands see: of the cluster, of the image, of what was asked for."""
        facts = dict(self.target.facts)
        if {"PodCIDR", "SvcCIDR"} <= set(facts):
            # Not parsed: another's cluster may have networks that slipway makes none with.
            with contextlib.suppress(ValueError, IndexError):
                facts |= ClusterNetwork(facts["PodCIDR"], facts["SvcCIDR"]).variables
        return {**facts, "HostIP": self.target.first.address, **self.main.info.env, **self.request.document.env}

    @functools.cached_property
    def files(self) -> Files:
        """The files of its rootfs that are other than the image has them. Raises InputError."""
        own = clusterfiles.app_env(self.request.effective)
        app_env = {app.name: {**self.env, **app.env, **self.request.document.env, **own.get(app.name, {})} for app in self.main.info.apps}
        return rootfs.rendered(
            unpacked.unpacked_rootfs(self.store, self.main.layers), self.env, app_env, clusterfiles.edit(self.request.effective)
        )

    @functools.cached_property
    def generation(self) -> str:
        """Everything that its launch depends on; other text means other values, also of secrets."""
        files = rootfs.fingerprint(self.files)
        return digest(self.record.uid, self.image.digest, files, self.env, self.commands, [hook.data for hook in self.hooks])


# ---- before anything is changed ---------------------------------------------------------------------------------------


def read(request: Request, store: Store) -> CloudImage:
    """The image of a request. Raises StoreError when it is not here, or is the image of a whole cluster."""
    from harness.trust import policy  # here: its cryptography is slow to load

    name = request.document.image or ""
    image = cloudimage.read(store, name)
    policy.admit(store, name, image.digest)
    if image.platforms[0].info.type != "app":
        raise StoreError(
            f"{name} brings Kubernetes: it makes a cluster", hint=f"slipway run {name} --masters IP; slipway upgrade changes one"
        )
    return image


@contextmanager
def prepared(request: Request, where: Where, store: Store, *, home: Path | None = None) -> Iterator[Work]:
    """Open the cluster and find out whether the application may run in it; nothing is changed.

    Raises InputError for what the image does not have, CheckError when it does not admit the cluster's Kubernetes.
    """
    image = read(request, store)
    with targets.opened(where, home=home) as target:
        yield make(target, request, image, store)


def make(target: Target, request: Request, image: CloudImage, store: Store) -> Work:
    """The work on a cluster that is open. Raises as ``prepared``."""
    before = records.find(target.kubectl, request.document.name) if not request.whole else None
    request = request.over(before) if before else request
    document = request.document
    records.check_parts(image, document.launch or ())
    clusterfiles.check_env(document.env)
    check_version(image, target.kubernetes)
    commands = clusterfiles.launch(request.effective, image.platforms[0].info)
    record = Installed(
        name=document.name,
        image=image.name or image.digest,
        digest=image.digest,
        clusterfile=request.clusterfile,
        kube_version=image.platforms[0].info.kube_version,
        by_file=request.by_file,
        where=target.first.address,
    )
    work = Work(target, request, image, store, record, (), ())
    with log.step("unpack and render the application"):
        hooks = hooks_of(unpacked.unpacked_rootfs(store, work.main.layers))
        work.commands = work.main.info.launch if commands is None else commands
        work.hooks = hooks
        _ = work.files
    work.record = dataclasses.replace(record, domains=registry.domains(work.images), unknown=_unknown(work.commands))
    _check_platforms(work)
    _check_others(work)
    return work


def check_version(image: CloudImage, kubernetes: str) -> None:
    """Raises CheckError when KUBEVERSION of an image does not admit a version of Kubernetes."""
    wanted = image.platforms[0].info.kube_version
    if wanted and not version_range.admits(kubernetes, wanted):
        raise CheckError(
            f"{image.name or image.digest} is made for Kubernetes {wanted}, and the cluster has {kubernetes}; nothing has been changed",
            hint="another version of the image, or KUBEVERSION in its Kubefile if it does run there",
        )


def _unknown(commands: Sequence[str]) -> tuple[str, ...]:
    """As they are shown and kept: a command with what may be a secret is not."""
    from harness.clusterfile import secrets

    return tuple("<a command that may hold a secret>" if secrets.holds_secret(one) else one for one in tracking.unknown(commands))


def hooks_of(tree: Path) -> tuple[Hook, ...]:
    """The hooks of an application image. Raises InputError for those that only images of clusters can have."""
    found = values.merged(image_hooks(rootfs.folder_files(tree, "plugins")), ())
    known = ", ".join(phase.value for phase in PHASES)
    faults = [
        Fault(f"hook {hook.name}", f"type {hook.type} at {', '.join(phase.value for phase in hook.phases)}", f"SHELL at {known}")
        for hook in found
        if hook.type != "SHELL" or not set(hook.phases) <= set(PHASES)
    ]
    if faults:
        raise InputError(dataclasses.replace(one, message=f"{one.message} is for images of clusters") for one in faults)
    return found


def _check_platforms(work: Work) -> None:
    missing = sorted({str(platform) for platform in work.target.platforms.values() if not records.of_platforms(work.image, [platform])})
    if missing:
        log.warning(f"{work.record.image} is not made for {', '.join(missing)}: its pods cannot run on those nodes")


def _check_others(work: Work) -> None:
    """Warn of names of images that mean something else to others."""
    mine = {image.name: image.digest for image in work.images.images}
    others = {f"the application {one.name}": one.digest for one in records.listed(work.target.kubectl) if one.name != work.name}
    for who, digest_ in {"the cluster's own image": work.target.image, **others}.items():
        try:
            known = cloudimage.read(work.store, digest_)
        except StoreError:
            continue
        for image in (one for part in known.platforms for one in part.images.images):
            if mine.get(image.name, image.digest) != image.digest:
                log.warning(f"{image.name} is another image in {who}: from now on it is that of {work.name}")


# ---- the recipe -------------------------------------------------------------------------------------------------------


def install(request: Request, where: Where, store: Store, *, home: Path | None = None) -> Done:
    """Put an application into a cluster. The same call after a kill or a failure finishes what was begun; with another image of the same
    name or other values it is brought up to date.
    """
    started = time.monotonic()
    with store.shared_lease(), prepared(request, where, store, home=home) as work:
        return carry_out(work, started)


def carry_out(work: Work, started: float) -> Done:
    with work.target.exclusive():
        try:
            execute(plan(work), Journal(f"{work.target.root}/journal"))
        finally:
            for exchange in work.exchanges:
                exchange.close()
    mine = tuple(str(one) for one in work.record.objects if one.ours)
    return Done(
        work.name,
        work.record.image,
        work.record.digest,
        work.target.name,
        mine,
        tuple(map(str, work.dropped)),
        () if _can_be_undone(work.hooks) else work.record.unknown,
        time.monotonic() - started,
    )


def _can_be_undone(hooks: Sequence[Hook]) -> bool:
    """Whether the image says itself how what its commands did is taken back."""
    return any(phase in hook.phases for hook in hooks for phase in PHASES[2:])


def plan(work: Work) -> list[Step]:
    """What will be done. First the images are where pods will ask for them, then what asks for them is launched."""
    recipe, target = Plan(), work.target
    recipe.add(_begin(work))
    if target.way == targets.REGISTRY:
        recipe.add(_send_images(work))
    if target.ours and target.nodes:
        recipe.add(_tell_nodes(work))
    if target.way == targets.IMPORT and target.nodes:
        recipe.add(_import_images(work))
    recipe.add(_send_files(work))
    recipe.add(*_hooks(work, Phase.PRE_LAUNCH, recipe.last))
    recipe.add(*_launch(work, recipe.last))
    recipe.add(*_hooks(work, Phase.POST_LAUNCH, recipe.last))
    recipe.add(_drop(work, recipe.last), _wait(work), _record(work))
    return recipe.steps


def _id(work: Work, text: str) -> str:
    return f"app-{work.name}-{text}"


def _begin(work: Work) -> Step:
    def action() -> str:
        work.record = records.begin(work.target.kubectl, work.record)
        return f"{work.record.image} {work.record.digest[7:19]}"

    return Step("begin", f"note that {work.name} is being installed", action)


def _send_images(work: Work) -> Step:
    """The registries take what they lack, and keep what they have."""
    wanted = functools.cache(lambda: registry.layout(work.store, work.images))
    exchange = distribution.Exchange(work.target.holders)
    work.exchanges.append(exchange)

    def action(node: Node) -> str:
        brought = exchange.bring(node, wanted().name, lambda: registry.parcel(work.store, wanted()))
        registry.name(node, work.store, wanted())
        return f"{len(wanted().blobs)} blobs, {brought.sent / 1e6:.0f} MB sent"

    return Step("send-images", "send its container images to the registries", action, work.target.holders, after=("begin",))


def _tell_nodes(work: Work) -> Step:
    """Where its images are found, for registries whose names the cluster did not know yet."""

    def action(node: Node) -> str:
        files = _hosts_files(work, node, work.record.domains)
        # How names that nobody knows are treated is the cluster's affair.
        changed = install_files(node, {path: file for path, file in files.items() if "/_default/" not in path})
        return ", ".join(path.split("/")[-2] for path in changed if path.endswith("/hosts.toml"))

    before = ("begin", "send-images")
    return Step("tell-nodes", "tell the nodes where its images are", action, work.target.nodes, after_all=before)


def _hosts_files(work: Work, node: Node, names: Sequence[str]) -> Files:
    """For registries that a node does not know: what it says about others, in their name. Raises CheckError when it says nothing.

    Only the node knows whether it asks itself, its balancer, rules of its kernel or the registry of the site.
    """
    if work.target.way == targets.SITE and work.request.elsewhere is not None:
        return work.request.elsewhere.files(names)
    known = node.run(f"ls {_CERTS_D} 2>/dev/null || true").stdout.split()
    missing = [name for name in names if name not in known]
    if not missing:
        return {}
    # A registry of the site keeps its images in folders, whose names have no colon.
    folder = _as_folder if work.target.way == targets.SITE else str
    for path, data in read_files(node, [f"{_CERTS_D}/{name}/hosts.toml" for name in known]).items():
        text, end = data.decode(), f'/{folder(path.split("/")[-2])}"'
        if end in text:
            texts = {other: text.replace(end, f'/{folder(other)}"') for other in missing}
            # A login in it is needed for the others, too.
            return {f"{_CERTS_D}/{other}/hosts.toml": registry.hosts_file(text.encode()) for other, text in texts.items()}
    if "_default" in known:
        return {}
    raise CheckError(f"{node.name} does not say where images of {', '.join(missing)} are", hint="--registry REGISTRY[/PATH]")


def _as_folder(domain: str) -> str:
    return domain.replace(":", "-").lower()


def _import_images(work: Work) -> Step:
    def action(node: Node) -> str:
        platform = work.target.platforms.get(node.address)
        wanted = functools.reduce(ImageSet.union, records.of_platforms(work.image, [platform] if platform else None), ImageSet())
        count = import_images(node, work.store, wanted)
        return f"{count} of {len(wanted.images)} images"

    return Step("import-images", "import its container images on the nodes", action, work.target.nodes, after=("begin",))


_CTR = """export PATH=$PATH:/usr/local/bin
if command -v ctr > /dev/null 2>&1; then ctr=ctr; elif command -v k3s > /dev/null 2>&1; then ctr='k3s ctr'
else echo 'there is no ctr: images can be brought to containerd only' >&2; exit 1; fi
"""


def import_images(node: Node, store: Store, wanted: ImageSet) -> int:
    """Put the images that a node's containerd does not have into it; how many. Raises CommandError where there is no containerd."""
    listed = node.run(f"{_CTR}$ctr -n k8s.io images ls | awk '{{ print $1, $3 }}'", timeout=120).stdout.splitlines()
    has = {tuple(line.split()) for line in listed}
    missing = [image for image in wanted.images if (image.name, image.digest) not in has]
    if not missing:
        return 0
    content = frozenset(node.run(f"{_CTR}$ctr -n k8s.io content ls -q", timeout=120).stdout.split())
    blobs = [blob for blob in wanted.blobs if blob.digest not in content]
    entries = [
        {"mediaType": one.media_type, "digest": one.digest, "size": one.size, "annotations": {"io.containerd.image.name": one.name}}
        for one in missing
    ]

    def write(stream: BinaryIO) -> None:
        with tar_stream(stream) as tar:
            add(tar, "oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"}), 0o644)
            for blob in blobs:
                entry = tarfile.TarInfo(f"blobs/{blob.digest.replace(':', '/')}")
                entry.size, entry.mode = blob.size, 0o644
                with store.open(blob.digest) as data:
                    tar.addfile(entry, data)
            add(tar, "index.json", canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}), 0o644)

    node.run(f"{_CTR}$ctr -n k8s.io images import --no-unpack -", input=write, timeout=3600)
    return len(missing)


def _send_files(work: Work) -> Step:
    def action(node: Node) -> str:
        launched.send_tree(node, unpacked.unpacked_rootfs(work.store, work.main.layers), work.files, work.tree)
        return work.tree

    return Step(
        _id(work, "files"),
        "send its files",
        action,
        (work.target.first,),
        after=("begin",),
        # Whoever could look into them later finds what was launched; so they are there before anything is.
        inputs=lambda _: digest(work.record.uid, unpacked.identity(work.main.layers), rootfs.fingerprint(work.files)),
    )


# ---- launching --------------------------------------------------------------------------------------------------------


def _launch(work: Work, after: str) -> list[Step]:
    made: list[Step] = []
    for number, command in enumerate(work.commands, 1):

        def action(node: Node, command: str = command) -> None:
            run_noted(work, node, command, "launch command")

        def inputs(_: Node, command: str = command, number: int = number) -> str:
            return digest(work.generation, number, command)

        step = _id(work, f"launch-{number}")
        made.append(Step(step, launch_title(command), action, (work.target.first,), after_all=_all(work, after), inputs=inputs))
        after = step
    return made


def _all(work: Work, after: str) -> tuple[str, ...]:
    return (after, "begin", "send-images", "tell-nodes", "import-images", _id(work, "files"))


def _hooks(work: Work, phase: Phase, after: str) -> list[Step]:
    made: list[Step] = []
    for number, hook in enumerate(values.at(work.hooks, phase), 1):

        def action(node: Node, hook: Hook = hook) -> None:
            run_noted(work, node, hook.data, f"hook {hook.name} at {phase.value}")

        def inputs(_: Node, number: int = number) -> str:
            return digest(work.generation, phase.value, number)

        title = f"hook {hook.name} at {phase.value}"
        step = _id(work, f"{phase.value}-{number}")
        made.append(Step(step, title, action, (work.target.first,), after_all=_all(work, after), inputs=inputs))
        after = step
    return made


def run_noted(work: Work, node: Node, command: str, what: str) -> None:
    """Run a command in the application's rootfs; what it makes is noted on the machine and, when it ends, in the cluster."""
    _open_notes(work, node)
    try:
        launched.run(work.target, node, work.name, command, work.env, what)
    except SlipwayError:
        with contextlib.suppress(SlipwayError):
            _take_notes(work, node)
        raise
    _take_notes(work, node)


def _open_notes(work: Work, node: Node) -> None:
    """Notes of this launch; what is known of earlier ones is among them also on a machine that has not launched them."""
    folder = shlex.quote(work.folder)
    script = f"""umask 077; mkdir -p {folder}; cd {folder} || exit 1
[ "$(cat generation 2>/dev/null)" = {work.generation} ] || {{ : > touched; echo {work.generation} > generation; }}
touch objects touched
cat > known; while IFS= read -r line; do grep -qxF -e "$line" objects || printf '%s\\n' "$line" >> objects; done < known; rm -f known"""
    node.run(script, input=tracking.text(work.record.objects))


def _take_notes(work: Work, node: Node) -> None:
    noted = tracking.parse(node.run(f"cat {shlex.quote(work.folder)}/objects 2>/dev/null || true").stdout)
    if noted != work.record.objects:
        work.record = records.write(work.target.kubectl, dataclasses.replace(work.record, objects=noted))


# ---- afterwards -------------------------------------------------------------------------------------------------------


def _drop(work: Work, after: str) -> Step:
    """What an earlier version made and this one does not touch any more goes."""

    def action(node: Node) -> str:
        touched = node.run(f"cat {shlex.quote(work.folder)}/touched 2>/dev/null || true").stdout
        gone = tracking.dropped(work.record.objects, touched)
        if gone:
            kept = launched.take_back(work.target, node, work.name, gone, work.request.timeout)
            gone = tuple(one for one in gone if one not in kept)
            rest = tuple(one for one in work.record.objects if one not in gone)
            work.dropped += gone
            work.record = records.write(work.target.kubectl, dataclasses.replace(work.record, objects=rest))
            node.run(f"cat > {shlex.quote(work.folder)}/objects", input=tracking.text(rest))
        return f"{len(gone)} objects" if gone else "nothing"

    return Step("drop", "remove what it does not have any more", action, (work.target.first,), after_all=(after, "begin"))


def _wait(work: Work) -> Step:
    def action() -> str:
        ours = launched.Ours(work.target.kubectl, work.record.objects)
        found = readiness.settle(ours, timeout=work.request.timeout, quiet=1 if work.commands else 0)
        return f"{len(readiness.of_kind(found, 'Pod'))} pods"

    return Step("wait", "wait for its workloads", action, after_all=("drop",))


def _record(work: Work) -> Step:
    def action() -> None:
        work.record = records.write(work.target.kubectl, dataclasses.replace(work.record, state=records.INSTALLED))

    return Step("record", "record it in the cluster", action, after_all=("wait",))


# ---- a cluster that was made anew -------------------------------------------------------------------------------------


def bring_back(context: ClusterContext, after: str) -> Step:
    """The images of applications for registries that are new, in a cluster whose records say which it has: a backup brought them."""
    spec = context.spec

    def tell(node: Node, domains: Sequence[str]) -> None:
        files = preparation.machine_files(context.resolved, node, domains)
        install_files(node, {path: file for path, file in files.items() if path.startswith(_CERTS_D)})

    def stock(node: Node, wanted: registry.Layout) -> None:
        context.exchange.bring(node, wanted.name, lambda: registry.parcel(spec.store, wanted))
        registry.name(node, spec.store, wanted)

    def action() -> str:
        found = records.listed(context.kubectl)
        if not found:
            return "none"
        each(spec.nodes, lambda node: tell(node, [domain for app in found for domain in app.domains]))
        if spec.elsewhere is None:
            wanted = registry.layout(spec.store, records.union(found, spec.store))
            each(spec.registries, lambda node: stock(node, wanted))
        return ", ".join(app.name for app in found)

    return Step("bring-back-applications", "bring the images of applications", action, after=(after,))
