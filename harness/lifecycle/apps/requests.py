"""Requests for applications: of a command line, of a Clusterfile, and what the cluster stores of the last one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from harness.clusterfile import ApplicationDocument, Clusterfile, Config, is_redacted
from harness.errors import Fault, InputError, UsageError
from harness.lifecycle.apps import records
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.provision import registry
from harness.oci.reference import familiar


@dataclasses.dataclass(frozen=True)
class Request:
    """A request to install one application image under a name, with its settings."""

    document: ApplicationDocument
    """Has an image."""
    configs: tuple[Config, ...] = ()
    by_file: bool = False
    """It is listed in the Clusterfile of the cluster."""
    elsewhere: registry.Elsewhere | None = None
    """Registry of the site, for a cluster that uses it."""
    timeout: float = 600
    whole: bool = True
    """The request is complete; otherwise the settings of the last one count where this one has none."""

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
        """The request of a command line. Of the Clusterfile ``found``, its Config documents count and the Application document that
        names the image, or the one without an image; options win over it. Raises UsageError for a name that is not valid.
        """
        own, image = found or Clusterfile(""), familiar(image)
        named = next((app for app in own.apps if familiar(app.image or "") == image and name in (None, app.name)), None)
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
            raise UsageError("--apps and launch commands are both given", hint="commands replace the launch of applications")
        whole = bool(own.apps or own.application or own.configs)
        return cls(document, own.configs, by_file=named is not None, elsewhere=elsewhere, timeout=timeout, whole=whole)

    def over(self, before: Installed) -> Request:
        """Add the settings of the last request. Raises InputError for settings that the cluster does not store, as they are secret."""
        recorded, mine = before.application, self.document
        if recorded is None or self.whole:
            return self
        launch = mine.launch if mine.launch is not None or mine.commands is not None else recorded.launch
        commands = mine.commands if mine.launch is not None or mine.commands is not None else recorded.commands
        env, configs = {**recorded.env, **mine.env}, before.configs
        faults = [Fault(f"-e {name}", "was not kept, since it is a secret", f"-e {name}=VALUE") for name in env if is_redacted(env[name])]
        texts = (*(commands or ()), *(config.data for config in configs), *(file.data for part in recorded.configs for file in part.files))
        values = [value for part in recorded.configs for value in (*part.env.values(), *(part.commands or ()))]
        if any(is_redacted(text) for text in (*texts, *values)):
            faults.append(Fault(f"the application {before.name}", "has settings that may be secret, which are not stored", "-f, or --cmds"))
        if faults:
            raise InputError(faults)
        document = dataclasses.replace(mine, env=env, launch=launch, commands=commands, configs=recorded.configs)
        return dataclasses.replace(self, document=document, configs=configs)

    @property
    def clusterfile(self) -> Clusterfile:
        """As the cluster stores it."""
        return Clusterfile("", apps=(self.document,), configs=self.configs)

    @property
    def effective(self) -> Clusterfile:
        """As the image is launched with."""
        return Clusterfile("", application=dataclasses.replace(self.document, image=None, env={}), configs=self.configs)
