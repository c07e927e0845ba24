"""The Helm chart: what it renders, what Kubernetes and the server say of it, and what it refuses.

Everything is offline. UPDATE_EXPECT=1 writes the renders that are expected. LEGATION_BIN names the program that judges
the configurations. What a cluster makes of the objects is not seen here.
"""

import os
import re
import subprocess
import time

import helm_python
import pytest
import yaml

from charts import (
    CASES, CHART, ROOT, SCHEMA, VALUES, at, case, check, data, leaves, objects, only, render, resolved, said_of, whole,
    with_values, without, workload,
)
from pods import Pod, Server, answer

NAMES = sorted(path.name.removesuffix(".in.yaml") for path in CASES.glob("*.in.yaml"))
DEFAULTS, EVERYTHING, EVENTS = case("defaults"), case("everything"), case("events")
QUEUES = EVENTS["events"]["queueUrls"]


# What is rendered


@pytest.mark.parametrize("name", NAMES)
def test_a_render_is_as_expected(name):
    rendered, file = whole(case(name)), CASES / f"{name}.out.yaml"
    if os.environ.get("UPDATE_EXPECT"):
        file.write_text(rendered)
    assert rendered == file.read_text(), f"if it is right: UPDATE_EXPECT=1 writes {file.name}"


def test_no_expected_render_is_left_behind():
    assert NAMES and sorted(path.name.removesuffix(".out.yaml") for path in CASES.glob("*.out.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_takes_every_object(name):
    for one in objects(case(name)).values():
        check(one)
        assert one["metadata"]["namespace"] == "mesh"


@pytest.mark.parametrize("name", [None, *NAMES])
def test_helm_finds_nothing_to_say(name):
    report = helm_python.lint(CHART, name and case(name), strict=True, namespace="mesh", kube_version="v1.37.0")
    said = [message for message in report["messages"] if "icon is recommended" not in message["error"]]
    assert (said, report["errors"]) == ([], [])


@pytest.mark.parametrize("name", NAMES)
def test_what_belongs_together_agrees(name):
    found = objects(case(name))
    template = workload(found)["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    container, = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"xds": 18000, "metrics": 9090}

    def selects(selector, of=labels):
        assert selector and selector.items() <= of.items()

    selects(workload(found)["spec"]["selector"]["matchLabels"])
    for spread in pod.get("topologySpreadConstraints", []):
        selects(spread["labelSelector"]["matchLabels"])
    services = {name: one for (kind, name), one in found.items() if kind == "Service"}
    for service in services.values():
        selects(service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
    for (kind, _), one in found.items():
        if kind == "PodDisruptionBudget":
            selects(one["spec"]["selector"]["matchLabels"])
        if kind == "NetworkPolicy":
            selects(one["spec"]["podSelector"]["matchLabels"])
            inward = {port["port"] for rule in one["spec"]["ingress"] for port in rule["ports"]}
            assert 18000 in inward <= set(ports.values())
        if kind == "ServiceMonitor":
            wanted = one["spec"]["selector"]["matchLabels"]
            watched, = (s for s in services.values() if wanted.items() <= s["metadata"]["labels"].items())
            assert one["spec"]["endpoints"][0]["port"] in {port["name"] for port in watched["spec"]["ports"]}
        if kind == "StatefulSet":
            assert services[one["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"
    maps = {name for kind, name in found if kind == "ConfigMap"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {volumes[name]["configMap"]["name"] for name in ("config", "policies")} == maps
    assert all("subPath" not in mount and mount["name"] in volumes for mount in container["volumeMounts"])
    if case(name).get("serviceAccount", {}).get("create", True):
        account = only(found, "ServiceAccount")
        assert account["metadata"]["name"] == pod["serviceAccountName"]
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", NAMES)
def test_the_pod_is_restricted_and_gets_the_time_that_it_needs(name):
    values = with_values(VALUES, case(name))
    pod = workload(objects(values))["spec"]["template"]["spec"]
    container, = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": "/livez", "port": "metrics"}, "liveness": {"path": "/livez", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
    }
    waits = container.get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})["preStop"]["sleep"]["seconds"]
    last = re.search(r"LAST_WAIT: Duration = Duration::from_secs\((\d+)\)", (ROOT / "src/app.rs").read_text())
    shutdown = values["shutdown"]
    assert waits == shutdown["preStopSeconds"]
    assert pod["terminationGracePeriodSeconds"] > waits + shutdown["graceSeconds"] + int(last[1])


def test_a_new_policy_restarts_nobody_and_a_new_configuration_does():
    before = objects(EVERYTHING)
    policy = {"policies": {"10-payments.yaml": {"services": {"payments": {"retry": {"attempts": 2}}}}}}
    after = objects(with_values(EVERYTHING, policy))
    assert [key for key in before if before[key] != after[key]] == [("ConfigMap", "legation-prod-policies")]
    # Nor does the first policy at all.
    assert workload(objects(DEFAULTS)) == workload(objects(with_values(DEFAULTS, {"policies": EVERYTHING["policies"]})))
    after = objects(with_values(EVERYTHING, {"config": {"aws": {"callBudgetPercent": 26}}}))
    changed = [key for key in before if before[key] != after[key]]
    assert changed == [("ConfigMap", "legation-prod-config"), ("Deployment", "legation-prod")]
    old, new = workload(before)["spec"]["template"], workload(after)["spec"]["template"]
    assert old["spec"] == new["spec"] and old["metadata"]["labels"] == new["metadata"]["labels"]


def test_a_deployment_never_has_fewer_and_replicas_with_queues_are_told_apart():
    found = objects(DEFAULTS)
    assert workload(found)["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert only(found, "PodDisruptionBudget")["spec"]["maxUnavailable"] < workload(found)["spec"]["replicas"]
    assert not any(kind == "PodDisruptionBudget" for kind, _ in objects(case("single"))), "nobody could drain the node"
    found = objects(EVENTS)
    spec, files = workload(found)["spec"], data(found, "-config")
    assert len(files) == spec["replicas"] == len(QUEUES)
    container, = spec["template"]["spec"]["containers"]
    index, = container["env"]
    assert index["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
    arguments = [Pod("/etc/legation").process(container, pod)[0] for pod in range(spec["replicas"])]
    paths = [path.removeprefix("/etc/legation/config/") for _, _, path in arguments]
    read = [yaml.safe_load(files[path])["ecs"] for path in paths]
    assert [ecs["queueUrl"] for ecs in read] == QUEUES
    assert all(ecs["receivers"] == EVENTS["config"]["ecs"]["receivers"] for ecs in read)


MEMORY = [
    ("512Mi", 3072), ("64Mi", 384), ("0.5Gi", 3072), ("1Gi", 6144), ("1G", 5722), ("1500M", 8583), ("524288Ki", 3072),
    ("536870912", 3072), (536870912, 3072), ("8Gi", None), ("1Ki", None), ("512000000000m", None), ("5e8", None), ("", None),
]


@pytest.mark.parametrize("memory, streams", MEMORY, ids=str)
def test_no_more_streams_are_served_than_memory_does_for(memory, streams):
    def served(values):
        return yaml.safe_load(data(objects(values), "-config")["legation.yaml"]).get("xds", {}).get("maxStreams")

    limited = with_values(DEFAULTS, {"resources": {"limits": {"memory": memory}}})
    assert served(limited) == streams
    assert served(with_values(limited, {"config": {"xds": {"maxStreams": 77}}})) == 77
    assert served({**DEFAULTS, "resources": {"limits": None}}) is None
    usual = re.search(r"max_streams: number\(([\d_]+)\)", (ROOT / "src/config.rs").read_text())
    assert int(usual[1]) == 20_000, "the chart names it"


def test_a_policy_reaches_its_file_unharmed():
    texts = {
        "a.yaml": "\n  # indented\n  apiVersion: legation/v1alpha1\n  kind: Policy\n",
        "b.yaml": "apiVersion: legation/v1alpha1\r\nkind: Policy\r\n",
        "c.yml": "kind: Policy # no newline at the end {{ and no template }}",
    }
    assert data(objects(with_values(DEFAULTS, {"policies": texts})), "-policies") == texts
    written = data(objects(EVERYTHING), "-policies")
    assert yaml.safe_load(written["10-payments.yaml"]) == EVERYTHING["policies"]["10-payments.yaml"]
    assert written["20-routes.yml"] == EVERYTHING["policies"]["20-routes.yml"]


@pytest.mark.parametrize("release", ["prod", "a" * 53, "legation-" + "b" * 44])
def test_any_release_name_gives_names_that_kubernetes_takes(release):
    found = objects(with_values(EVENTS, {"serviceMonitor": {"enabled": True}}), name=release)
    for (_, name), one in found.items():
        check(one)
        assert len(name) <= 63 and not name.endswith("-")
    # A revision of a StatefulSet is a label of its pods: its name, a dash and ten characters.
    assert len(workload(found)["metadata"]["name"]) <= 52


@pytest.mark.parametrize("release", ["123", "mesh.prod"])
def test_a_release_name_that_a_service_can_not_have_needs_another(release):
    with pytest.raises(helm_python.HelmRenderError, match=f"no Service may be called {release}-legation; give another"):
        render(DEFAULTS, name=release)
    found = objects(with_values(DEFAULTS, {"fullnameOverride": "prod"}), name=release)
    assert workload(found)["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == release


def test_it_may_be_part_of_another_chart(tmp_path):
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "legation").symlink_to(CHART)
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: platform\nversion: 1.0.0\n")
    (tmp_path / "templates").mkdir()
    with helm_python.Chart.load(tmp_path) as parent:
        files = parent.render({"global": {"team": "mesh"}, "legation": DEFAULTS}, name="platform", namespace="mesh")
    assert "name: platform-legation" in files["platform/charts/legation/templates/workload.yaml"]


def test_what_is_packaged_is_the_chart(tmp_path):
    with helm_python.Chart.load(helm_python.package(CHART, destination=tmp_path)) as packaged:
        names = {file["name"] for file in packaged.files + packaged.templates}
        assert packaged.render(DEFAULTS, name="legation", namespace="mesh") == render(DEFAULTS)
    assert {"README.md", "templates/workload.yaml"} <= names and not any(name.startswith("tests/") for name in names)


def test_the_chart_is_of_the_version_that_it_runs():
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version


# Values, schema and documentation


@pytest.mark.parametrize("path", list(leaves(VALUES)), ids=".".join)
def test_a_value_is_in_the_schema_and_matters(path):
    assert said_of(path) is not None, "the schema does not know it"
    setting = [values for values in map(case, NAMES) if at(values, path) not in (None, at(VALUES, path))]
    assert setting, "no case sets it to something else"

    def refused_or(values):
        try:
            return whole(values)
        except helm_python.HelmError as refusal:
            return str(refusal)

    assert any(refused_or(without(values, path)) != whole(values) for values in setting), "no template uses it"


def test_the_schema_has_no_value_that_values_yaml_hides():
    hidden = {path for path in leaves(known(SCHEMA)) if at(VALUES, path) is None}
    # Helm's own, maps without a default, and the server's configuration.
    assert {path[0] for path in hidden} == {"global", "affinity", "config"}


def known(schema):
    """The keys of a schema, as a map of maps."""
    return {key: known(resolved(value)) for key, value in resolved(schema).get("properties", {}).items()}


def camel_case(key):
    return re.sub(r"_(\w)", lambda found: found[1].upper(), key)


def test_the_schema_knows_the_keys_of_the_server():
    written = (ROOT / "src/config/written.rs").read_text()
    expected = {
        struct: {camel_case(key) for key in re.findall(r"(\w+): (?:Option|Written)", body)}
        for struct, body in re.findall(r"struct (\w+) \{(.*?)\n\}", written, re.DOTALL)
    }
    config, namespace = known(SCHEMA["properties"]["config"]), set(known(SCHEMA["definitions"]["namespace"]))
    assert (set(config), namespace) == (expected.pop("File"), expected.pop("Namespace"))
    for struct in ("Listen", "Tls"):  # the chart's, as a whole
        expected.pop(struct)
    assert {struct: set(config.get(struct[0].lower() + struct[1:], {})) for struct in expected} == expected
    # And the case that has everything uses each key that is not the chart's own.
    said = {path: said_of(("config", *path)).get("description", "") for path in leaves(config)}
    free = {path for path in said if not said[path].startswith("Set by the chart")} - {("namespaces",)}
    assert free <= set(leaves(EVERYTHING["config"]))
    assert {key for one in EVERYTHING["config"]["namespaces"].values() for key in one} == namespace


README = (CHART / "README.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
def test_what_the_readme_shows_can_be_installed(block):
    for one in objects(with_values(DEFAULTS, yaml.safe_load(block))).values():
        check(one)


def test_what_values_yaml_shows_in_comments_can_be_installed():
    text = (CHART / "values.yaml").read_text()
    nlb = re.search(r"^  #\n((?:  # .*\n)+)  annotations: \{\}", text, re.MULTILINE)[1]
    config = re.search(r"^#\n((?:# .*\n)+)config: \{\}", text, re.MULTILINE)[1]
    policies = re.search(r"^#\n((?:# .*\n)+)policies: \{\}", text, re.MULTILINE)[1]
    queues = re.search(r"^  #\n((?:  # .*\n)+)  queueUrls: \[\]", text, re.MULTILINE)[1]
    said = {
        **yaml.safe_load(re.sub("^# ", "", config + policies, flags=re.MULTILINE)),
        "service": yaml.safe_load(re.sub("^  # ", "", nlb, flags=re.MULTILINE)),
        "events": yaml.safe_load(re.sub("^  # ", "", queues, flags=re.MULTILINE)),
    }
    found = objects(with_values(DEFAULTS, said))
    assert workload(found)["kind"] == "StatefulSet" and data(found, "-policies")
    assert found["Service", "legation"]["spec"]["loadBalancerClass"] == "service.k8s.aws/nlb"


# Metrics


def test_alerts_are_about_metrics_that_are_exported():
    telemetry, figures = (ROOT / "src/telemetry.rs").read_text(), (ROOT / "src/admin/metrics.rs").read_text()
    kinds = dict(re.findall(r"pub (\w+): (?:Family<\w+, )?(Counter|Gauge|Histogram)", telemetry))
    registration = r'registry\.register(_with_unit)?\(\s*"(\w+)",[^;]*?metrics\.(\w+)\.clone\(\)'
    registered = re.findall(registration, telemetry)
    assert len(registered) == len(kinds)
    endings = {"Counter": "_total", "Gauge": "", "Histogram": "_bucket"}
    exported = set(re.findall(r'"(legation_\w+)"', figures))
    for unit, name, field in registered:
        exported.add(f"legation_{name}{'_seconds' if unit else ''}{endings[kinds[field]]}")
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs") if "tests" not in path.parts)
    for name in ("everything", "switched-off"):
        rules = only(objects(case(name)), "PrometheusRule")["spec"]["groups"][0]["rules"]
        assert len({rule["alert"] for rule in rules}) == len(rules)
        for rule in rules:
            expression = rule["expr"]
            used = set(re.findall(r"legation_\w+", expression.replace("legation-prod", "")))
            assert used and used <= exported, rule["alert"]
            matchers = dict(re.findall(r'(\w+)="([^"]*)"', expression))
            assert matchers.pop("job", None) == ("legation-prod-metrics" if name == "everything" else None)
            assert all(f'"{value}"' in sources for value in matchers.values()), rule["alert"]
            grouped = set(", ".join(re.findall(r"by \((.*?)\)", expression)).split(", ")) - {"le", ""}
            assert all(re.search(rf'"{label}"|pub {label}:', figures + telemetry) for label in grouped | set(matchers))
            told = " ".join(rule["annotations"].values())
            assert set(re.findall(r"\$labels\.(\w+)", told)) <= grouped, rule["alert"]


# What is refused

BROKEN = yaml.safe_load((CASES / "broken.yaml").read_text())


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken["says"][:60])
def test_a_broken_value_is_named(broken):
    with pytest.raises(helm_python.HelmError) as refusal:
        render(with_values(DEFAULTS, broken["values"]))
    assert broken["says"] in str(refusal.value)


def test_every_contradiction_is_told_at_once():
    values = {"image": {"repository": ""}, "events": {"queueUrls": QUEUES}, "networkPolicy": {"enabled": True}}
    with pytest.raises(helm_python.HelmRenderError) as refusal:
        render(values)
    told = [line.split(":")[0] for line in str(refusal.value).splitlines() if line.startswith("- ")]
    queues = ["- events.queueUrls"] * 2
    assert told == ["- image.repository", "- config.namespaces", *queues, "- networkPolicy.xds"]


@pytest.mark.parametrize("path", [*leaves(VALUES), *((key,) for key in VALUES if VALUES[key])], ids=".".join)
def test_null_takes_a_value_away_or_is_refused_by_name(path):
    values = with_values(VALUES, EVERYTHING)
    at(values, path[:-1])[path[-1]] = None
    try:
        found = objects(values)
    except helm_python.HelmValuesError as refusal:
        assert f"missing property '{path[-1]}'" in str(refusal)
    else:
        for one in found.values():
            check(one)


# What the server says


@pytest.fixture(scope="module")
def legation():
    if "LEGATION_BIN" not in os.environ:
        pytest.fail("LEGATION_BIN must name the program `legation`, which judges what is rendered")
    return os.environ["LEGATION_BIN"]


def ended(*command, **environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_server_accepts_what_is_rendered(name, legation, tmp_path):
    found, pod = objects(case(name)), Pod(tmp_path)
    pod.project(found)
    (tmp_path / "files/policies").mkdir(parents=True)
    (tmp_path / "files/services.yaml").write_text("services: {}\n")
    container, = workload(found)["spec"]["template"]["spec"]["containers"]
    for index in range(workload(found)["spec"]["replicas"]):
        arguments, environment = pod.process(container, index)
        assert ended(legation, *arguments, "--check-config", **environment) == "no problems found\n"
        assert ended(legation, "validate", arguments[-1]) == "no problems found\n"
    policies = sorted(tmp_path.glob("policies/*.y*ml"))
    assert [path.name for path in policies] == sorted(case(name).get("policies", {}))
    for path in policies:
        assert ended(legation, "validate", str(path)) == "no problems found\n"


def test_a_server_serves_it_reads_a_new_policy_and_ends_in_time(legation, tmp_path):
    files = {"config": {"namespaces": {"prod": {"clusters": [], "files": ["/etc/legation/files/services.yaml"]}}}}
    values = with_values(DEFAULTS, files)
    found, pod = objects(values), Pod(tmp_path)
    pod.project(found)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/services.yaml").write_text("services: {}\n")
    spec = workload(found)["spec"]["template"]["spec"]
    container, = spec["containers"]
    free = {f"LEGATION_LISTEN__{port}": "127.0.0.1:0" for port in ("XDS", "METRICS", "ADMIN")}
    arguments, environment = pod.process(container)
    with Server([legation, *arguments], environment | free) as server:
        metrics = server.until("legation is up")["metrics"]
        probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
        assert answer(metrics, probes["startup"]) == answer(metrics, probes["liveness"]) == (200, "ok\n")
        deadline = time.monotonic() + 20
        while (ready := answer(metrics, probes["readiness"]))[0] != 200:  # as the kubelet asks
            assert time.monotonic() < deadline, ready
            time.sleep(0.05)
        exported = set(re.findall(r"^# TYPE (\w+)", answer(metrics, "/metrics")[1], re.MULTILINE))
        assert {"legation_build_info", "legation_proxies", "legation_withdrawal_oldest_age_seconds"} <= exported
        policy = {"policies": {"prod.yaml": "apiVersion: legation/v1alpha1\nkind: Policy\n"}}
        pod.project(objects(with_values(values, policy)))
        server.until("policy loaded")
        assert server.stop(within=spec["terminationGracePeriodSeconds"] - VALUES["shutdown"]["preStopSeconds"]) == 0
