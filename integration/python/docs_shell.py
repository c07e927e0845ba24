"""The shell of a reader of the guides: a folder, a running server with one sidecar, an AWS, and the guides' programs.

Invariant: a program that is not one of theirs is an error, and whatever is started here ends here.
"""

import http.server
import importlib.util
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import helm_python

from docs_cloud import CREDENTIALS, ELSEWHERE, REGION, Moto, plain_endpoint
from docs_packages import PROGRAMS, Wrong, configuration
from docs_reader import ROOT, assignments, programs, read, words
from docs_tasks import TASK, metadata

LEGATION = os.environ["LEGATION_BIN"]
FAKE_AWS = os.environ["LEGATION_FAKE_AWS_BIN"]
# As they stand in the guides, and which listener of the server each is.
USUAL = {"127.0.0.1:18000": "xds", "127.0.0.1:9090": "metrics", "127.0.0.1:19000": "admin"}
SHOWN = ("deploy", "charts", "docs", "bench", "Makefile", "Dockerfile")
INIT = {"name": "legation-init", "dockerLabels": {"legation.namespace": "prod"}}
CONFIG = f"aws: {{ region: {REGION} }}\nnamespaces: {{ prod: {{ clusters: [prod-a] }} }}\n"
CALLS = {"aws", "curl", "legation"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(what, happens, seconds=30):
    """Waits for what nobody tells of; an answer that is true ends it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = happens()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds} s")


class Metadata(http.server.BaseHTTPRequestHandler):
    """The task metadata endpoint, as the init container of a task of `checkout` sees it."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        task = metadata(self.server.init)
        data = json.dumps(task).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Estate:
    """Everything that the guides take for granted."""

    def __init__(self, folder):
        self.folder, self.running, self.addresses, self.endings = folder, [], {}, []

    def open(self):
        self.folder.mkdir()
        self.aws = json.loads(self.start([FAKE_AWS, "--until-eof"], stdin=subprocess.PIPE).stdout.readline())
        self.moto = Moto()
        self.endings.append(self.moto.stop)
        self.plain, self.plain_url = plain_endpoint()
        self.metadata = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
        self.metadata.init = INIT
        self.endings += [self.plain.shutdown, self.metadata.shutdown]
        threading.Thread(target=self.metadata.serve_forever, daemon=True).start()
        self.programs = self.link_programs()
        self.serve()
        self.envoy_admin = free_port()
        self.add_sidecar()

    def start(self, command, **more):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)
        self.running.append(process)
        return process

    def link_programs(self):
        """A folder with the programs that the guides call, and nothing else of theirs."""
        programs = self.folder / "bin"
        programs.mkdir()
        (programs / "legation").symlink_to(LEGATION)
        (programs / "aws").symlink_to(pathlib.Path(sys.executable).parent / "aws")
        plugin = programs / "session-manager-plugin"
        plugin.write_text("#!/bin/sh\nexit 0\n")
        plugin.chmod(0o755)
        return programs

    def environment(self, program, call=()):
        """What a program finds around it: Legation the example estate, the AWS command line moto."""
        path = f"{self.programs}:/usr/bin:/bin"
        common = {"PATH": path, "HOME": str(self.folder), "NO_COLOR": "1", **CREDENTIALS}
        if program != "aws":
            metadata = f"http://127.0.0.1:{self.metadata.server_address[1]}/v4"
            own = {"ECS_CONTAINER_METADATA_URI_V4": metadata, "LEGATION_AWS__ENDPOINT_URL": self.aws["url"]}
            own["LEGATION_CONFIG"] = CONFIG  # as in a container of the server
            return common | own | ({"LEGATION_SERVER": self.addresses["admin"]} if self.addresses else {})
        url = self.plain_url if tuple(call) in ELSEWHERE else self.moto.url
        none = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_PAGER": ""}
        return (
            common | none | {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"}
        )

    def launch(self, command, folder, name):
        """Starts a server on free ports, and waits until it says that it is up."""
        listen = {f"LEGATION_LISTEN__{part}": "127.0.0.1:0" for part in ("XDS", "METRICS", "ADMIN")}
        log = open(self.folder / f"{name}.log", "w+")
        process = self.start(command, cwd=folder, env=self.environment("legation") | listen, stderr=subprocess.PIPE)
        for line in process.stderr:
            log.write(line)
            if '"legation is up"' in line:
                threading.Thread(target=shutil.copyfileobj, args=(process.stderr, log), daemon=True).start()
                return process, json.loads(line)
        raise AssertionError(f"{command} did not come up:\n{(log.seek(0), log.read())[1]}")

    def serve(self):
        config = self.folder / "legation.yaml"
        config.write_text(CONFIG + f"ecs: {json.dumps({'queueUrl': self.aws['queue']})}\n")
        _, up = self.launch([LEGATION, "serve", "--config", str(config)], self.folder, "server")
        self.addresses = {name: up[name] for name in ("xds", "metrics", "admin")}

    def add_sidecar(self):
        """A stock Envoy that is the sidecar of a task of `checkout`."""
        package = importlib.util.find_spec("envoy").submodule_search_locations[0]
        envoy = os.environ.get("LEGATION_ENVOY") or f"{package}/_bin/envoy"
        bootstrap = self.folder / "envoy.yaml"
        port = str(self.envoy_admin)
        command = [
            LEGATION,
            "bootstrap",
            "--server",
            self.addresses["xds"],
            "--admin-port",
            port,
            "--out",
            str(bootstrap),
        ]
        subprocess.run(command, env=self.environment("legation"), check=True, timeout=60)
        log = open(self.folder / "envoy.log", "w")
        run = [envoy, "-c", str(bootstrap), "--use-dynamic-base-id", "--concurrency", "1"]
        self.running.append(subprocess.Popen(run, stdout=log, stderr=log))
        try:
            until("a sidecar that has all it is sent", self.is_synced)
        except AssertionError as error:  # perhaps another Envoy of this machine has its ports
            raise AssertionError(f"{error}: {self.fetch('admin', '/api/v1/proxies')}") from error

    def bootstrap(self, init, folder):
        """How `legation-init` of a task definition ends, and the node of the bootstrap that it leaves."""
        (folder / "mesh").mkdir(exist_ok=True)
        words = [word.replace("/mesh/", f"{folder}/mesh/") for word in init["command"]]
        self.metadata.init = init
        try:
            ran = subprocess.run(
                [LEGATION, *words], env=self.environment("legation"), capture_output=True, text=True, timeout=60
            )
        finally:
            self.metadata.init = INIT
        node = json.loads((folder / "mesh/envoy.yaml").read_text())["node"] if ran.returncode == 0 else None
        return ran, node

    def is_synced(self):
        items = json.loads(self.fetch("admin", "/api/v1/proxies"))["items"]
        return any(item["id"] == TASK and item["state"] == "SYNCED" for item in items)

    def fetch(self, listener, path):
        with urllib.request.urlopen(f"http://{self.addresses[listener]}{path}", timeout=20) as answer:
            return answer.read().decode()

    def close(self):
        for process in reversed(self.running):
            if process.stdin:
                process.stdin.close()
            process.terminate()
            process.wait(timeout=30)
        for end in reversed(self.endings):
            end()


class Shell:
    """One reader at work on one guide."""

    def __init__(self, estate, folder, guide):
        self.estate, self.folder, self.variables, self.state = estate, folder, {}, {}
        beside = [] if guide.path.is_relative_to(ROOT / "docs") else guide.path.parent.iterdir()
        for path in [*(ROOT / name for name in SHOWN), *beside]:
            if path.exists() and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
        # What the README shows is at hand for every guide, which may show it otherwise.
        for name, text in read(ROOT / "README.md").files() + guide.files():
            self.show(name, text)

    def show(self, name, text):
        """Lays down a file that a guide shows."""
        path = self.folder / name
        if path.is_symlink() or (ROOT / name).exists():
            return  # the guide shows a part of a file of the repository
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, command):
        """Runs a command as it stands in a guide; answers why it is wrong, or nothing."""
        try:
            called = programs(command)
            strange = [name for name in called if name not in CALLS | set(PROGRAMS)]
            if strange:
                raise Wrong(f"unknown program {', '.join(strange)}")
            self.perform(command, called)
        except (Wrong, helm_python.HelmError, AssertionError, KeyError, IndexError, ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        except subprocess.TimeoutExpired as error:
            return str(error)
        return None

    def perform(self, command, called):
        assigned = assignments(command)
        for name, text in assigned:
            self.variables[name] = value = self.value_of(name, text)
            assert value and value != "None", f"{name} is empty"
        if assigned:
            pass
        elif called[0] in PROGRAMS:
            inside = PROGRAMS[called[0]](words(command), self.folder, self.state)
            if inside:
                assert inside[0] == "legation", f"{inside[0]} is not in the image"
                self.call(self.inside(inside), "legation", inside)
        elif called[0] == "legation" and re.search(r"\bserve\b", command) and "--check-config" not in command:
            process, _ = self.estate.launch(["sh", "-ec", f"exec {command}"], self.folder, "guide")
            process.terminate()
            assert process.wait(timeout=30) == 0, "the server did not end well"
        else:
            self.call(command, called[0], words(command))

    def value_of(self, name, text):
        script = f'{name}={text}; printf %s "${name}"'
        inner = re.match(r"^\"?\$\((.*)\)\"?$", text, re.DOTALL)
        return self.call(script, programs(inner[1])[0], words(inner[1])) if inner else self.sh(script, {})

    def inside(self, command):
        """A command that is run in a pod or a container of the server, where its configuration is."""
        text = configuration(self.state)
        if text is not None:
            (self.folder / "pod/policies").mkdir(parents=True, exist_ok=True)
            (self.folder / "inside.yaml").write_text(text.replace("/etc/legation/", "pod/"))
        return re.sub(r"/etc/legation/\S*legation\.yaml", "inside.yaml", " ".join(command))

    def call(self, command, program, call):
        if program == "aws":
            command = self.through_exec(command, call)
        for usual, listener in USUAL.items():
            command = command.replace(usual, self.estate.addresses[listener])
        if program == "legation" and call[1:2] == ["sidecar"]:
            command += f" --admin 127.0.0.1:{self.estate.envoy_admin}"
        return self.sh(command, self.estate.environment(program, call[1:3]))

    def through_exec(self, command, call):
        """What ECS Exec runs in a container is run here too."""
        if call[1:3] == ["ecs", "execute-command"]:
            inner = call[call.index("--command") + 1].split()
            inner[0] = inner[0].rsplit("/", 1)[-1]
            assert inner[0] == "legation", f"{inner[0]} is not in the image"
            self.call(" ".join(inner), "legation", inner)
        return command

    def sh(self, command, environment):
        run = ["sh", "-ec", command]
        around = environment | self.variables
        done = subprocess.run(run, cwd=self.folder, env=around, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"it ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout.strip()
