"""Errors and machines of EC2 as values; nothing is asked."""

from __future__ import annotations

from typing import Any

import pytest
from botocore import exceptions, parsers

from harness.errors import SlipwayError, UsageError
from harness.nodes.cloud import CloudError, CloudMachine, CloudRefusalError, MachineOrder, MachineSpec, ec2_words, tags
from harness.nodes.cloud.aws import Ec2

ORDER = MachineOrder(MachineSpec("t3.large", "ami-12345678", "subnet-1", ("sg-1",)), 2, "token", {"a": "b"}, "#cloud-config\n")


def refusal(code: str, status: int = 400, retries: int = 0, message: str = "no") -> exceptions.ClientError:
    details: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status, "RetryAttempts": retries}}
    return exceptions.ClientError(details, "RunInstances")


class Client:
    """As much of boto3's client as is used. ``answers``: what each request gives or raises."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []

    def request(self, **parameters: Any) -> Any:
        self.requests.append(parameters)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    run_instances = terminate_instances = paginate = request

    def get_paginator(self, _: str) -> Client:
        return self


def ec2(*answers: Any) -> tuple[Ec2, Client]:
    cloud, client = Ec2.__new__(Ec2), Client(*answers)
    cloud._client, cloud.region = client, "here"
    return cloud, client


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (refusal("InstanceLimitExceeded"), CloudRefusalError, "quota"),
        (refusal("InvalidAMIID.NotFound"), CloudRefusalError, "--image"),
        (refusal("UnauthorizedOperation", 403), CloudRefusalError, "sign in"),
        # An earlier attempt may have been carried out.
        (refusal("InstanceLimitExceeded", retries=2), CloudError, "quota"),
        (refusal("RequestLimitExceeded", 503), CloudError, "later"),
        # Its token says that it was not.
        (refusal("InsufficientInstanceCapacity", 500, retries=7), CloudRefusalError, "--size"),
        (exceptions.NoCredentialsError(), CloudRefusalError, "sign in"),
        (exceptions.UnauthorizedSSOTokenError(), CloudRefusalError, "sign in"),
        (exceptions.SSOTokenLoadError(error_msg="no token"), CloudRefusalError, "sign in"),
        (exceptions.TokenRetrievalError(provider="sso", error_msg="expired"), CloudRefusalError, "sign in"),
        (exceptions.CredentialRetrievalError(provider="sso", error_msg="expired"), CloudRefusalError, "sign in"),
        (exceptions.EndpointConnectionError(endpoint_url="x"), CloudError, "network"),
        (exceptions.NoRegionError(), UsageError, "AWS_DEFAULT_REGION"),
    ],
)
def test_create_error_is_translated_with_hint(raised: Exception, kind: type[SlipwayError], text: str) -> None:
    cloud, _ = ec2(raised)
    with pytest.raises(kind) as caught:
        cloud.create(ORDER)
    assert type(caught.value) is kind
    assert text in str(caught.value.hint)


@pytest.mark.parametrize("attempts", [1, 2])
def test_create_session_that_expires_between_attempts_is_uncertain(monkeypatch: pytest.MonkeyPatch, attempts: int) -> None:
    """boto3 signs each attempt of its own: an earlier one may have been carried out."""
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "eu-central-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    cloud = Ec2()
    signed: list[str] = []

    def sign(**_: Any) -> None:
        signed.append("")
        if len(signed) == attempts:
            raise exceptions.UnauthorizedSSOTokenError

    def lose(request: Any, **_: Any) -> None:
        raise exceptions.ReadTimeoutError(endpoint_url=request.url)

    cloud._client.meta.events.register_first("request-created.ec2", sign)
    cloud._client.meta.events.register_last("before-send.ec2", lose)
    with pytest.raises(CloudError) as caught:
        cloud.create(ORDER)
    assert type(caught.value) is (CloudRefusalError if attempts == 1 else CloudError)
    assert "sign in" in str(caught.value.hint)
    # What was sent for one request says nothing about the next.
    signed.clear()
    attempts = 1
    with pytest.raises(CloudRefusalError):
        cloud.create(ORDER)


def test_error_text_of_cloud_is_harmless() -> None:
    cloud, _ = ec2(refusal("A\x1b[31m", message="b\x1b]0;x\x07"))
    with pytest.raises(CloudRefusalError) as caught:
        cloud.create(ORDER)
    assert caught.value.message.isprintable()


def test_create_unreadable_answer_is_asked_for_again_with_same_token() -> None:
    wrong = parsers.ResponseParserError("syntax")
    cloud, client = ec2(wrong, wrong, {"Instances": []})
    assert cloud.create(ORDER) == ()
    assert {request["ClientToken"] for request in client.requests} == {"token"}
    cloud, _ = ec2(wrong, wrong, wrong)
    with pytest.raises(CloudError, match="cannot be read"):
        cloud.create(ORDER)


@pytest.mark.parametrize("public", [False, True])
def test_create_names_network_of_machines(public: bool) -> None:
    instance = {"InstanceId": "i-12345678", "PrivateIpAddress": "10.0.0.1", "PublicIpAddress": "192.0.2.1", "State": {"Name": "pending"}}
    own = tags.of("lab", "0" * 16, [("lab-worker-1", "worker")], public=public)
    cloud, client = ec2({"Instances": [{**instance, "Tags": [{"Key": key, "Value": value} for key, value in own.items()]}]})
    order = MachineOrder(MachineSpec("t3.large", "ami-12345678", "subnet-1", ("sg-1",), public), 1, "token", own, "")
    (machine,) = cloud.create(order)
    assert machine.address == ("192.0.2.1" if public else "10.0.0.1")
    (request,) = client.requests
    if public:
        (interface,) = request["NetworkInterfaces"]
        assert (interface["SubnetId"], interface["Groups"], interface["AssociatePublicIpAddress"]) == ("subnet-1", ["sg-1"], True)
    else:
        assert (request["SubnetId"], request["SecurityGroupIds"]) == ("subnet-1", ["sg-1"])
    assert not {"password", "key"} & {name.lower() for name in request}


def test_list_reads_tags_state_and_place() -> None:
    instance = {
        "InstanceId": "i-12345678",
        "AmiLaunchIndex": 3,
        "Tags": [{"Key": "a", "Value": "b"}],
        "State": {"Name": "terminated"},
        "StateReason": {"Message": "Server.InternalError\x1b[31m"},
    }
    cloud, client = ec2([{"Reservations": [{"Instances": [instance]}]}])
    (machine,) = cloud.list("a")
    assert machine == CloudMachine("i-12345678", "", {"a": "b"}, 3, alive=False, state="terminated Server.InternalError\\x1b[31m")
    assert client.requests == [{"Filters": [{"Name": "tag-key", "Values": ["a"]}]}]


@pytest.mark.parametrize("instance", [{"InstanceId": "../x"}, {"InstanceId": "i-12345678", "PrivateIpAddress": "-oProxyCommand=x"}, {}])
def test_list_invalid_machine_is_refused(instance: dict[str, Any]) -> None:
    cloud, _ = ec2([{"Reservations": [{"Instances": [instance]}]}])
    with pytest.raises(CloudError, match="EC2 answered with"):
        cloud.list("a")


def test_destroy_leaves_out_machines_that_vanished() -> None:
    cloud, client = ec2(refusal("InvalidInstanceID.NotFound", message="The instance ID 'i-00000001' does not exist"), {})
    cloud.destroy(["i-00000001", "i-00000002"])
    assert [request["InstanceIds"] for request in client.requests] == [["i-00000001", "i-00000002"], ["i-00000002"]]


def test_destroy_other_refusal_is_raised() -> None:
    cloud, _ = ec2(refusal("InvalidInstanceID.NotFound", message="'i-0000000f' does not exist"))
    with pytest.raises(CloudRefusalError):
        cloud.destroy(["i-00000001"])


def test_destroy_many_machines_takes_few_requests() -> None:
    cloud, client = ec2({}, {})
    cloud.destroy([f"i-{number:08x}" for number in range(900)])
    assert [len(request["InstanceIds"]) for request in client.requests] == [500, 400]


def test_words_of_order_are_those_of_ec2() -> None:
    assert list(ec2_words.faults(MachineSpec("t3.large", "ami-12345678", "subnet-12345678", ("sg-12345678",)))) == []
