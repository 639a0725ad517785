"""What apply shows: readable changes by path."""

from __future__ import annotations

from harness.clusterfile import ClusterDocument, Clusterfile
from harness.clusterfile.diff import ClusterfileChange, difference, without_secrets
from harness.clusterfile.parse import parse
from harness.clusterfile.secrets import fingerprint
from harness.clusterfile.write import redacted

from .reading import CASES, CLUSTERFILES, document, read, spec_text
from .test_write import EVERYTHING, SECRETS


def changes(before: str, after: str) -> list[str]:
    return [str(change) for change in difference(read(before), read(after))]


def hosts(*groups: str) -> str:
    return "hosts:\n" + "".join(f"- {group}\n" for group in groups)


def test_difference_of_same_or_redacted_clusterfile_is_empty() -> None:
    for text in (EVERYTHING, SECRETS, *((CASES / name).read_text() for name in CLUSTERFILES[:4])):
        found = parse(text, "x")
        assert difference(found, found) == ()
        assert difference(parse(redacted(found), "kept"), found) == ()
        assert difference(found, parse(redacted(found), "kept")) == ()


def test_difference_reports_added_removed_and_changed_hosts() -> None:
    before = spec_text(hosts("{ips: [10.0.0.1], roles: [master]}", "{ips: [10.0.0.2-10.0.0.4], roles: [node], labels: {a: b}}"))
    after = spec_text(
        hosts(
            "{ips: [10.0.0.1, 10.0.0.4, 10.0.0.5], roles: [master]}",
            "{ips: [10.0.0.3], roles: [node, gpu], labels: {a: c, d: e}, taints: ['x:NoSchedule']}",
        )
    )
    found = difference(read(before), read(after))
    assert [str(change) for change in found] == [
        "- .spec.hosts[10.0.0.2]: worker",
        "~ .spec.hosts[10.0.0.3].roles: worker -> worker, gpu",
        "~ .spec.hosts[10.0.0.3].labels.a: b -> c",
        "~ .spec.hosts[10.0.0.3].taints: nothing -> x:NoSchedule",
        "+ .spec.hosts[10.0.0.3].labels.d: e",
        "~ .spec.hosts[10.0.0.4].roles: worker -> control-plane",
        "- .spec.hosts[10.0.0.4].labels.a: b",
        "+ .spec.hosts[10.0.0.5]: control-plane",
    ]
    assert found[0] == ClusterfileChange("host", "10.0.0.2", ".spec.hosts[10.0.0.2]", "removed", "worker", None)
    assert found[-1] == ClusterfileChange("host", "10.0.0.5", ".spec.hosts[10.0.0.5]", "added", None, "control-plane")


def test_difference_ignores_ssh_settings_and_host_order() -> None:
    before = spec_text("ssh: {user: a}\n" + hosts("{ips: [10.0.0.1], roles: [master]}", "{ips: [10.0.0.2, 10.0.0.3], roles: [node]}"))
    after = spec_text(
        "ssh: {passwd: b}\n"
        + hosts("{ips: [10.0.0.3], roles: [node]}", "{ips: [10.0.0.2], roles: [worker]}", "{ips: [10.0.0.1], roles: [master]}")
    )
    assert changes(before, after) == []


def test_difference_reports_changed_cluster_settings_and_subjects() -> None:
    before = spec_text("env: {A: 1, B: 2, Secret: x}\nloadBalancing: ipvs\nnetwork: {podCIDR: 10.0.0.0/16}\ncmd: [a]\nappNames: [x]")
    after = spec_text(
        "env: {B: 3, C: 4, Secret: y}\ncertSANS: [n]\ncertificates: {validity: 10y}\ncmd: [b]\nhostAliases: [{ip: 1.1.1.1, hostnames: [h]}]"
    )
    after = after.replace("shop:1.0", "shop:2.0").replace("name: c", "name: d")
    assert changes(before, after) == [
        "~ .metadata.name: c -> d",
        "~ .spec.image: shop:1.0 -> shop:2.0",
        "- .spec.env.A: 1",
        "~ .spec.env.B: 2 -> 3",
        "~ .spec.env.Secret",
        "~ .spec.cmd[0]",
        "- .spec.appNames: x",
        "- .spec.network.podCIDR: 10.0.0.0/16",
        "~ .spec.loadBalancing: ipvs -> auto",
        "+ .spec.env.C: 4",
        "+ .spec.certSANS: n",
        "+ .spec.certificates.validity: 10y",
        "+ .spec.hostAliases[1.1.1.1]: h",
    ]
    subjects = {change.path: change.subject for change in difference(read(before), read(after))}
    assert subjects[".spec.image"] == "image"
    assert subjects[".spec.env.C"] == "env"
    assert subjects[".spec.cmd[0]"] == "launch"
    assert subjects[".spec.network.podCIDR"] == "network"
    assert subjects[".spec.certSANS"] == "certificates"


def test_difference_reports_registry_changes_without_password() -> None:
    before = spec_text("registry: {localRegistry: {port: 5000}}")
    after = spec_text("registry: {localRegistry: {port: 5001, password: geheim, username: u}, externalRegistry: {domain: d}}")
    assert changes(before, after) == [
        "~ .spec.registry.localRegistry.port: 5000 -> 5001",
        "+ .spec.registry.localRegistry.username: u",
        "+ .spec.registry.externalRegistry: d",
    ]


def test_difference_reports_changed_added_and_removed_documents() -> None:
    def files(port: int, *, phase: str = "PreInit", pods: int = 1, app: str = "x") -> str:
        return "---\n".join(
            [
                document("Config", f"path: a.yaml\ndata: {{port: {port}}}", name="c"),
                document("Hook", f"phases: [{phase}]\ndata: x", name="h"),
                document("Application", f"configs: [{{name: a, env: [E={app}]}}]"),
                f"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: {pods}\nevictionHard: {{a.b: 1%}}\n",
            ]
        )

    assert changes(files(1), files(2, phase="PreJoin", pods=2, app="y")) == [
        "~ Config c.data",
        "~ Hook h.phases: pre-init -> pre-join",
        "~ Application a.env.E: x -> y",
        "~ KubeletConfiguration.maxPods: 1 -> 2",
    ]
    extra = document("Config", "path: b.yaml\ndata: x", name="d")
    assert changes(files(1), files(1) + "---\n" + extra) == ["+ Config d: b.yaml"]
    assert changes(files(1) + "---\n" + extra, files(1)) == ["- Config d: b.yaml"]


def test_difference_redacted_secret_change_is_reported_without_value() -> None:
    kept = parse(redacted(read(SECRETS)), "kept")
    other = read(SECRETS.replace("geheim1,", "neu,").replace("geheim3", "neu").replace("geheim10", "neu").replace("geheim12", "neu"))
    found = difference(kept, other)
    assert [str(change) for change in found] == ["~ .spec.env.MysqlPassword", "~ .spec.cmd[0]", "~ Config c1.data", "~ Hook h1.data"]
    assert "neu" not in repr(found)


def test_difference_fingerprinted_value_change_omits_before_and_after() -> None:
    before, after = (
        ClusterDocument("c", "web", env={"Phrase": fingerprint("open", "x")}),
        ClusterDocument("c", "web", env={"Phrase": "sesame"}),
    )
    (change,) = difference(Clusterfile("", cluster=before), Clusterfile("", cluster=after))
    assert (change.before, change.after) == (None, None)


def test_without_secrets_declared_names_are_reported_without_values() -> None:
    of_host = "hosts:\n- {ips: [10.0.0.1], roles: [master], env: {Phrase: %s}}\n"
    before, after = spec_text("env: {Port: 80}\n" + of_host % "a"), spec_text("env: {Port: 81, db.Phrase: sesame}\n" + of_host % "b")
    found = without_secrets(difference(read(before), read(after)), {"Phrase", "db.Phrase"})
    assert [str(change) for change in found] == [
        "~ .spec.env.Port: 80 -> 81",
        "~ .spec.hosts[10.0.0.1].env.Phrase",
        "+ .spec.env.db.Phrase",
    ]


def test_difference_from_empty_clusterfile_lists_all_settings() -> None:
    found = difference(Clusterfile("x"), read(spec_text("env: {A: 1}\n" + hosts("{ips: [10.0.0.1], roles: [master]}"))))
    assert [str(change) for change in found] == [
        "+ .metadata.name: c",
        "+ .spec.image: shop:1.0",
        "+ .spec.env.A: 1",
        "+ .spec.loadBalancing: auto",
        "+ .spec.hosts[10.0.0.1]: control-plane",
    ]
