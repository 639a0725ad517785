"""A registry as an application: images are pushed to it and pulled by pods; its data outlives the pod and the power of the machine."""

from __future__ import annotations

import base64
import datetime
import json
import shlex
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

pytestmark = pytest.mark.topology(control_plane=1, workers=1)

HERE = ("--namespace", "registry")
CTR = "/var/lib/slipway/rootfs/bin/ctr --namespace test-client"
IMAGE = "docker.io/library/registry:3.1.2"
"""What is pushed: an image of this CloudImage."""
SPECIAL = " a\"b'$x`id` \\ #%é{{ Storage }}<&>:* "
"""A password with what shells, YAML and HTTP treat specially, spaces at both ends."""


KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry.example")])
CERTIFICATE = (
    x509.CertificateBuilder()
    .subject_name(NAME)
    .issuer_name(NAME)
    .public_key(KEY.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    .not_valid_after(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
    .add_extension(x509.SubjectAlternativeName([x509.DNSName("registry.example")]), critical=False)
    .sign(KEY, hashes.SHA256())
)
PEM = CERTIFICATE.public_bytes(serialization.Encoding.PEM).decode()
KEY_PEM = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def until(holds, what):
    """Wait for a condition. The limit is only for what hangs, on however busy a machine."""
    deadline = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < deadline, f"it hangs: {what}"
        time.sleep(0.2)


class RegistryClient:
    """curl and ctr on a machine, with the certificate authority and the login of the registry."""

    def __init__(self, cluster):
        self.cluster, self.kubectl = cluster, cluster.kubectl
        self.host = cluster.hosts[0]
        self.address = f"{cluster.hosts[-1].backend.hostname}:30500"
        self.password = self.secret("registry-login", "password")
        self.user = self.secret("registry-login", "username")
        self.login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if "registry-authority" in self.kubectl("get", "secrets", *HERE, "--output=name"):
            for host in cluster.hosts:
                self.trust(host)

    def secret(self, name, key):
        return base64.b64decode(self.kubectl.json("get", "secret", name, *HERE)["data"][key]).decode()

    def trust(self, host):
        """Make containerd of a machine trust the authority; the login is for ctr only, in a folder of its own."""
        for folder, extra in (
            ("/etc/containerd", ""),
            ("/root/client", f'\n[host."https://{self.address}".header]\nauthorization = "Basic {self.login}"\n'),
        ):
            place = f"{folder}/certs.d/{self.address}"
            authority = self.secret("registry-authority", "ca.crt")
            hosts = f'server = "https://{self.address}"\n[host."https://{self.address}"]\nca = "{place}/ca.crt"\n{extra}'
            for name, text in (("ca.crt", authority), ("hosts.toml", hosts)):
                host.check_output(f"mkdir -p {place} && printf %s {shlex.quote(text)} > {place}/{name}")

    def push(self, name):
        """Push an image that this cluster holds."""
        self.host.check_output(f"{CTR} images pull --hosts-dir /etc/containerd/certs.d {IMAGE} 2>&1")
        self.host.check_output(f"{CTR} images tag --force {IMAGE} {self.address}/{name}")
        self.host.check_output(f"{CTR} images push --hosts-dir /root/client/certs.d {self.address}/{name} 2>&1")

    def pull(self, host, name):
        """Pull it on a machine, whose containerd holds nothing of it before."""
        host.check_output(f"{CTR} images pull --hosts-dir /root/client/certs.d {self.address}/{name} 2>&1")

    def curl(self, path, *options, login=True):
        """Status and body of an answer."""
        place = f"/etc/containerd/certs.d/{self.address}"
        header = ["--header", f"Authorization: Basic {self.login}"] if login else []
        words = ["curl", "-s", "--max-time", "60", "--cacert", f"{place}/ca.crt", "-w", "\n%{http_code}", *header, *options]
        body, _, status = self.host.check_output(f"{shlex.join(words)} https://{self.address}{path}").rpartition("\n")
        return int(status), body

    def digest(self, name, tag):
        kinds = ("oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2")
        accept = ", ".join(f"application/vnd.{kind}+json" for kind in kinds)
        status, head = self.curl(f"/v2/{name}/manifests/{tag}", "--head", "--header", f"Accept: {accept}")
        assert status == 200
        return next(line.split()[1] for line in head.splitlines() if line.lower().startswith("docker-content-digest:"))

    def ready(self):
        def answers():
            # The Service leads to a pod again.
            return self.host.run(f"curl -sk --max-time 60 https://{self.address}/").rc == 0

        self.kubectl("rollout", "status", "statefulset/registry", *HERE)
        until(answers, "the registry answers")

    def used(self):
        """Bytes of the claim."""
        (host,) = [host for host in self.cluster.hosts if host.run("ls -d /opt/local-path-provisioner/*_registry_data-registry-0").rc == 0]
        return int(host.check_output("du -sb /opt/local-path-provisioner/*_registry_data-registry-0").split()[0])


@pytest.fixture
def registry(cluster):
    client = RegistryClient(cluster)
    client.ready()
    return client


def test_registry_without_login_refuses_and_names_how(registry):
    status, head = registry.curl("/v2/", "--include", login=False)
    assert status == 401
    assert 'www-authenticate: basic realm="registry"' in head.lower()
    wrong = base64.b64encode(f"{registry.user}:{registry.password}x".encode()).decode()
    assert registry.curl("/v2/", "--header", f"Authorization: Basic {wrong}", login=False)[0] == 401
    assert registry.curl("/v2/")[0] == 200


def test_registry_certificate_is_trusted_by_its_authority_only(registry, nodes):
    assert "unable to get local issuer certificate" in nodes[0].run(f"curl -sS https://{registry.address}/ 2>&1").stdout
    for node in nodes:
        # Every node has the port, and its address is in the certificate.
        address = f"{node.backend.hostname}:30500"
        node.check_output(f"curl -sS --max-time 60 --cacert /etc/containerd/certs.d/{registry.address}/ca.crt https://{address}/")


def test_collection_of_registry_without_images_succeeds(registry, nodes):
    # The tests of pushes come later; where they came before, nothing of theirs is garbage.
    nodes[0].check_output("sh /var/lib/slipway/rootfs/registry/collect-garbage.sh 2>&1")
    registry.ready()
    assert registry.curl("/v2/_catalog")[0] == 200


def test_pushed_image_is_listed_and_pulled_by_other_machine(registry, nodes):
    registry.push("team/app:1")
    registry.push("team/app:2")
    assert "team/app" in json.loads(registry.curl("/v2/_catalog")[1])["repositories"]
    assert json.loads(registry.curl("/v2/team/app/tags/list")[1]) == {"name": "team/app", "tags": ["1", "2"]}
    registry.pull(nodes[-1], "team/app:1")


def test_pod_starts_from_pushed_image_with_pull_secret(registry, kubectl):
    registry.push("team/app:1")
    logins = {"auths": {registry.address: {"auth": registry.login}}}
    pull = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": json.dumps(logins)},
    }  # fmt: skip
    image = f"{registry.address}/team/app:1"
    container = {"name": "main", "image": image, "imagePullPolicy": "Always", "command": ["/bin/registry", "--version"]}
    spec = {"restartPolicy": "Never", "imagePullSecrets": [{"name": "pull"}], "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pulls"}, "spec": spec}
    for resource in (pull, pod):
        kubectl("apply", "--filename", "-", input=json.dumps(resource))
    kubectl.wait("--for=jsonpath={.status.phase}=Succeeded", "pod/pulls")
    assert "3.1.2" in kubectl("logs", "pulls")
    kubectl("delete", "pod", "pulls")


def test_pushed_image_survives_replacement_of_pod_and_power_loss(registry, cluster, kubectl):
    registry.push("kept/app:1")
    before = registry.digest("kept/app", "1")
    kubectl("delete", "pod", "registry-0", *HERE)
    registry.ready()
    assert registry.digest("kept/app", "1") == before
    where = kubectl.json("get", "pod", "registry-0", *HERE)["spec"]["nodeName"]
    (host,) = [host for host, machine in zip(cluster.hosts, cluster.machines, strict=True) if machine.name == where]
    cluster.reboot(host)
    registry.ready()
    assert registry.digest("kept/app", "1") == before


def test_deleted_image_is_gone_and_collection_frees_its_space(registry, nodes):
    # A layer that nothing else has.
    blob = "head -c 20000000 /dev/urandom > /root/blob"
    nodes[0].check_output(f"{blob} && tar -C /root -cf /root/layer.tar blob")
    digest = "sha256:" + nodes[0].check_output("sha256sum /root/layer.tar").split()[0]
    status, head = registry.curl("/v2/big/app/blobs/uploads/", "--request", "POST", "--include")
    assert status == 202
    location = next(line.split()[1] for line in head.splitlines() if line.lower().startswith("location:"))
    path = location.partition(registry.address)[2]
    upload = ("--request", "PUT", "--header", "Content-Type: application/octet-stream", "--data-binary", "@/root/layer.tar")
    assert registry.curl(f"'{path}&digest={digest}'", *upload)[0] == 201
    layer = {"mediaType": "application/octet-stream", "digest": digest, "size": int(nodes[0].check_output("stat -c %s /root/layer.tar"))}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": layer, "layers": [layer]}
    kind = ("--header", f"Content-Type: {manifest['mediaType']}")
    assert registry.curl("/v2/big/app/manifests/1", "--request", "PUT", *kind, "--data-binary", json.dumps(manifest))[0] == 201
    registry.push("kept/app:1")
    full = registry.used()
    assert registry.curl(f"/v2/big/app/manifests/{registry.digest('big/app', '1')}", "--request", "DELETE")[0] == 202
    assert registry.curl("/v2/big/app/manifests/1")[0] == 404
    nodes[0].check_output("sh /var/lib/slipway/rootfs/registry/collect-garbage.sh 2>&1")
    registry.ready()
    assert registry.used() <= full - layer["size"]
    # What has a tag is whole, and pushes are taken again.
    registry.pull(nodes[-1], "kept/app:1")
    registry.push("kept/app:2")


def test_registry_process_is_ordinary_user_on_read_only_root(registry, cluster):
    processes = [host.run("pgrep -f '^/bin/registry serve /etc/registry'").stdout.split() for host in registry.cluster.hosts]
    ((host, process),) = [(host, found[0]) for host, found in zip(cluster.hosts, processes, strict=True) if found]
    status = dict(line.split(":\t", 1) for line in host.check_output(f"cat /proc/{process}/status").splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == {"65534"}
    assert int(status["CapEff"], 16) == 0
    assert host.check_output(f"awk '$2 == \"/\" {{print $4}}' /proc/{process}/mounts").startswith("ro,")


def test_password_is_in_no_argument_and_no_log(registry, kubectl, nodes):
    assert len(registry.password) == 48
    assert registry.password not in kubectl("logs", "registry-0", *HERE, "--all-containers")
    assert [node for node in nodes if registry.password in node.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")] == []


def test_registry_objects_have_labels_of_kubernetes(kubectl):
    kinds = "statefulsets,services,poddisruptionbudgets,networkpolicies,persistentvolumeclaims"
    objects = kubectl.json("get", kinds, *HERE)["items"]
    wanted = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "app.kubernetes.io/part-of"}
    assert len(objects) == 5
    assert [one["metadata"]["name"] for one in objects if not wanted <= {*one["metadata"].get("labels", ())}] == []


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")


@pytest.mark.topology(control_plane=1, workers=0)
@pytest.mark.values(RegistryUser="team", RegistryPassword=SPECIAL, RegistryCertificate=PEM, RegistryPrivateKey=KEY_PEM)
class TestGivenValues:
    def test_given_certificate_and_password_are_used(self, registry):
        place = "/root/given.crt"
        registry.host.check_output(f"printf %s {shlex.quote(PEM)} > {place}")
        # The name is that of the certificate, the address that of the machine.
        name = f"https://registry.example:30500/v2/ --connect-to registry.example:30500:{registry.address} --cacert {place}"
        curl = "curl -s --max-time 60 -o /dev/null -w '%{http_code}'"
        login = base64.b64encode(f"team:{SPECIAL}".encode()).decode()
        assert registry.host.check_output(f"{curl} {name}") == "401"
        assert registry.host.check_output(f"{curl} {name} --header 'Authorization: Basic {login}'") == "200"
