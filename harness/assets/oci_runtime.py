"""An OCI runtime in front of runc: it changes what Docker asks of runc in some cases, and then becomes runc.

Docker before 23 asks for every capability when a container is privileged. Where the host itself lacks one (restricted CI
runners and small VMs often lack CAP_SYS_RESOURCE), runc refuses: "unable to apply caps". The missing ones are taken out of the request.

A step of a Dockerfile loses NET_RAW and gets no-new-privileges: the engine's classic builder takes no such options on Linux. Nor does it
mount anything for a step: the certificate authorities that ``harness.host.docker`` lends are mounted here.

It is copied out of the package by ``harness.host.docker`` and uses the standard library only.
"""

import json
import os
import pathlib
import sys

# In the order of the kernel's numbers (linux/capability.h): bit n of CapBnd is NAMES[n].
NAMES = (  # noqa: SIM905 -- as the header lists them
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
    "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM "
    "BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()

STEP_SHARES = 1025
"""CPU shares of the steps of a Dockerfile that slipway builds. Of all that a request to build may say, this reaches the runtime with every
network mode and cannot be changed by a Dockerfile. 1024 is the default of cgroups v1."""
STEP_LACKS = {"CAP_NET_RAW"}

AUTHORITIES, APT = "authorities.crt", "authorities.conf"
"""Files beside this one, while authorities are lent: certificates, and a setting of apt."""
LENT = {AUTHORITIES: "/dev/slipway-authorities.crt", APT: "/dev/slipway-authorities.conf"}
"""Their paths in a step. /dev is in memory, so not even the places of the mounts get into a layer; and a step may replace what is in
/etc/ssl."""
VARIABLES = {
    # OpenSSL, Go; curl, whatever it is built with; git; Python's requests; Node.js; apt
    **dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), LENT[AUTHORITIES]),
    "APT_CONFIG": LENT[APT],
}
"""Of a step alone: the engine writes those of a Dockerfile into an image, and not these."""


def missing(status: str) -> set[str]:
    """Names (``CAP_...``) that are not in the bounding set that ``status`` (text of /proc/self/status) shows."""
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    return {f"CAP_{name}" for bit, name in enumerate(NAMES) if not mask >> bit & 1}


def strip(process: dict[str, object], gone: set[str]) -> None:
    """Take ``gone`` out of every capability set of an OCI ``process`` object, in place."""
    sets = process.get("capabilities")
    if isinstance(sets, dict):
        process["capabilities"] = {name: [cap for cap in caps if cap not in gone] for name, caps in sets.items()}


def lend(configuration: dict[str, object], folder: pathlib.Path) -> None:
    """Mount the authorities in ``folder`` into a container, in place; where there are none, nothing is changed."""
    process, mounts = configuration["process"], configuration.get("mounts")
    if not isinstance(process, dict) or not isinstance(mounts, list) or not all((folder / name).is_file() for name in LENT):
        return
    for name, place in LENT.items():
        mounts.append({"destination": place, "type": "bind", "source": str(folder / name), "options": ["rbind", "rprivate", "ro"]})
    present = list(process.get("env") or ())
    named = {str(word).partition("=")[0] for word in present}
    process["env"] = [*present, *(f"{name}={value}" for name, value in VARIABLES.items() if name not in named)]


def rewrite_bundle(path: pathlib.Path, gone: set[str], folder: pathlib.Path = pathlib.Path(__file__).parent) -> None:
    """Change the configuration of a container that is made, where that is needed. ``folder`` has what is lent to steps."""
    configuration = json.loads(path.read_text())
    step = configuration.get("linux", {}).get("resources", {}).get("cpu", {}).get("shares") == STEP_SHARES
    if step:
        configuration["process"]["noNewPrivileges"] = True
        lend(configuration, folder)
    if gone or step:
        strip(configuration["process"], gone | (STEP_LACKS if step else set()))
        path.write_text(json.dumps(configuration))


def rewrite_process(path: pathlib.Path, gone: set[str]) -> None:
    """Change the description of a process that is started in a container."""
    process = json.loads(path.read_text())
    strip(process, gone)
    path.write_text(json.dumps(process))


def option(arguments: list[str], *names: str) -> str | None:
    for index, argument in enumerate(arguments):
        for name in names:
            if argument == name and index + 1 < len(arguments):
                return arguments[index + 1]
            if argument.startswith(name + "="):
                return argument.split("=", 1)[1]
    return None


def main() -> None:
    arguments = sys.argv[1:]
    gone = missing(pathlib.Path("/proc/self/status").read_text())
    if "create" in arguments or "run" in arguments:
        bundle = option(arguments, "--bundle", "-b") or "."
        rewrite_bundle(pathlib.Path(bundle, "config.json"), gone)
    elif gone and "exec" in arguments:
        process = option(arguments, "--process", "-p")
        if process:
            rewrite_process(pathlib.Path(process), gone)
    os.execvp("runc", ["runc", *arguments])  # noqa: S606 -- it becomes runc


if __name__ == "__main__":
    main()
