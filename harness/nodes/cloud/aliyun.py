"""Aliyun ECS as a cloud, through Aliyun's own SDK: it and its errors are imported here and in ``aliyun_errors`` only.

Credentials come from the SDK's own chain. It reads no region and no endpoint: those are in the variables that Aliyun's command line has.
"""

from __future__ import annotations

import base64
import collections
import itertools
import json
import os
import random
import re
import secrets
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from harness.errors import UsageError
from harness.nodes.cloud import CloudError, CloudMachine, CloudRefusalError, MachineOrder, aliyun_errors, answers, tags
from harness.untrusted import shown

REGION, ENDPOINT = "ALIBABA_CLOUD_REGION_ID", "ALIBABA_CLOUD_ENDPOINT"
_AT_ONCE = 100
"""Machines in one request that makes or removes some, and in one page of a list."""
_LONGEST_WAIT = 20.0
"""Seconds between two attempts, at most, but for what the service asks for."""
_PATIENCE = 300.0
"""Seconds for which a request is repeated that ECS is busy with."""
_BANDWIDTH = 100
"""Mbit/s of a public address, at most; ECS charges for the traffic."""
_ID = re.compile(r"i-[0-9a-z]{8,32}")
_PLACE = re.compile(r".*-([0-9]{3})")
"""An instance's name: ECS numbers those of one order, and says their places nowhere else."""


class AliyunEcs:
    """ECS in one region."""

    name = "aliyun"

    def __init__(self) -> None:
        """Raises UsageError when the SDK or a region is missing."""
        try:
            from alibabacloud_credentials.client import Client as Credentials
            from alibabacloud_ecs20140526 import models
            from alibabacloud_ecs20140526.client import Client
            from alibabacloud_tea_openapi.utils_models import Config
            from darabonba.runtime import RuntimeOptions
        except ImportError as missing:
            raise UsageError(
                f"the provider aliyun needs alibabacloud_ecs20140526 and alibabacloud_credentials: {missing}",
                hint="install these packages, or slipway with its extra aliyun",
            ) from missing
        self.region = os.environ.get(REGION, "")
        if not re.fullmatch(r"[a-z0-9-]{2,40}", self.region):
            problem = f"{shown(self.region)[:80]!r} is no region" if self.region else "no region is chosen"
            raise UsageError(problem, hint=f"export {REGION}=cn-hangzhou")
        protocol, endpoint = _endpoint(os.environ.get(ENDPOINT, ""))
        config = Config(region_id=self.region, endpoint=endpoint, protocol=protocol, connect_timeout=10_000, read_timeout=60_000)
        try:
            config.credential = Credentials()
        except ValueError as wrong:
            raise UsageError(f"the credentials of Aliyun cannot be read: {shown(str(wrong))}", hint="see ALIBABA_CLOUD_...") from wrong
        self._client: Any = Client(config)
        self._models: Any = models
        self._options: Any = RuntimeOptions

    def create(self, order: MachineOrder) -> tuple[CloudMachine, ...]:
        """As of Cloud. The answer to an order has ids only: the machines are asked for by them."""
        spec = order.spec
        if order.count > _AT_ONCE:
            hint = "a lower count first, then the whole"
            raise CloudRefusalError(f"ECS makes at most {_AT_ONCE} machines at once, not {order.count}", hint=hint)
        name = order.tags.get("Name", "slipway")
        answer = self._call(
            "run_instances",
            self._models.RunInstancesRequest(
                region_id=self.region,
                image_id=spec.image,
                instance_type=spec.size,
                v_switch_id=spec.subnet,
                security_group_ids=list(spec.security_groups),
                internet_charge_type="PayByTraffic" if spec.public else None,
                internet_max_bandwidth_out=_BANDWIDTH if spec.public else None,
                instance_charge_type="PostPaid",
                # The pattern is for several machines: numbers from 0 on, in three digits.
                instance_name=f"{name}-[0,3]" if order.count > 1 else f"{name}-000",
                # All or none.
                amount=order.count,
                min_amount=order.count,
                client_token=order.token,
                user_data=base64.b64encode(order.user_data.encode()).decode(),
                tag=[self._models.RunInstancesRequestTag(key=key, value=value) for key, value in order.tags.items()],
            ),
        )
        ids = [answers.machine_id(identity, _ID, "ECS", ENDPOINT) for identity in _within(answer, "InstanceIdSets", "InstanceIdSet")]
        try:
            described = {machine.id: machine for machine in self._described(instance_ids=json.dumps(ids))} if ids else {}
        except CloudRefusalError as refused:
            # Of the question only: the machines are made.
            raise CloudError(refused.message, hint=refused.hint) from refused
        taken = {machine.place for machine in described.values()}
        free = (place for place in itertools.count() if place not in taken)
        return tuple(described.get(one) or CloudMachine(one, "", dict(order.tags), next(free)) for one in ids)

    def list(self, tag: str, value: str | None = None) -> tuple[CloudMachine, ...]:
        return tuple(self._described(tag=[self._models.DescribeInstancesRequestTag(key=tag, value=value)]))

    def destroy(self, ids: Collection[str]) -> None:
        every = list(ids)
        remaining = [every[start : start + _AT_ONCE] for start in range(0, len(every), _AT_ONCE)]
        while remaining:
            some = remaining.pop()
            request = self._models.DeleteInstancesRequest(
                region_id=self.region, instance_id=some, force=True, client_token=secrets.token_hex(16)
            )
            try:
                self._call("delete_instances", request)
            except CloudError as refused:
                if aliyun_errors.NOT_FOUND not in refused.message:
                    raise
                # One has vanished, ECS does not say which, and none of the others is removed.
                half = len(some) // 2
                remaining += [some[:half], some[half:]] if half else []

    def _described(self, **wanted: Any) -> Iterator[CloudMachine]:
        seen: set[str] = set()
        token = ""
        while token not in seen:
            seen.add(token)
            request = self._models.DescribeInstancesRequest(region_id=self.region, max_results=_AT_ONCE, next_token=token or None, **wanted)
            answer = self._call("describe_instances", request)
            yield from (_machine(instance) for instance in _within(answer, "Instances", "Instance"))
            token = str(answer.get("NextToken") or "")
            if not token:
                return
        raise CloudError("ECS lists its machines in a circle", hint=f"see what {ENDPOINT} names")

    def _call(self, method: str, request: Any) -> Mapping[str, Any]:
        """Make a request, and repeat what was throttled, lost or cannot be read: by its token, an order is carried out once.

        Between attempts are pauses of random length, up to a limit that doubles, and those that the service asks for.
        """
        doubt, until = False, time.monotonic() + _PATIENCE
        failed: collections.Counter[int] = collections.Counter()
        for attempt in itertools.count(1):
            try:
                body = getattr(self._client, f"{method}_with_options")(request, self._options()).body.to_map()
            except Exception as raised:  # the SDK raises what its parts raise, of many kinds
                failure = aliyun_errors.read(raised)
                failed[failure.attempts] += 1
                if failed[failure.attempts] >= failure.attempts and not (failure.busy and time.monotonic() < until):
                    raise failure.error(doubt=doubt) from raised
                doubt = doubt or not failure.certain
                time.sleep(failure.pause + random.uniform(0, min(_LONGEST_WAIT, 2.0 ** (attempt - 1))))  # noqa: S311 - spreads requests
            else:
                return dict(body)
        raise AssertionError("unreachable")


def _endpoint(text: str) -> tuple[str, str | None]:
    """Protocol and host of an endpoint; without a host the SDK knows that of the region."""
    match = re.fullmatch(r"(?:(https?)://)?([A-Za-z0-9.-]+(?::[0-9]{1,5})?)/?", text)
    if text and not match:
        raise UsageError(f"{ENDPOINT} is no endpoint: {shown(text)[:80]!r}", hint="a host, as ecs.cn-hangzhou.aliyuncs.com")
    return (match[1] or "https", match[2]) if match else ("https", None)


def _machine(instance: Mapping[str, Any]) -> CloudMachine:
    """A machine as ECS describes it, which is checked: it goes into configurations and messages."""
    own = {str(tag.get("TagKey")): str(tag.get("TagValue")) for tag in _within(instance, "Tags", "Tag")}
    if own.get(tags.ADDRESS) == "public":
        addresses = _within(instance, "PublicIpAddress", "IpAddress")
    else:
        addresses = _within(instance.get("VpcAttributes") or {}, "PrivateIpAddress", "IpAddress")
    place = _PLACE.fullmatch(str(instance.get("InstanceName")))
    return CloudMachine(
        answers.machine_id(instance.get("InstanceId"), _ID, "ECS", ENDPOINT),
        answers.address(addresses[0], "ECS", ENDPOINT) if addresses else "",
        own,
        # One whose name was changed goes by its id.
        int(place[1]) if place else sys.maxsize,
        state=shown(str(instance.get("Status") or ""))[:200],
    )


def _within(answer: Mapping[str, Any], outer: str, inner: str) -> Sequence[Any]:
    """A list of an answer: each is wrapped in an object."""
    return list((answer.get(outer) or {}).get(inner) or ())
