"""etcd and the certificates of a running cluster."""

from __future__ import annotations

import collections
import datetime
from collections.abc import Iterable, Mapping, Sequence

from harness import untrusted
from harness.lifecycle.checks.findings import Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.postflight.core import Health, check
from harness.lifecycle.checks.preflight import SLOW_SYNC
from harness.lifecycle.cluster.certificates import WARN_DAYS, Certificate
from harness.lifecycle.kube import readiness
from harness.lifecycle.kube.readiness import Resource

QUOTA = 2 << 30
"""Bytes of etcd's database, unless its quota is set."""


@check("etcd-members", "etcd's members", "every member of etcd is healthy, and losing one does not cost the quorum")
def _etcd_members(health: Health) -> Iterable[tuple[str, Verdict]]:
    if health.etcd is None:
        return [(health.name, unknown(_unasked(health)))]
    verdicts = []
    voters = [member for member in health.etcd if not member.learner]
    alive = [member for member in voters if member.sick is None]
    for member in health.etcd:
        if member.sick is not None:
            spare = len(alive) - (len(voters) // 2 + 1)
            text = f"{member.sick}; {'one more lost and' if spare <= 0 else f'{spare + 1} more lost and'} nothing can be changed"
            remedy = f"start the node again, or: slipway remove {health.name} {member.name}"
            verdicts.append((member.name or "etcd", failed(text, remedy)))
        elif member.learner:
            verdicts.append((member.name, warning("is a learner, without a vote", "run the join that added it again")))
        else:
            verdicts.append((member.name, ok("leads" if member.leads else "healthy")))
    if len(voters) > 1 and len(voters) % 2 == 0:
        text = f"{len(voters)} members tolerate no more losses than {len(voters) - 1} would"
        verdicts.append((health.name, warning(text, "join another control-plane node, or remove one")))
    return verdicts


def _unasked(health: Health) -> str:
    return f"etcd could not be asked: {health.etcd_trouble}" if health.etcd_trouble else "etcd could not be asked"


@check("etcd-size", "etcd's database", "the database is far from its limit, above which nothing can be written")
def _etcd_size(health: Health) -> Iterable[tuple[str, Verdict]]:
    quota = _quota(health.items)
    for member in health.etcd or ():
        if member.size is None:
            yield member.name, unknown("does not report its size")
            continue
        text = f"{member.size / 1e6:.0f} MB of {quota / 1e6:.0f}"
        remedy = "see what fills it (events?), then: etcdctl defrag on one member at a time"
        part = member.size / quota
        yield member.name, failed(text, remedy) if part > 0.9 else warning(text, remedy) if part > 0.5 else ok(text)


def _quota(items: Iterable[Resource]) -> int:
    for pod in readiness.of_kind(items, "Pod"):
        if pod["metadata"]["name"].startswith("etcd-"):
            for word in pod["spec"]["containers"][0].get("command") or ():
                name, _, value = str(word).partition("=")
                if name == "--quota-backend-bytes" and (quota := untrusted.number(value)):
                    return quota
    return QUOTA


@check("etcd-alarms", "etcd's alarms", "etcd has raised no alarm: with one it refuses writes")
def _etcd_alarms(health: Health) -> Iterable[tuple[str, Verdict]]:
    if health.etcd is None:
        yield health.name, unknown(_unasked(health))
    elif health.alarms:
        remedy = "free space: etcdctl compact, defrag on each member, then etcdctl alarm disarm"
        yield health.name, failed(f"etcd raised {', '.join(health.alarms)}", remedy)
    else:
        yield health.name, ok("none")


@check("etcd-disk", "etcd's disk", "99 % of etcd's writes are on the disk within 10 ms (etcd's own metric)")
def _etcd_disk(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address in health.of_roles("control-plane"):
        answer = health.answers.get(address)
        latency = percentile(answer.syncs, 0.99) if answer else None
        if latency is None:
            yield address, unknown("does not report it")
            continue
        text = f"99 % of writes within {latency * 1000:.0f} ms"
        yield address, warning(text, "give /var/lib/etcd an SSD of its own") if latency > SLOW_SYNC * 1.7 else ok(text)


def percentile(counts: Mapping[float, int], part: float) -> float | None:
    """The least bound that holds for this part of the counts, which are cumulative as in Prometheus. None without any."""
    total = max(counts.values(), default=0)
    return next((bound for bound, count in sorted(counts.items()) if count >= part * total), None) if total else None


@check("certificates", "certificates", f"no certificate expires within {WARN_DAYS} days")
def _certificates(health: Health) -> Iterable[tuple[str, Verdict]]:
    now = datetime.datetime.now(datetime.UTC)
    for address, certificates in health.certificates.items():
        by_state: dict[str, list[Certificate]] = collections.defaultdict(list)
        for certificate in certificates:
            by_state[certificate.state(now)].append(certificate)
        if by_state["expired"]:
            yield address, failed(f"{_paths(by_state['expired'])} expired", f"slipway certs renew {health.name}")
        elif by_state["soon"]:
            days = min(certificate.days(now) for certificate in by_state["soon"])
            text = f"{_paths(by_state['soon'])} expire{'s' * (len(by_state['soon']) == 1)} in {days} days"
            yield address, warning(text, f"slipway certs renew {health.name}")
        elif certificates:
            yield address, ok(f"{min(certificate.days(now) for certificate in certificates)} days left")
        else:
            yield address, unknown("none were found")


def _paths(certificates: Sequence[Certificate]) -> str:
    first = certificates[0].path.rpartition("/")[2]
    return first if len(certificates) == 1 else f"{first} and {len(certificates) - 1} more"
