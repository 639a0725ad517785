"""Failures of Aliyun's SDK: which of them are repeated, what they leave unknown, and the line that a user reads."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from harness.nodes.cloud import CloudError, CloudRefusalError
from harness.untrusted import shown

ATTEMPTS = 8
"""At one request, in all, that are throttled or lost."""
_UNREADABLE = 3
"""Attempts at a request whose answer cannot be read."""
_LONGEST = 60.0
"""Seconds that the service may ask for before the next attempt."""

NOT_FOUND = "InvalidInstanceId.NotFound"
_BUSY = frozenset({"IdempotentProcessing", "LastTokenProcessing", "IncorrectInstanceStatus.Initializing"})
"""An earlier attempt is being carried out, or a machine is being made: the service takes the request once that has ended."""
_SIGN_IN = "sign in again, or set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET; the same command then goes on"
_CAPACITY = ("OperationDenied.NoStock", "InvalidResourceType.NotSupported", "Zone.NotOnSale", "ResourceNotAvailable")
_HINTS = (
    (("Quota", "InstanceQuota"), "raise the quota of the account, or ask for fewer or another --size"),
    (_CAPACITY, "ask for another --size or --subnet, or the same later"),
    (("InvalidAccessKeyId", "InvalidSecurityToken", "MissingAccessKeyId", "SignatureDoesNotMatch", "IncompleteSignature"), _SIGN_IN),
    (("InvalidTimeStamp", "InvalidTimestamp"), "set the clock of this machine"),
    (
        ("Forbidden", "NoPermission", "UnauthorizedOperation"),
        "RAM must allow ecs:RunInstances, ecs:DescribeInstances, ecs:DeleteInstances and ecs:TagResources",
    ),
    (("InvalidImage", "ImageNotSupport"), "--image is the id of an image in this region that suits --size"),
    (("InvalidInstanceType", "InvalidSystemDiskCategory"), "--size is a type of instance of this region, as ecs.g7.large"),
    (("InvalidVSwitch", "InvalidZone"), "--subnet is the id of a vSwitch in this region, with free addresses"),
    (("InvalidSecurityGroup",), "--security-group is the id of a security group in the network of the vSwitch"),
    (("InvalidAccountStatus", "Account.Arrearage", "InvalidPayMethod"), "see the balance of the account"),
    (("InvalidRegionId",), "ALIBABA_CLOUD_REGION_ID is a region, as cn-hangzhou"),
    (("MissingParameter", "InvalidParameter"), "see --size, --image, --subnet and --security-group"),
)
"""Beginnings of codes, and what to do."""


@dataclasses.dataclass(frozen=True)
class AliyunFailure:
    """A failed attempt at a request."""

    message: str
    hint: str
    attempts: int = 1
    """Attempts that may fail like this, in all; 1: it is not repeated."""
    certain: bool = False
    """This attempt has changed nothing."""
    undone: bool = False
    """No earlier attempt has changed anything either: those that were carried out are answered by their token."""
    busy: bool = False
    """It is repeated for as long as the service is busy with it."""
    pause: float = 0
    """Seconds that the service asks for."""
    details: str | None = None

    def error(self, *, doubt: bool) -> CloudError:
        """``doubt``: an earlier attempt may have been carried out."""
        certain = self.undone or (self.certain and not doubt)
        return (CloudRefusalError if certain else CloudError)(self.message, hint=self.hint, details=self.details)


def read(raised: Exception) -> AliyunFailure:
    """The failure that an exception of the SDK stands for."""
    from alibabacloud_credentials.exceptions import CredentialException
    from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
    from darabonba.exceptions import RetryError

    cause = getattr(raised, "inner_exception", raised)
    if isinstance(cause, AlibabaCloudException):
        return _answered(cause)
    # An address would have the whole order.
    text = shown(re.sub(r" with url: \S+", "", str(getattr(cause, "message", None) or cause)))[:500]
    if isinstance(cause, CredentialException):
        return AliyunFailure(f"no credentials for Aliyun: {text}", _SIGN_IN, certain=True)
    if isinstance(cause, RetryError | OSError):
        return AliyunFailure(f"ECS does not answer: {text}", "check the network and the region, then the same command", ATTEMPTS)
    return AliyunFailure("an answer of ECS cannot be read", "the same command again", _UNREADABLE, details=text)


def _answered(error: Any) -> AliyunFailure:
    """The failure for an answer that is an error."""
    answer = error.data if isinstance(error.data, dict) else {}
    text = shown(str(answer.get("Message") or error.message))[:500]
    code = shown(str(error.code))[:100]
    status = int(error.status_code or 0)
    message = f"ECS refuses ({code}): {text}"
    hint = next((hint for beginnings, hint in _HINTS if code.startswith(beginnings)), "the same command again, later")
    if code.startswith("Throttling") or status == 429:
        pause = min(float(error.retry_after or 0) / 1000, _LONGEST)
        return AliyunFailure(message, hint, ATTEMPTS, certain=True, pause=pause)
    if code in _BUSY:
        return AliyunFailure(message, hint, ATTEMPTS, busy=True)
    if code.startswith(_CAPACITY):
        return AliyunFailure(message, hint, undone=True)
    refused = 400 <= status < 500
    return AliyunFailure(message, hint, 1 if refused else ATTEMPTS, certain=refused)
