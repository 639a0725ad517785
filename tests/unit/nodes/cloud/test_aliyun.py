"""Errors and machines of ECS as values; nothing is asked."""

from __future__ import annotations

import types
from typing import Any

import pytest
from alibabacloud_credentials.exceptions import CredentialException
from alibabacloud_ecs20140526 import models
from alibabacloud_tea_openapi.exceptions import ClientException, ServerException
from darabonba.exceptions import RetryError

from harness.errors import UsageError
from harness.nodes.cloud import CloudError, CloudMachine, CloudRefusalError, MachineOrder, MachineSpec, aliyun, aliyun_errors, ecs_words
from harness.nodes.cloud.aliyun import AliyunEcs

ORDER = MachineOrder(MachineSpec("ecs.g7.large", "debian", "vsw-12345678", ("sg-12345678",)), 2, "token", {"a": "b"}, "#cloud-config\n")
INSTANCE = {"InstanceId": "i-bp112345", "InstanceName": "slipway-lab-003", "Status": "Running"}


class EcsClient:
    """As much of the SDK's client as is used. ``answers``: the document that each request gives, or an error."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[Any] = []

    def request(self, request: Any, _: Any) -> Any:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return types.SimpleNamespace(body=types.SimpleNamespace(to_map=lambda: answer))

    run_instances_with_options = describe_instances_with_options = delete_instances_with_options = request


def ecs(*answers: Any) -> tuple[AliyunEcs, EcsClient]:
    cloud, client = AliyunEcs.__new__(AliyunEcs), EcsClient(*answers)
    cloud._client, cloud.region, cloud._models, cloud._options = client, "here", models, object
    return cloud, client


def refused(code: str, message: str = "no", status: int = 400) -> ClientException:
    return ClientException(status_code=status, code=code, message=f"code: {status}, {message}", data={"Message": message})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.mark.parametrize(
    ("raised", "kind", "hint"),
    [
        ([refused("QuotaExceed.ElasticQuota")], CloudRefusalError, "quota"),
        ([refused("InvalidImageId.NotFound")], CloudRefusalError, "--image"),
        # An earlier attempt may have been carried out.
        ([RetryError("lost"), refused("QuotaExceed.ElasticQuota")], CloudError, "quota"),
        ([RetryError("lost"), CredentialException("none")], CloudError, "sign in"),
        ([ServerException(status_code=500, code="InternalError"), refused("Forbidden.RAM")], CloudError, "RAM"),
        # One that was throttled was not.
        ([refused("Throttling.User"), refused("Forbidden.RAM")], CloudRefusalError, "RAM"),
        # Its token says that it was not.
        ([RetryError("lost"), refused("OperationDenied.NoStock")], CloudRefusalError, "--size"),
        ([CredentialException("none")], CloudRefusalError, "sign in"),
        ([RetryError("lost")] * 8, CloudError, "network"),
        ([RuntimeError("Failed to parse")] * 3, CloudError, "again"),
    ],
)
def test_create_error_is_translated_with_hint(raised: list[Exception], kind: type[CloudError], hint: str) -> None:
    cloud, client = ecs(*raised)
    with pytest.raises(CloudError) as caught:
        cloud.create(ORDER)
    assert type(caught.value) is kind
    assert hint in str(caught.value.hint)
    assert {request.client_token for request in client.requests} == {"token"}
    assert client.answers == []


def test_create_more_machines_than_one_request_makes_is_refused() -> None:
    cloud, client = ecs()
    with pytest.raises(CloudRefusalError, match="at most 100"):
        cloud.create(MachineOrder(ORDER.spec, 101, "token", {}, ""))
    assert client.requests == []


def test_create_machines_that_are_not_listed_yet_take_places_that_are_left() -> None:
    listed = {**INSTANCE, "InstanceName": "slipway-lab-000"}
    cloud, _ = ecs({"InstanceIdSets": {"InstanceIdSet": ["i-bp100002", "i-bp112345"]}}, {"Instances": {"Instance": [listed]}})
    assert [(machine.id, machine.place) for machine in cloud.create(ORDER)] == [("i-bp100002", 1), ("i-bp112345", 0)]


def test_error_text_of_ecs_is_harmless() -> None:
    cloud, _ = ecs(refused("A\x1b[31m", "b\x1b]0;x\x07"))
    with pytest.raises(CloudRefusalError) as caught:
        cloud.create(ORDER)
    assert caught.value.message.isprintable()


def test_read_lost_request_leaves_out_its_address() -> None:
    failure = aliyun_errors.read(RetryError("Max retries exceeded with url: /?UserData=abc (Caused by x)"))
    assert failure.message == "ECS does not answer: Max retries exceeded (Caused by x)"


def test_list_reads_tags_state_address_and_place() -> None:
    network = {"VpcAttributes": {"PrivateIpAddress": {"IpAddress": ["10.0.0.1"]}}, "Tags": {"Tag": [{"TagKey": "a", "TagValue": "b"}]}}
    cloud, client = ecs({"Instances": {"Instance": [{**INSTANCE, **network}]}, "NextToken": ""})
    assert cloud.list("a", "b") == (CloudMachine("i-bp112345", "10.0.0.1", {"a": "b"}, 3, state="Running"),)
    wanted = client.requests[0].to_map()
    assert (wanted["RegionId"], wanted["MaxResults"], wanted["Tag"]) == ("here", 100, [{"Key": "a", "Value": "b"}])


@pytest.mark.parametrize(
    "instance", [{"InstanceId": "../x"}, {**INSTANCE, "VpcAttributes": {"PrivateIpAddress": {"IpAddress": ["-oProxyCommand=x"]}}}, {}]
)
def test_list_invalid_instance_is_refused(instance: dict[str, Any]) -> None:
    cloud, _ = ecs({"Instances": {"Instance": [instance]}})
    with pytest.raises(CloudError, match="ECS answered with"):
        cloud.list("a")


def test_list_pages_in_circle_end_with_error() -> None:
    page = {"Instances": {"Instance": []}, "NextToken": "1"}
    cloud, _ = ecs(page, page, page)
    with pytest.raises(CloudError, match="circle"):
        cloud.list("a")


def test_destroy_many_machines_takes_few_requests() -> None:
    cloud, client = ecs({}, {}, {})
    cloud.destroy([f"i-{number:08}" for number in range(250)])
    assert sorted(len(request.instance_id) for request in client.requests) == [50, 100, 100]
    assert len({request.client_token for request in client.requests}) == 3


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", ("https", None)),
        ("ecs.cn-hangzhou.aliyuncs.com", ("https", "ecs.cn-hangzhou.aliyuncs.com")),
        ("https://ecs.example/", ("https", "ecs.example")),
        ("http://127.0.0.1:8080", ("http", "127.0.0.1:8080")),
    ],
)
def test_endpoint_with_and_without_protocol_is_read(text: str, read: tuple[str, str | None]) -> None:
    assert aliyun._endpoint(text) == read


@pytest.mark.parametrize("text", ["ftp://x", "a b", "http://x/y?z", "http://user@x"])
def test_endpoint_invalid_text_is_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is no endpoint"):
        aliyun._endpoint(text)


def test_words_of_order_are_those_of_ecs() -> None:
    assert list(ecs_words.faults(ORDER.spec)) == []
