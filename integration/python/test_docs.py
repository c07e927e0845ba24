"""Every command of the guides is run, and every name that they use exists.

LEGATION_BIN and LEGATION_FAKE_AWS_BIN name the programs. What commands print is not judged, except that they succeed.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

import docs_packages
import docs_tasks
from docs_cloud import Template
from docs_reader import ROOT, SPAN, guides, programs, read
from docs_shell import LEGATION, Estate, Shell

GUIDES = guides()
CODE = re.compile(r"^[A-Z]{2,6}[0-9]{3}$")
METRIC = re.compile(r"\blegation_[a-z][a-z0-9_]*")
SUFFIXES = ("", "_total", "_seconds", "_seconds_total")


def each_guide(test):
    return pytest.mark.parametrize("guide", GUIDES, ids=[guide.name for guide in GUIDES])(test)


@pytest.fixture(scope="session")
def estate(tmp_path_factory):
    estate = Estate(tmp_path_factory.mktemp("docs") / "estate")
    try:
        estate.open()
        yield estate
    finally:
        estate.close()


@pytest.fixture(scope="session")
def sources():
    return "\n".join(path.read_text() for path in sorted(ROOT.glob("src/**/*.rs")))


@pytest.fixture(scope="session")
def schema():
    done = subprocess.run([LEGATION, "schema", "policy"], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def none(problems):
    assert not problems, "\n".join(problems)


@each_guide
def test_every_command_works(guide, estate, tmp_path):
    estate.moto.prepare()
    shell = Shell(estate, tmp_path, guide)
    outcomes = [(line, command, shell.run(command)) for line, command in guide.commands()]
    none([f"{guide.name}:{line}: `{command}`: {why}" for line, command, why in outcomes if why])


def test_what_is_checked_is_found():
    """No test here may pass because it sees nothing."""
    spans = [span for guide in GUIDES for span in guide.spans()]
    assert sum(bool(CODE.match(span)) for span in spans) > 20
    assert sum(len(METRIC.findall(span)) for span in spans) > 30
    assert sum(len(guide.links()) for guide in GUIDES) > 40
    assert sum(len(guide.paths()) for guide in GUIDES) > 10
    found = [command for guide in GUIDES for _, command in guide.commands()]
    called = {program for command in found for program in programs(command)}
    assert len(found) > 80 and {"aws", "legation", "curl"} <= called, (len(found), called)


def test_a_wrong_command_is_seen(estate, tmp_path):
    path = tmp_path / "wrong.md"
    commands = [
        "legation statsu",
        "aws ecs list-tasks --clutser prod-a",
        "kubectx prod",
        "legation explain nobody payments:8080",
        "helm lint charts/nothing",
        "terraform -chdir=nowhere init",
        "terraform apply",
        "terraform apply -var zones=3",
        "docker build -f Nofile .",
        "make nothing",
        "NONE=$(aws elbv2 describe-target-groups --query 'TargetGroups[9].TargetGroupArn' --output text)",
        "legation validate bad.yaml",
        "curl -sf http://127.0.0.1:19000/api/v1/nothing",
        "legation status | tee status",
    ]
    files = "```yaml\n# bad.yaml\nkind: Policy\nservice: {}\n```\n\n```hcl main.tf\nvariable \"subnets\" {}\n```\n\n"
    path.write_text(f"{files}```sh\n" + "\n".join(commands) + "\n```\n")
    guide = read(path)
    estate.moto.prepare()
    shell = Shell(estate, tmp_path, guide)
    assert [command for _, command in guide.commands()] == commands
    none([f"`{command}` is taken for right" for command in commands if shell.run(command) is None])


@each_guide
def test_links_and_files_exist(guide):
    none([f"{guide.name}: {problem}" for problem in lost(guide)])


def lost(guide):
    lacking = [f"{link} leads nowhere" for link in guide.links() if not leads(guide, link)]
    return lacking + [f"`{path}` does not exist" for path in guide.paths() if not (ROOT / path).exists()]


def leads(guide, link):
    if re.match(r"^[a-z]+:", link):
        return True
    path, _, part = link.partition("#")
    target = (guide.path.parent / path).resolve() if path else guide.path
    if not target.exists():
        return False
    return not part or part in read(target).headings()


@each_guide
def test_findings_exist(guide, sources):
    none([f"{guide.name}: no finding {code}" for code in strange_codes(guide, sources)])


def strange_codes(guide, sources):
    codes = {span for span in guide.spans() if CODE.match(span)}
    return [code for code in sorted(codes) if f'"{code}"' not in sources]


@pytest.fixture(scope="session")
def metrics(estate, sources):
    """What a running server exports, and what it registers to export once there is something to count."""
    served = set(re.findall(r"^# TYPE (\S+)", estate.fetch("metrics", "/metrics"), re.MULTILINE))
    registered = re.findall(r'registry\.register(?:_with_unit)?\(\s*"(\w+)"', sources)
    assert len(served) > 20 and len(registered) > 5, (served, registered)
    return served | {f"legation_{name}{suffix}" for name in registered for suffix in SUFFIXES}


@each_guide
def test_metrics_are_exported(guide, metrics):
    none([f"{guide.name}: no metric {name}" for name in strange_metrics(guide, metrics)])


def strange_metrics(guide, metrics):
    named = {name for span in guide.spans() for name in METRIC.findall(span)}
    return sorted({re.sub(r"_(bucket|sum|count)$", "", name) for name in named} - metrics)


@each_guide
def test_blocks_are_what_they_say(guide, estate, tmp_path):
    """YAML, JSON and HCL can be read; policies, configurations, values and modules say only what is known."""
    none(bad_blocks(guide, Shell(estate, tmp_path, guide)))


def bad_blocks(guide, shell):
    problems = []
    for block in guide.blocks:
        judge = {"yaml": judge_yaml, "json": judge_json, "hcl": judge_hcl}.get(block.language)
        try:
            if judge:
                judge(guide, block, shell)
            elif block.language not in ("sh", "text", "console"):
                raise ValueError(f"blocks of `{block.language}` are not checked")
        except Exception as error:  # whatever it is, it is told with its place
            problems.append(f"{guide.path.name}:{block.line}: {type(error).__name__}: {error}")
    return problems


def judge_json(guide, block, shell):
    wrong = docs_tasks.faults(block.text)
    assert not wrong, "; ".join(wrong)


def judge_hcl(guide, block, shell):
    docs_packages.judge_module(block.text, ROOT)


def judge_yaml(guide, block, shell):
    document = yaml.load(block.text, Template)
    is_chart = guide.path.is_relative_to(ROOT / "charts")
    if not is_chart and {"kind", "namespaces", "services", "imports"} & set(document):
        name = block.name or "block.yaml"
        (shell.folder / "policies").mkdir(exist_ok=True)
        shell.show(name, block.text)
        done = subprocess.run(
            [LEGATION, "validate", name], cwd=shell.folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
    elif is_chart:
        chart = next(path for path in guide.path.parents if (path / "Chart.yaml").exists())
        values = {} if block.name else yaml.safe_load(next((text for name, text in guide.files()), "{}"))
        docs_packages.judge_chart(chart, docs_packages.merge(values, document))
        docs_packages.render(chart, docs_packages.merge(values, document), "legation", "mesh")


def keys_of(schema, node, prefix=""):
    """Every key of a policy that may stand in a service, as a path."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    found = set()
    for key, inner in node.get("properties", {}).items():
        found.add(f"{prefix}{key}")
        found |= keys_of(schema, inner, f"{prefix}{key}.")
    for inner in node.get("anyOf", []) + node.get("oneOf", []):
        found |= keys_of(schema, inner, prefix)
    return found


@each_guide
def test_policy_keys_exist(guide, schema):
    none([f"{guide.name}: no policy key {key}" for key in strange_keys(guide, schema)])


def strange_keys(guide, schema):
    services = schema["properties"]["services"]
    service = services.get("additionalProperties") or next(iter(services["patternProperties"].values()))
    known = keys_of(schema, service)
    heads = {key for key in known if any(other.startswith(f"{key}.") for other in known)}
    assert {"timeouts.request", "loadBalancing.zoneAware.mode"} <= known, sorted(known)
    spans = {span for span in guide.spans() if re.match(r"^[a-zA-Z0-9]+(\.[a-zA-Z0-9]+)+$", span)}
    wrong = [span for span in sorted(spans) if span.split(".")[0] in heads and span not in known]
    return [key for key in wrong if not is_theirs(guide, key)]


def is_theirs(guide, key):
    """Whether a key is another product's, which a table of a migration sets beside ours."""
    rows = [line for line in guide.prose.splitlines() if line.startswith("|") and f"`{key}`" in line]
    return bool(rows) and all(key in SPAN.findall(row.split("|")[1]) for row in rows)


WRONG = """# Wrong

A [link](nowhere.md), a [part](#nothing), `docs/nothing.md`, `LSN999`, `legation_nothing_total`, `timeouts.reqest`.

```yaml
apiVersion: legation/v1alpha1
kind: Policy
services: { payments: { namespace: prod, timeouts: { reqest: 5s } } }
```

```json
{ "no": json }
```

```json
{ "portMappings": [{ "name": "http", "containerPort": 8080, "appProtocol": "htp" }] }
```

```toml
of = "no kind that is checked"
```
"""


def test_wrong_names_are_seen(estate, sources, metrics, schema, tmp_path):
    path = tmp_path / "wrong.md"
    path.write_text(WRONG)
    guide = read(path)
    assert lost(guide) == ["nowhere.md leads nowhere", "#nothing leads nowhere", "`docs/nothing.md` does not exist"]
    assert strange_codes(guide, sources) == ["LSN999"]
    assert strange_metrics(guide, metrics) == ["legation_nothing_total"]
    assert strange_keys(guide, schema) == ["timeouts.reqest"]
    bad = bad_blocks(guide, Shell(estate, tmp_path, guide))
    assert [problem.split(":")[1] for problem in bad] == ["5", "11", "15", "19"], bad


TASKS = [(name, it) for guide in GUIDES for name, it in docs_tasks.definitions(guide).items()]


def test_the_sidecars_definition_is_that_of_deploy():
    none(docs_tasks.differences(dict(TASKS)["checkout.json"], docs_tasks.shipped()))


def test_a_difference_is_seen():
    shipped = docs_tasks.shipped()
    assert docs_tasks.differences(shipped, shipped) == []
    unseen = [
        f"{name}: {key}"
        for name, container in docs_tasks.by_name(shipped).items()
        for key in set(container) - docs_tasks.NOT_COMPARED - {"name"}
        if not docs_tasks.differences(without(shipped, name, key), shipped)
    ]
    none(unseen)
    assert docs_tasks.differences(without(shipped, "app", "environment"), shipped)
    assert docs_tasks.differences(shipped | {"memory": "2048"}, shipped)


def without(definition, name, key):
    containers = [
        {its: value for its, value in it.items() if its != key or it["name"] != name}
        for it in definition["containerDefinitions"]
    ]
    return definition | {"containerDefinitions": containers}


@pytest.mark.parametrize("name, definition", TASKS, ids=[name for name, _ in TASKS])
def test_an_init_container_knows_namespace_and_ports(name, definition, estate, tmp_path):
    containers = docs_tasks.by_name(definition)
    ran, node = estate.bootstrap(containers["legation-init"], tmp_path)
    assert ran.returncode == 0, ran.stderr
    ports = [port["containerPort"] for it in containers.values() for port in it.get("portMappings", [])]
    assert node["metadata"]["container_ports"] == ports != []
    assert node["metadata"]["namespace"] == containers["app"]["dockerLabels"]["legation.namespace"]
    assert (tmp_path / "mesh/bin/legation").exists()
    helped = [it for it in containers.values() if "/mesh/bin/legation" in it.get("entryPoint", [])]
    assert all(waits(it, containers, "legation-init") for it in helped) and containers["app"] in helped


def waits(container, containers, name):
    """Whether a container begins after another has, in the end, been waited for."""
    on = [it["containerName"] for it in container.get("dependsOn", [])]
    return name in on or any(waits(containers[it], containers, name) for it in on)


def test_an_init_container_that_knows_nothing_fails(estate, tmp_path):
    init = docs_tasks.by_name(dict(TASKS)["checkout.json"])["legation-init"]
    ran, _ = estate.bootstrap({key: value for key, value in init.items() if key != "dockerLabels"}, tmp_path)
    assert ran.returncode == 2 and "namespace" in ran.stderr, ran
    at = init["command"].index("--container-port")
    bare = init["command"][:at] + init["command"][at + 2 :]
    ran, node = estate.bootstrap(init | {"command": bare}, tmp_path)
    assert ran.returncode == 0 and node["metadata"]["container_ports"] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_a_guide_is_short_and_leads_on(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 280, "too long for a guide"
    assert "\u2014" not in text and "\u2013 " not in text.replace("| \u2013 ", "| "), "a dash where a comma would do"
    if path.name != "README.md":
        assert re.findall(r"^## (.+)$", text, re.MULTILINE)[-1] == "Where to go next"
        assert f"({path.name})" in (ROOT / "docs/README.md").read_text(), "the index does not name it"


def test_programs_are_there():
    assert pathlib.Path(LEGATION).is_file() and shutil.which("curl"), os.environ["LEGATION_BIN"]
