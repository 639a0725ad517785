"""Amazon EC2 as a cloud, through boto3: the only importer of it. Credentials, region and endpoint are those of its own chain."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from harness.errors import UsageError
from harness.nodes.cloud import CloudError, CloudMachine, CloudRefusalError, MachineOrder, answers, tags
from harness.untrusted import shown

ATTEMPTS = 8
"""Of one request, in all. boto3's mode ``standard`` waits between them by exponential backoff with full jitter, up to 20 s each, and knows
the errors by which EC2 throttles.
"""
_ENDPOINT = "AWS_ENDPOINT_URL"
_ID = re.compile(r"i-[0-9a-f]{8,17}")
_UNREADABLE = 3
"""Attempts at a request whose answer cannot be read, which boto3 does not repeat."""
_AT_ONCE = 500
"""Machines in one request that removes some."""

_CREDENTIALS = frozenset(
    {"AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired", "UnauthorizedOperation"}
)
_QUOTA = frozenset({"InstanceLimitExceeded", "InsufficientFreeAddressesInSubnet", "VcpuLimitExceeded"})
_CAPACITY = frozenset(
    {"InsufficientCapacity", "InsufficientHostCapacity", "InsufficientInstanceCapacity", "InsufficientReservedInstanceCapacity"}
)
"""Errors of EC2's own, which boto3 repeats. An order that was carried out is answered by its token, so they say that it was not."""
_SIGN_IN = "sign in again, or set AWS_PROFILE or AWS_ACCESS_KEY_ID; the same command then goes on"
_BAD_HINTS = {
    "InvalidAMIID": "--image is the id of an image in this region",
    "InvalidInstanceType": "--size is a type of instance, as t3.large",
    "InvalidParameterValue": "see --size, --image, --subnet and --security-group",
    "InvalidSubnet": "--subnet is the id of a subnet in this region",
    "InvalidGroup": "--security-group is the id of a security group in the network of the subnet",
    "VPCIdNotSpecified": "the account has no default network: give --subnet",
}

Answer = TypeVar("Answer")


class Ec2:
    """EC2 in one region."""

    name = "aws"
    _sent = False
    """An attempt at the present request was sent, and may have been carried out."""

    def __init__(self) -> None:
        """Raises UsageError when boto3 or a region is missing."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError as missing:
            raise UsageError(
                f"the provider aws needs boto3: {missing}", hint="install the package boto3, or slipway with its extra aws"
            ) from missing
        config = Config(retries={"mode": "standard", "total_max_attempts": ATTEMPTS}, connect_timeout=10, read_timeout=60)
        self._client: Any = _translated(lambda: boto3.session.Session().client("ec2", config=config))
        self.region: str = self._client.meta.region_name
        self._client.meta.events.register("before-send.ec2", self._note_sending)

    def create(self, order: MachineOrder) -> tuple[CloudMachine, ...]:
        spec = order.spec
        interface: dict[str, Any] = {"DeviceIndex": 0, "AssociatePublicIpAddress": True} if spec.public else {}
        network = {"SubnetId": spec.subnet, ("Groups" if spec.public else "SecurityGroupIds"): list(spec.security_groups)}
        network = {key: value for key, value in network.items() if value}
        answer = self._call(
            self._client.run_instances,
            ImageId=spec.image,
            InstanceType=spec.size,
            # All or none.
            MinCount=order.count,
            MaxCount=order.count,
            ClientToken=order.token,
            UserData=order.user_data,
            TagSpecifications=[
                {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in order.tags.items()]}
                for kind in ("instance", "volume")
            ],
            **({"NetworkInterfaces": [{**interface, **network}]} if spec.public else network),
        )
        return tuple(self._machines([answer]))

    def list(self, tag: str, value: str | None = None) -> tuple[CloudMachine, ...]:
        tagged = {"Name": "tag-key", "Values": [tag]} if value is None else {"Name": f"tag:{tag}", "Values": [value]}

        def pages() -> list[Mapping[str, Any]]:
            return list(self._client.get_paginator("describe_instances").paginate(Filters=[tagged]))

        return tuple(self._machines(reservation for page in self._call(pages) for reservation in page.get("Reservations", ())))

    def destroy(self, ids: Collection[str]) -> None:
        remaining = list(ids)
        while remaining:
            some, remaining = remaining[:_AT_ONCE], remaining[_AT_ONCE:]
            try:
                self._call(self._client.terminate_instances, InstanceIds=some)
            except CloudError as refused:
                # One that has vanished, and none of the others is removed.
                vanished = set(_ID.findall(refused.message)) & set(some) if "InvalidInstanceID.NotFound" in refused.message else set()
                if not vanished:
                    raise
                remaining += [one for one in some if one not in vanished]

    def _call(self, request: Callable[..., Answer], **parameters: Any) -> Answer:
        """Make a request. An answer that cannot be read is asked for again: by its token, an order is carried out once."""
        self._sent = False
        for attempt in range(1, _UNREADABLE):
            try:
                return _translated(lambda: request(**parameters), lambda: self._sent)
            except _UnreadableError:
                time.sleep(random.uniform(0, attempt))  # noqa: S311 - spreads requests
        return _translated(lambda: request(**parameters), lambda: self._sent)

    def _note_sending(self, **_: object) -> None:
        self._sent = True

    def _machines(self, reservations: Any) -> Iterator[CloudMachine]:
        """Machines of reservations. What EC2 says is checked: it goes into configurations and messages."""
        for instance in (instance for reservation in reservations for instance in reservation.get("Instances") or ()):
            identity = answers.machine_id(instance.get("InstanceId"), _ID, "EC2", _ENDPOINT)
            own = {str(tag.get("Key")): str(tag.get("Value")) for tag in instance.get("Tags") or ()}
            state = str((instance.get("State") or {}).get("Name", ""))
            reason = str((instance.get("StateReason") or {}).get("Message", ""))
            address = instance.get("PublicIpAddress" if own.get(tags.ADDRESS) == "public" else "PrivateIpAddress")
            yield CloudMachine(
                identity,
                answers.address(address, "EC2", _ENDPOINT) if address else "",
                own,
                int(instance.get("AmiLaunchIndex") or 0),
                alive=state not in ("shutting-down", "terminated"),
                state=shown(f"{state} {reason}".strip())[:200],
            )


class _UnreadableError(CloudError):
    """An answer that is cut short or not of the protocol."""


def _translated(request: Callable[[], Answer], sent: Callable[[], bool] = lambda: False) -> Answer:
    """Call boto3 with its errors translated. ``sent`` returns True once an attempt may have been carried out: each is signed of its own,
    and a session may end between two.
    """
    from botocore import exceptions, parsers

    try:
        return request()
    except exceptions.ClientError as refused:
        raise _refusal(refused) from refused
    except parsers.ResponseParserError as wrong:
        raise _UnreadableError("an answer of EC2 cannot be read", hint="the same command again", details=shown(str(wrong))[:500]) from wrong
    except exceptions.NoRegionError as wrong:
        raise UsageError("no region is chosen", hint="export AWS_DEFAULT_REGION=eu-central-1, or a region in ~/.aws/config") from wrong
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.ProfileNotFound,
        exceptions.SSOError,
        exceptions.TokenRetrievalError,
        exceptions.CredentialRetrievalError,
    ) as wrong:
        kind = CloudError if sent() else CloudRefusalError
        raise kind(f"no credentials for AWS: {shown(str(wrong))}", hint=_SIGN_IN) from wrong
    except exceptions.ParamValidationError as wrong:
        raise CloudRefusalError(f"EC2 takes no such value: {shown(str(wrong))}", hint="see --size, --image, --subnet") from wrong
    except (exceptions.BotoCoreError, ValueError) as wrong:
        raise CloudError(
            f"EC2 does not answer: {shown(str(wrong))}", hint="check the network and the region, then the same command"
        ) from wrong


def _refusal(refused: Any) -> CloudError:
    """Error for an answer that is one. Only that to a first attempt, and a lack of capacity, say for sure that nothing was done."""
    code = shown(str(refused.response.get("Error", {}).get("Code", "")))
    message = shown(str(refused.response.get("Error", {}).get("Message", "")))[:500]
    details = refused.response.get("ResponseMetadata", {})
    first = not details.get("RetryAttempts") and 400 <= int(details.get("HTTPStatusCode") or 0) < 500
    certain = first or code in _CAPACITY
    hint = (
        _SIGN_IN
        if code in _CREDENTIALS
        else "raise the quota of the account, or ask for fewer or another --size"
        if code in _QUOTA
        else "ask for another --size or --subnet, or the same later"
        if code in _CAPACITY
        else None
    )
    hint = hint or next((text for start, text in _BAD_HINTS.items() if code.startswith(start)), None)
    kind = CloudRefusalError if certain else CloudError
    return kind(f"EC2 refuses ({code}): {message}", hint=hint or "the same command again, later")
