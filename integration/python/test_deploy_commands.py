"""Holds each command line of `legation` in deploy/ to the binary that LEGATION_BIN names, and starts it as ECS would.

It does not test what the commands do beyond that.
"""

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
    "Containers": [{"Name": "legation-init", "Labels": {"legation.namespace": "prod"},
                    "Networks": [{"NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.1.9"]}]}],
}


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


@pytest.fixture
def metadata():
    """The task metadata endpoint, as far as `bootstrap` asks it."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(TASK).encode()
            self.send_response(200 if self.path == "/v4/task" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield {"ECS_CONTAINER_METADATA_URI_V4": f"http://127.0.0.1:{server.server_port}/v4"}
        server.shutdown()
        serving.join()


def test_the_init_container_leaves_a_bootstrap_and_the_binary(legation, metadata, tmp_path):
    (tmp_path / "mesh").mkdir()
    words = [word.replace("/mesh/", f"{tmp_path}/mesh/") for word in COMMAND_LINES["init"]]
    ran = run(legation, *words, environment=metadata)
    assert (ran.returncode, ran.stderr) == (0, "")
    node = json.loads((tmp_path / "mesh/envoy.yaml").read_text())["node"]
    assert node["id"] == TASK["TaskARN"] and node["metadata"]["namespace"] == "prod"
    assert run(str(tmp_path / "mesh/bin/legation"), "--version").stdout.startswith("legation ")


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
