"""Aliyun ECS as far as slipway uses it: a wire server of the project's own on loopback. No simulation by anyone else was to be had.

It reads requests in ECS's RPC style (an action, parameters in the query, answers in JSON), checks their ACS3 signatures, carries an order
out once for each ClientToken, keeps a quota, throttles, fails, loses and spoils answers, and kills the client. Written after the
documents of the API and the models of the SDK; no answer of the service itself was seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import http.server
import importlib
import json
import os
import re
import signal
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

from tests.integration.ec2 import EMPTY, KILL_AFTER, KILL_BEFORE, LOST, UNREADABLE

IMAGE, SIZE, VSWITCH, GROUP = "debian_12_6_x64_20G.vhd", "ecs.g7.large", "vsw-bp1simulated", "sg-bp1simulated"
KEY, SECRET = "LTAIsimulated", "simulated-secret"
ENVIRONMENT = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": KEY,
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": SECRET,
    "ALIBABA_CLOUD_REGION_ID": "cn-hangzhou",
    "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
    "ALIBABA_CLOUD_CLI_PROFILE_DISABLED": "true",
    "ALIBABA_CLOUD_CREDENTIALS_FILE": os.devnull,
}
FOREIGN = ("HTTP_PROXY", "http_proxy", "ALIBABA_CLOUD_SECURITY_TOKEN", "ALIBABA_CLOUD_CREDENTIALS_URI", "ALIBABA_CLOUD_PROFILE")
"""Variables of the machine that would lead elsewhere."""


@dataclasses.dataclass
class EcsAnswer:
    """An answer of ECS."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def error(cls, status: int, code: str, message: str = "simulated", **headers: str) -> EcsAnswer:
        return cls(status, {"RequestId": "0", "Code": code, "Message": message}, {key.replace("_", "-"): headers[key] for key in headers})


THROTTLED = EcsAnswer.error(400, "Throttling.User", "Request was denied due to user flow control.")
ASKED_TO_WAIT = EcsAnswer.error(429, "Throttling.Api", x_acs_retry_after="20")
FAILED = EcsAnswer.error(500, "InternalError", "The request processing has failed due to some unknown error.")
UNDER_WAY = EcsAnswer.error(403, "IdempotentProcessing", "The previous idempotent request(s) is still processing.")
INITIALIZING = EcsAnswer.error(403, "IncorrectInstanceStatus.Initializing", "The instance is initializing.")
EXPIRED = EcsAnswer.error(400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
FORBIDDEN = EcsAnswer.error(403, "Forbidden.RAM", "User not authorized to operate on the specified resource.")


class EcsSimulation:
    """The state of ECS. ``next`` has an entry for each coming request of an action: an answer, a fault, or None."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        """Actions, each attempt once."""
        self.requests: list[dict[str, str]] = []
        self.next: dict[str, list[EcsAnswer | str | None]] = {}
        self.always: EcsAnswer | None = None
        """The answer to every request."""
        self.quota = 1000
        self.page = 100
        self.addresses = True
        """False: machines have none yet."""
        self.client = 0
        """Process to kill."""
        self.instances: dict[str, dict[str, Any]] = {}
        self._made = 0
        self._orders: dict[str, tuple[dict[str, str], EcsAnswer]] = {}
        self._deleted: dict[str, EcsAnswer] = {}
        self._lock = threading.Lock()

    def answer(self, parameters: dict[str, str], refused: EcsAnswer | None) -> bytes | EcsAnswer | None:
        """The answer to a request; bytes for one that is spoilt, None for one that is lost."""
        action = parameters.get("Action", "")
        with self._lock:
            self.calls.append(action)
            self.requests.append(parameters)
            waiting = self.next.get(action)
            fault = self.always or (waiting.pop(0) if waiting else None)
            if fault == KILL_BEFORE:
                os.kill(self.client, signal.SIGKILL)
            answer = refused or (fault if isinstance(fault, EcsAnswer) else self._carried_out(action, parameters))
        if fault == KILL_AFTER:
            os.kill(self.client, signal.SIGKILL)
        if fault in (LOST, KILL_BEFORE, KILL_AFTER):
            return None
        if fault == EMPTY:
            return b"{}"
        return json.dumps(answer.body).encode()[:-9] if fault == UNREADABLE else answer

    def _carried_out(self, action: str, parameters: dict[str, str]) -> EcsAnswer:
        if parameters.get("RegionId") != ENVIRONMENT["ALIBABA_CLOUD_REGION_ID"]:
            return EcsAnswer.error(404, "InvalidRegionId.NotFound")
        if action == "RunInstances":
            return self._run(parameters)
        if action == "DescribeInstances":
            return self._described(parameters)
        if action == "DeleteInstances":
            return self._delete(parameters)
        return EcsAnswer.error(404, "InvalidAction.NotFound")

    def _run(self, parameters: dict[str, str]) -> EcsAnswer:
        token, amount = parameters.get("ClientToken", ""), int(parameters.get("Amount", "1"))
        if token in self._orders:
            before, answer = self._orders[token]
            return answer if before == parameters else EcsAnswer.error(400, "IdempotentParameterMismatch")
        for name in ("ImageId", "InstanceType", "VSwitchId", "SecurityGroupIds.1"):
            if not parameters.get(name):
                return EcsAnswer.error(400, f"MissingParameter.{name}")
        for wrong, status, code in (
            (parameters["ImageId"] != IMAGE, 404, "InvalidImageId.NotFound"),
            (parameters["InstanceType"] != SIZE, 403, "InvalidInstanceType.NotSupported"),
            (not 1 <= amount <= 100, 400, "InvalidParameter.Amount"),
        ):
            if wrong:
                return EcsAnswer.error(status, code)
        if len(self.instances) + amount > self.quota:
            return EcsAnswer.error(403, "QuotaExceed.ElasticQuota", "The number of vCPUs exceeds the quota.")
        ids = [self._make(parameters, place, amount) for place in range(amount)]
        # The order of ids is not that of the numbers in names.
        answer = EcsAnswer(200, {"RequestId": "0", "InstanceIdSets": {"InstanceIdSet": ids[::-1]}})
        self._orders[token] = (parameters, answer)
        return answer

    def _make(self, parameters: dict[str, str], place: int, amount: int) -> str:
        self._made += 1
        number, name = self._made, parameters.get("InstanceName", "")
        pattern = re.fullmatch(r"(.*)\[([0-9]+),([0-9])\](.*)", name)
        if pattern and amount > 1:
            name = f"{pattern[1]}{int(pattern[2]) + place:0{pattern[3]}}{pattern[4]}"
        identity = f"i-bp1simulated{number:06}"
        public = int(parameters.get("InternetMaxBandwidthOut", "0")) > 0
        self.instances[identity] = {
            "InstanceId": identity,
            "InstanceName": name,
            "Status": "Pending",
            "Tags": {"Tag": [{"TagKey": key, "TagValue": value} for key, value in tags(parameters)]},
            "VpcAttributes": {"PrivateIpAddress": {"IpAddress": [f"10.0.{number // 250}.{number % 250 + 1}"]}},
            "PublicIpAddress": {"IpAddress": [f"192.0.2.{number % 250 + 1}"] if public else []},
        }
        return identity

    def _described(self, parameters: dict[str, str]) -> EcsAnswer:
        wanted = json.loads(parameters["InstanceIds"]) if "InstanceIds" in parameters else None
        found = [
            {**instance} | ({} if self.addresses else {"VpcAttributes": {}})
            for identity, instance in self.instances.items()
            if (wanted is None or identity in wanted) and all(has(instance, key, value) for key, value in tags(parameters))
        ]
        start, size = int(parameters.get("NextToken") or 0), min(self.page, int(parameters.get("MaxResults", "10")))
        following = str(start + size) if start + size < len(found) else ""
        return EcsAnswer(200, {"RequestId": "0", "NextToken": following, "Instances": {"Instance": found[start : start + size]}})

    def _delete(self, parameters: dict[str, str]) -> EcsAnswer:
        token = parameters.get("ClientToken", "")
        if token in self._deleted:
            return self._deleted[token]
        ids = [value for key, value in parameters.items() if key.startswith("InstanceId.")]
        if not 1 <= len(ids) <= 100 or parameters.get("Force") not in ("true", "True"):
            return EcsAnswer.error(403, "IncorrectInstanceStatus")
        if not set(ids) <= set(self.instances):
            return EcsAnswer.error(404, "InvalidInstanceId.NotFound", "The specified InstanceId does not exist.")
        for identity in ids:
            del self.instances[identity]
        answer = self._deleted[token] = EcsAnswer(200, {"RequestId": "0"})
        return answer


def tags(parameters: dict[str, str]) -> list[tuple[str, str]]:
    """The tags of a request; an empty value is any."""
    numbers = [key.removesuffix(".Key") for key in parameters if re.fullmatch(r"Tag\.[0-9]+\.Key", key)]
    return [(parameters[f"{number}.Key"], parameters.get(f"{number}.Value", "")) for number in numbers]


def has(instance: dict[str, Any], key: str, value: str) -> bool:
    return any(tag["TagKey"] == key and value in ("", tag["TagValue"]) for tag in instance["Tags"]["Tag"])


def signature_fault(method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> EcsAnswer | None:
    """The answer to a request whose signature (ACS3-HMAC-SHA256) is missing or not that of the key."""
    form = r"ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=([0-9a-f]{64})"
    given = re.fullmatch(form, headers.get("authorization", ""))
    if not given or headers.get("x-acs-content-sha256") != hashlib.sha256(body).hexdigest():
        return EcsAnswer.error(400, "IncompleteSignature")
    if given[1] != KEY:
        return EcsAnswer.error(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
    names = given[2].split(";")
    if not {"host", "x-acs-action", "x-acs-date", "x-acs-signature-nonce", "x-acs-version"} <= set(names):
        return EcsAnswer.error(400, "IncompleteSignature")
    pairs = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
    canonical = "&".join(f"{urllib.parse.quote(key, safe='~')}={urllib.parse.quote(value, safe='~')}" for key, value in pairs)
    lines = "".join(f"{name}:{headers.get(name, '').strip()}\n" for name in names)
    request = f"{method}\n{path}\n{canonical}\n{lines}\n{given[2]}\n{headers['x-acs-content-sha256']}"
    text = f"ACS3-HMAC-SHA256\n{hashlib.sha256(request.encode()).hexdigest()}"
    right = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()
    return None if hmac.compare_digest(right, given[3]) else EcsAnswer.error(400, "SignatureDoesNotMatch")


class EcsHandler(http.server.BaseHTTPRequestHandler):
    """The wire."""

    protocol_version = "HTTP/1.1"
    simulation: EcsSimulation

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        parameters = dict(urllib.parse.parse_qsl(query, keep_blank_values=True)) | dict(urllib.parse.parse_qsl(body.decode()))
        parameters.setdefault("Action", headers.get("x-acs-action", ""))
        answer = self.simulation.answer(parameters, signature_fault("POST", path, query, headers, body))
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, content = (200, answer) if isinstance(answer, bytes) else (answer.status, json.dumps(answer.body).encode())
        self.send_response(status)
        for name, value in ({} if isinstance(answer, bytes) else answer.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json;charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


@contextlib.contextmanager
def simulated() -> Iterator[tuple[EcsSimulation, dict[str, str]]]:
    """ECS on loopback, and the environment that leads to it."""
    simulation = EcsSimulation()
    handler = type("EcsHandlerOfOne", (EcsHandler,), {"simulation": simulation})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield simulation, {**ENVIRONMENT, "ALIBABA_CLOUD_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reload_environment() -> None:
    """Let the SDK read the environment once more: it does so only when it is loaded."""
    importlib.reload(importlib.import_module("alibabacloud_credentials.utils.auth_util"))
