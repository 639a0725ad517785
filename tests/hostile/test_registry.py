"""Registries that lie. ``Home.slipway`` judges each command; a test adds what it alone expects."""

from __future__ import annotations

import base64
import json

import pytest

from tests.hostile import images
from tests.hostile.canary import Home, tells
from tests.hostile.registry import REPOSITORY, Lying, lying, raw, slow
from tests.hostile.test_machines import SEQUENCES
from tests.integration.faulty import Answer, body, endless, faulty, redirect, status

ERRORS = json.dumps({"errors": [{"code": SEQUENCES, "message": SEQUENCES, "detail": SEQUENCES}]}).encode()
DEEP = b"[" * 100_000 + b"]" * 100_000
INDEX = {"schemaVersion": 2, "mediaType": images.INDEX}


def good() -> images.Layout:
    return images.cloud_image([images.layer(images.BASIC)])


def pull(home: Home, registry: Lying) -> int:
    return home.slipway("pull", registry.reference, "--plain-http").code


def test_pull_honest_registry_succeeds(home: Home) -> None:
    """What the tests below change."""
    with lying(good()) as registry:
        assert pull(home, registry) == 0
        assert home.slipway("inspect", registry.reference).code == 0


ROOTS: dict[str, object] = {
    "list": [],
    "text": "x",
    "null": None,
    "no-json": b"\xff\xfe{",
    "deep": b'{"schemaVersion": 2, "manifests": ' + DEEP + b"}",
    "nan": b'{"schemaVersion": 2, "manifests": [{"mediaType": "a", "digest": "b", "size": NaN}]}',
    "infinite": b'{"schemaVersion": 2, "manifests": [{"mediaType": "%s", "digest": "sha256:%s", "size": 1e999}]}'
    % (images.MANIFEST.encode(), b"0" * 64),
    "long-number": b'{"schemaVersion": 2, "manifests": [], "a": ' + b"9" * 100_000 + b"}",
    "twice": b'{"schemaVersion": 2, "manifests": [], "manifests": 5}',
    "case": b'{"schemaVersion": 2, "manifests": [], "Manifests": [{}]}',
    "manifests-number": {**INDEX, "manifests": 5},
    "manifests-null": {**INDEX, "manifests": [None, 5, "x", []]},
    "sizes": {
        **INDEX,
        "manifests": [{"mediaType": images.MANIFEST, "digest": "sha256:" + "0" * 64, "size": size} for size in (-5, 1.5, True)],
    },
    "digest": {**INDEX, "manifests": [{"mediaType": images.MANIFEST, "digest": "sha256:../../../../etc/passwd", "size": 5}]},
    "digest-kind": {**INDEX, "manifests": [{"mediaType": images.MANIFEST, "digest": ["x"], "size": 5}]},
    "annotations-text": {**INDEX, "manifests": [], "annotations": "x"},
    "annotations-numbers": {**INDEX, "manifests": [], "annotations": {"dev.slipway.kind": 5}},
    "platform": {
        **INDEX,
        "manifests": [{"mediaType": images.MANIFEST, "digest": "sha256:" + "0" * 64, "size": 5, "platform": {"os": 5, "architecture": []}}],
    },
    "terminal": {**INDEX, "manifests": [], "mediaType": SEQUENCES, "annotations": {SEQUENCES: SEQUENCES}},
    "self": {**INDEX, "manifests": [{"mediaType": SEQUENCES, "digest": SEQUENCES, "size": 5}]},
}


@pytest.mark.parametrize("root", ROOTS)
def test_pull_malformed_root_document_is_refused(root: str, home: Home) -> None:
    with lying(good()) as registry:
        registry.root(ROOTS[root])
        # Of these the text alone is odd.
        assert pull(home, registry) in ((0, 4) if root == "terminal" else (4,))
    assert home.slipway("images").code == 0


ANSWERS: dict[str, Answer] = {
    "errors": body(ERRORS, "application/json", code=500),
    "errors-deep": body(b'{"errors": ' + DEEP + b"}", "application/json", code=400),
    "errors-text": body(b'{"errors": "x"}', "application/json", code=404),
    "html": body(SEQUENCES.encode() * 1000, "text/html", code=403),
    "reason": raw(b"HTTP/1.1 404 " + SEQUENCES.encode().replace(b"\r", b"") + b"\r\nContent-Length: 0\r\n\r\n"),
    "retry-after": status(429, "TOOMANYREQUESTS", retry_after="1e999"),
    "retry-date": status(503, "UNAVAILABLE", retry_after="Thu, 99 Foo 99999 99:99:99 GMT"),
    "challenge": status(401, "UNAUTHORIZED", www_authenticate='Bearer realm="file:///etc/passwd",service="\x01"'),
    "challenge-relative": status(401, "UNAUTHORIZED", www_authenticate='Bearer realm="//x",service=,scope'),
    "challenge-odd": status(401, "UNAUTHORIZED", www_authenticate="Bearer " + 'a="' * 5000),
    "redirect-file": redirect("file:///etc/passwd"),
    "redirect-odd": redirect("http://[::1"),
    "redirect-unicode": redirect("http://xn--a/\x7f"),
    "digest": body(b"{}", images.INDEX, docker_content_digest=f"sha256:{'0' * 64}"),
    "digest-odd": body(b"{}", images.INDEX, docker_content_digest="sha256:\x7f../../x"),
    "length": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\nContent-Type: a\r\n\r\n{}"),
    "length-large": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\nContent-Type: a\r\n\r\n{}"),
    "length-text": raw(b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\nContent-Type: a\r\n\r\n{}"),
    "no-http": raw(b"\x00\x01\x02" * 1000),
    "headers": raw(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(1000)) + b"\r\n"),
    "header-long": raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n"),
    "gzip": body(b"\x1f\x8b\x08" + b"\xff" * 100, images.INDEX, content_encoding="gzip"),
    "endless": endless,
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_pull_malformed_http_answer_exits_4(answer: str, home: Home) -> None:
    with lying(good()) as registry:
        registry.server.on(registry.tag, ANSWERS[answer])
        assert pull(home, registry) == 4


@pytest.mark.parametrize("answer", ["endless", "errors", "redirect-file", "digest", "length-large", "no-http"])
def test_pull_malformed_blob_answer_is_refused_and_names_no_image(answer: str, home: Home) -> None:
    layout = good()
    layer = next(name for name, kind in layout.types.items() if kind == images.LAYER)
    with lying(layout) as registry:
        registry.blob(layer, ANSWERS[answer])
        assert pull(home, registry) == 4
    assert home.slipway("images").stdout.count("bad") == 0
    assert home.size() < 64 << 20


def test_pull_dripping_registry_is_given_up(home: Home) -> None:
    with lying(good()) as registry:
        registry.server.on(registry.tag, slow)
        outcome = home.slipway("pull", registry.reference, "--plain-http", patience={"rate_window": 2.0, "attempts": 2})
        assert outcome.code == 4
        assert "bytes in" in outcome.output, "it is given up because it drips"


def test_pull_password_is_not_sent_to_other_registry(home: Home) -> None:
    secret, token = "the-password-of-alice", "the-token-of-alice"
    login = base64.b64encode(f"alice:{secret}".encode()).decode()
    with lying(good()) as registry, faulty() as other:
        config = home.home / ".docker/config.json"
        config.write_text(json.dumps({"auths": {registry.server.host: {"auth": login}}}))
        home.accept("home/.docker/config.json")
        bearer = f'Bearer realm="{other.url}/token",service="a"'
        asked = f"/token?scope=repository%3A{REPOSITORY.replace('/', '%2F')}%3Apull&service=a"
        other.on(asked, body(json.dumps({"token": token}).encode(), "application/json"))
        away = redirect(f"{other.url}/stolen")
        # Without a challenge, for one of the password, and for one of a token, which the registry lets another host issue.
        for challenge, sent in (("", ""), (f'Basic realm="{other.url}"', login), (bearer, token)):
            answers = [status(401, "UNAUTHORIZED", www_authenticate=challenge)] if challenge else []
            registry.server.on(registry.tag, *answers, away)
            registry.server.requests.clear()
            other.requests.clear()
            assert pull(home, registry) == 4
            assert sent.encode() in registry.sent()
            heard = [request for request in other.requests if request.path != asked]
            assert [request.path for request in heard] == ["/stolen"]
            assert not [text for text in (login, secret, token) if text in str(heard)]
            assert bool(other.asked(asked)) == (challenge == bearer)
            assert not tells(registry.sent())


@pytest.mark.parametrize("link", ["</v2/http://{other}/x>", "<http://{other}/v2/x/tags/list>", "<//{other}/v2/>", "<../../{other}>"])
def test_search_pagination_link_to_other_host_is_not_followed(link: str, home: Home) -> None:
    with lying(good()) as registry, faulty() as other:
        more = f'{link.format(other=other.host)}; rel="next"'
        names = json.dumps({"repositories": [REPOSITORY], "name": REPOSITORY, "tags": ["latest"]}).encode()
        registry.server.on("/v2/_catalog?n=100", body(names, "application/json", link=more))
        for path in ("/v2/_catalog", "/v2/_catalog?n=1000", f"/v2/{REPOSITORY}/tags/list", f"/v2/{REPOSITORY}/tags/list?n=1000"):
            registry.server.on(path, body(names, "application/json", link=more), body(names, "application/json"))
        home.slipway("search", "--registry", registry.server.host, "--plain-http")
        home.slipway("search", f"{registry.server.host}/{REPOSITORY}", "--tags", "--plain-http")
        assert registry.server.requests
        assert not other.requests


@pytest.mark.parametrize(
    "names", [5, [5, None, []], [SEQUENCES], ["../../x", "a" * 10_000], {"a": 1}], ids=["number", "kinds", "terminal", "paths", "mapping"]
)
def test_search_malformed_repository_and_tag_names_do_not_crash(names: object, home: Home) -> None:
    with lying(good()) as registry:
        data = json.dumps({"repositories": names, "tags": names}).encode()
        for path in (
            "/v2/_catalog",
            "/v2/_catalog?n=100",
            "/v2/_catalog?n=1000",
            f"/v2/{REPOSITORY}/tags/list",
            f"/v2/{REPOSITORY}/tags/list?n=1000",
        ):
            registry.server.on(path, body(data, "application/json"))
        home.slipway("search", "--registry", registry.server.host, "--plain-http")
        home.slipway("search", f"{registry.server.host}/{REPOSITORY}", "--tags", "--plain-http")


CONFIG = {"mediaType": images.CONFIG, "digest": images.digest(b"{}"), "size": 2}
ATTACHMENTS: dict[str, tuple[bytes, str]] = {
    # Document that is served as signatures and attestations, and its fault.
    "list": (b"[]", "is not a JSON object"),
    "no-type": (b'{"schemaVersion": 2, "layers": [{"annotations": "x"}]}', "answers JSON that is neither manifest nor index"),
    "layer": (
        json.dumps(
            {"schemaVersion": 2, "mediaType": images.MANIFEST, "config": CONFIG, "layers": [{**CONFIG, "annotations": "x"}]}
        ).encode(),
        "answers JSON that is neither manifest nor index",
    ),
    "deep": (b'{"manifests": ' + DEEP + b"}", "it is nested more than 64 levels deep"),
}
ATTACHED = (".sig", ".att")


def serve_attachment(registry: Lying, suffix: str, document: bytes) -> str:
    """Serve what is attached to the image under one of the names that cosign gives; return its path."""
    root = registry.layout.index[0]["digest"]
    path = f"/v2/{REPOSITORY}/manifests/{root.replace(':', '-')}{suffix}"
    registry.server.on(path, body(document, images.MANIFEST, docker_content_digest=images.digest(document)))
    return path


def serve_signature(home: Home, registry: Lying) -> None:
    """Sign the image that the store holds with k.key, and serve the signature."""
    password = {"SLIPWAY_KEY_PASSWORD": "sesame"}
    assert home.slipway("keys", "create", "--to", "k", env=password).code == 0
    assert home.slipway("sign", "--key", "k.key", registry.reference, env=password).code == 0
    store = home.state / "store"
    names = {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry
        for entry in json.loads((store / "index.json").read_text())["manifests"]
    }
    (digest,) = [entry["digest"] for name, entry in names.items() if name.endswith(".sig")]
    document = (store / "blobs" / digest.replace(":", "/")).read_bytes()
    serve_attachment(registry, ".sig", document)
    manifest = json.loads(document)
    for descriptor in (manifest["config"], *manifest["layers"]):
        registry.blob(descriptor["digest"], body((store / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()))


@pytest.mark.parametrize("kind", ATTACHMENTS)
def test_pull_malformed_attachments_are_not_copied_with_warning(kind: str, home: Home) -> None:
    document, fault = ATTACHMENTS[kind]
    with lying(good()) as registry:
        paths = [serve_attachment(registry, suffix, document) for suffix in ATTACHED]
        registry.server.on(f"/v2/{REPOSITORY}/referrers/{registry.layout.index[0]['digest']}", body(document, images.INDEX))
        outcome = home.slipway("pull", registry.reference, "--plain-http")
        assert outcome.code == 0
        assert "warning: signatures and attestations of " in outcome.stderr
        assert fault in outcome.stderr
        assert any(registry.server.asked(path) for path in paths)
    assert not any(suffix in (home.state / "store/index.json").read_text() for suffix in ATTACHED)


@pytest.mark.parametrize("kind", ATTACHMENTS)
def test_verify_malformed_signature_or_attestation_is_refused_with_fault(kind: str, home: Home) -> None:
    document, fault = ATTACHMENTS[kind]
    with lying(good()) as registry:
        assert pull(home, registry) == 0
        serve_signature(home, registry)
        words = ("verify", registry.reference, "--remote", "--plain-http", "--key", "k.pub")
        assert home.slipway(*words).code == 0
        for suffix, options in ((".att", ("--attestations",)), (".sig", ())):
            path = serve_attachment(registry, suffix, document)
            outcome = home.slipway(*words, *options)
            assert outcome.code == 4
            assert fault in outcome.stderr
            assert registry.server.asked(path)
