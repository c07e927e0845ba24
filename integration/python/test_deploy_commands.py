"""Holds each command line of `legation` in deploy/ to the binary that LEGATION_BIN names, and starts it as ECS would.

It does not test what the commands do beyond that.
"""

import contextlib
import copy
import http.server
import json
import os
import re
import subprocess
import threading

import pytest

from deployments import ACCOUNT, DEPLOY, REGION, SERVERS, SIDECAR, Both

TASK = {
    "Cluster": "prod-a", "TaskARN": f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/prod-a/0123456789abcdef0123456789abcdef",
    "Family": "checkout", "Revision": "1", "ServiceName": "checkout", "AvailabilityZone": f"{REGION}a", "LaunchType": "FARGATE",
}
NETWORK = {"NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.1.9"]}


@pytest.fixture(scope="module")
def legation():
    binary = os.environ.get("LEGATION_BIN", "")
    if not os.access(binary, os.X_OK):
        pytest.fail("LEGATION_BIN names no binary of legation; say LEGATION_BIN=target/debug/legation")
    return binary


def run(binary, *arguments, environment=()):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LEGATION_", "ECS_", "AWS_"))}
    return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60, env={**clean, **dict(environment)})


def only(case):
    (definition,) = case.task_definitions()[0].values()
    return definition["containerDefinitions"]


def command_lines():
    """What follows `legation`, by where it stands."""
    (server,) = only(Both("server", SERVERS["trial"]))
    init, envoy, app = only(Both("sidecar", SIDECAR))
    found = {
        "server": server["command"], "server's health": server["healthCheck"]["command"][2:], "init": init["command"],
        "envoy": envoy["entryPoint"][1:], "envoy's health": envoy["healthCheck"]["command"][2:], "app": app["entryPoint"][1:],
    }
    for file in ["README.md", "terraform/README.md"]:
        blocks = re.findall(r"```sh\n(.*?)```", (DEPLOY / file).read_text(), re.DOTALL)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        named = [re.search(r'(?:^|--command "(?:/usr/local/bin/)?)legation ([^"#|]+)', line) for line in lines]
        found.update({f"{file}: {match.group(1)}": match.group(1).split() for match in named if match})
    return found


COMMAND_LINES = command_lines()


def test_the_guides_name_commands_too():
    assert sum(".md: " in where for where in COMMAND_LINES) >= 3


@pytest.mark.parametrize("where", COMMAND_LINES)
def test_the_binary_knows_the_command_and_its_flags(legation, where):
    words, path, shown = list(COMMAND_LINES[where]), [], run(legation, "--help").stdout
    while words and (commands := re.search(r"^Commands:\n((?:  .*\n)+)", shown, re.MULTILINE)):
        known = re.findall(r"^  ([a-z]+) ", commands.group(1), re.MULTILINE)
        known += [it for aliases in re.findall(r"\[alias(?:es)?: ([a-z, ]+)\]", commands.group(1)) for it in aliases.split(", ")]
        assert words[0] in known, f"`legation {' '.join([*path, words[0]])}` is none of {known}"
        path.append(words.pop(0))
        shown = run(legation, *path, "--help").stdout
    own = words[: words.index("--")] if "--" in words else words
    for flag in [word.partition("=")[0] for word in own if word.startswith("-")]:
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", shown), f"`legation {' '.join(path)}` has no {flag}"


def seen_by_init(containers):
    """What the task metadata say while `legation-init` runs: containers that wait for it are not there yet."""
    waiting = {"legation-init"}
    while more := {it["name"] for it in containers for on in it.get("dependsOn", []) if on["containerName"] in waiting} - waiting:
        waiting |= more
    there = [it for it in containers if it["name"] == "legation-init" or it["name"] not in waiting]
    described = [{"Name": it["name"], "Labels": it.get("dockerLabels", {}), "Networks": [NETWORK],
                  "Ports": [{"ContainerPort": port["containerPort"]} for port in it.get("portMappings", [])]} for it in there]
    return {**TASK, "Containers": described}


@contextlib.contextmanager
def metadata(task):
    """The task metadata endpoint, as far as `bootstrap` asks it."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(task).encode()
            self.send_response(200 if self.path == "/v4/task" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield {"ECS_CONTAINER_METADATA_URI_V4": f"http://127.0.0.1:{server.server_port}/v4"}
        finally:
            server.shutdown()
            serving.join()


def init(legation, containers, folder):
    """Runs the init container of a definition in `folder`, which is its volume: what it ended with, and the bootstrap's node."""
    words = [word.replace("/mesh/", f"{folder}/") for word in containers[0]["command"]]
    with metadata(seen_by_init(containers)) as environment:
        ran = run(legation, *words, environment=environment)
    bootstrap = folder / "envoy.yaml"
    return ran, json.loads(bootstrap.read_text())["node"] if bootstrap.exists() else None


def described(name):
    """The containers of the sidecar's example, by where they are written down."""
    ours, theirs = Both("sidecar", SIDECAR).task_definitions()
    ((_, ours),), ((_, theirs),) = ours.items(), theirs.items()
    copied = json.loads((DEPLOY / "task-definition.json").read_text().replace("<XDS_ADDRESS>", SIDECAR["XdsAddress"]))
    return {"cloudformation": ours, "terraform": theirs, "task-definition.json": copied}[name]["containerDefinitions"]


def fault(ran, node):
    """Why a sidecar with this bootstrap would be in no mesh, or could take the application's port first; `None` if it is sound."""
    if ran.returncode:
        return ran.stderr
    facts = {key: node["metadata"].get(key) for key in ("namespace", "container_ports")}
    return None if facts == {"namespace": "prod", "container_ports": [8080]} else f"{facts}"


@pytest.mark.parametrize("where", ["cloudformation", "terraform", "task-definition.json"])
def test_the_init_container_leaves_a_bootstrap_and_the_binary(legation, where, tmp_path):
    containers = described(where)
    ran, node = init(legation, containers, tmp_path)
    assert (ran.returncode, ran.stderr, fault(ran, node)) == (0, "", None)
    assert node["id"] == TASK["TaskARN"]
    assert run(str(tmp_path / "bin/legation"), "--version").stdout.startswith("legation ")
    assert [it["Name"] for it in seen_by_init(containers)["Containers"]] == ["legation-init"]


def without_label(containers):
    del containers[0]["dockerLabels"]


def without_port(containers):
    at = containers[0]["command"].index("--container-port")
    del containers[0]["command"][at : at + 2]


def with_another_port(containers):
    containers[0]["command"][-1] = "8081"


BROKEN = [(without_label, "legation.namespace"), (without_port, "'container_ports': []"), (with_another_port, "[8081]")]


@pytest.mark.parametrize("breaking, words", BROKEN, ids=[row[0].__name__ for row in BROKEN])
def test_what_init_can_not_know_by_itself_is_missed(legation, breaking, words, tmp_path):
    """The application's own label and port are no help: its container is not there yet."""
    containers = copy.deepcopy(described("cloudformation"))
    breaking(containers)
    found = fault(*init(legation, containers, tmp_path))
    assert found and words in found, found


def serve(legation, name, **texts):
    """`serve --check-config` in the environment of the server's container, with what ECS would put there for secrets."""
    definitions, _ = Both("server", SERVERS[name]).task_definitions()
    (container,) = definitions["A"]["containerDefinitions"]
    environment = {it["name"]: it["value"] for it in container["environment"]}
    if "LEGATION_ECS__QUEUE_URL" in environment:
        environment["LEGATION_ECS__QUEUE_URL"] = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/legation-A"
    secrets = {it["name"] for it in container["secrets"]}
    assert secrets == set(texts), "each secret needs a text here"
    return run(legation, *container["command"], "--check-config", environment={**environment, **texts})


CONFIG = "namespaces:\n  prod: { clusters: [prod-a, prod-b] }\n"
POLICY = "apiVersion: legation/v1alpha1\nkind: Policy\nservices:\n  payments: { namespace: prod, timeouts: { request: 5s } }\n"


@pytest.mark.parametrize("name", ["usual", "trial"])
def test_the_server_takes_the_configuration_that_the_parameters_make(legation, name):
    ran = serve(legation, name)
    assert ran.returncode == 0, ran.stderr


def test_the_server_takes_configuration_and_policy_from_secrets(legation):
    ran = serve(legation, "everything", LEGATION_CONFIG=CONFIG, LEGATION_POLICY=POLICY)
    assert ran.returncode == 0, ran.stderr


MISTAKES = [
    ("LEGATION_CONFIG", CONFIG.replace("clusters", "clutsers"), "LEGATION_CONFIG:2:11"),
    ("LEGATION_POLICY", POLICY.replace("request", "requst"), "LEGATION_POLICY:4:44"),
]


@pytest.mark.parametrize("variable, wrong, place", MISTAKES, ids=["config", "policy"])
def test_mistakes_are_told_with_the_variable_and_the_place(legation, variable, wrong, place):
    texts = {"LEGATION_CONFIG": CONFIG, "LEGATION_POLICY": POLICY, variable: wrong}
    ran = serve(legation, "everything", **texts)
    assert ran.returncode != 0 and place in ran.stdout + ran.stderr, ran.stdout + ran.stderr
