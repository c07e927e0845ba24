"""The programs of the guides that are not run but imitated: helm, terraform, docker, kubectl, make.

Each reads its command as its own program would, against the files of the repository. Invariant: a subcommand or an
option that is not known here is an error, never a success.
"""

import json
import pathlib
import re

import hcl2
import helm_python
import yaml

KNOWN_LINES = {
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
}


class Wrong(Exception):
    """A command that the program would refuse."""


def options(words, valued, switches):
    """What stands for itself, and the options by name."""
    plain, named, rest = [], {}, list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in valued:
            named.setdefault(name, []).append(value if equals else rest.pop(0))
        elif word in switches:
            named[word] = True
        elif word.startswith("-"):
            raise Wrong(f"unknown option {word}")
        else:
            plain.append(word)
    return plain, named


def merge(under, over):
    """Values over values, as Helm lays them."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {**under, **{key: merge(under.get(key), value) for key, value in over.items()}}


def helm(words, folder, state):
    """`helm`, without a cluster: what would be installed is rendered, and what is in the values is checked."""
    valued = {"--values", "-f", "--set", "--set-file", "--set-string", "--set-json", "--namespace", "-n", "--version"}
    switches = {
        "--create-namespace",
        "--install",
        "-i",
        "--wait",
        "--atomic",
        "--reuse-values",
        "--strict",
        "--dry-run",
    }
    plain, named = options(words[1:], valued | {"--timeout", "--output", "-o"}, switches)
    verb, arguments = plain[0], plain[1:]
    values = values_of(named, folder)
    if verb == "lint":
        judge_chart(folder / arguments[0], values)
    elif verb in ("template", "install", "upgrade"):
        name, chart = arguments
        helm_python.validate_release_name(name)
        judge_chart(folder / chart, values)
        space = (named.get("--namespace") or named.get("-n") or ["default"])[-1]
        state["objects"] = render(folder / chart, values, name, space)
        state["values"] = values
    elif verb in ("uninstall", "status", "rollback", "history"):
        helm_python.validate_release_name(arguments[0])
    elif verb == "package":
        judge_chart(folder / arguments[0], state.get("values", {}))
    else:
        raise Wrong(f"unknown subcommand helm {verb}")


def values_of(named, folder):
    values = {}
    for file in named.get("--values", []) + named.get("-f", []):
        values = merge(values, yaml.safe_load((folder / file).read_text()))
    for text in named.get("--set", []) + named.get("--set-string", []):
        values = merge(values, helm_python.parse_set_string(text))
    for text in named.get("--set-json", []):
        key, _, value = text.partition("=")
        values = merge(values, nested(key, json.loads(value)))
    for text in named.get("--set-file", []):
        key, _, file = text.partition("=")
        values = merge(values, nested(key, (folder / file).read_text()))
    return values


def nested(key, value):
    parts = [part.replace("\0", ".") for part in key.replace("\\.", "\0").split(".")]
    for part in reversed(parts):
        value = {part: value}
    return value


def judge_chart(path, values):
    with helm_python.Chart.load(str(path)) as chart:
        chart.validate_schema(values)


def render(path, values, name, space):
    """What the chart makes, by kind and name."""
    with helm_python.Chart.load(str(path)) as chart:
        texts = chart.render(values, name=name, namespace=space)
    documents = [document for text in texts.values() if not is_note(text) for document in yaml.safe_load_all(text)]
    objects = [document for document in documents if isinstance(document, dict)]
    if not objects:
        raise Wrong(f"{path} makes nothing")
    return {(it["kind"].lower(), it["metadata"]["name"]): it for it in objects}


def is_note(text):
    return not re.search(r"^kind:", text, re.MULTILINE)


def kubectl(words, _folder, state):
    """`kubectl`, against what the guide's `helm install` makes; answers what is run in a pod, if anything."""
    inside = words[words.index("--") + 1 :] if "--" in words else []
    outside = words[1 : words.index("--")] if inside else words[1:]
    plain, _ = options(outside, {"-n", "--namespace", "-c", "--timeout", "-o", "-f"}, {"--watch", "-it", "-i", "-t"})
    verb, arguments = plain[0], plain[1:]
    if verb not in ("exec", "rollout", "get", "port-forward", "logs", "describe", "delete"):
        raise Wrong(f"unknown subcommand kubectl {verb}")
    if verb == "rollout":
        arguments = arguments[1:]
    named = arguments[0] if "/" in arguments[0] else "/".join(arguments[:2])
    kind, _, name = named.partition("/")
    kind = {"deploy": "deployment", "sts": "statefulset", "svc": "service"}.get(kind, kind)
    objects = state.get("objects", {})
    if kind != "pod" and (kind, name) not in objects:
        raise Wrong(f"the chart makes no {kind}/{name}, but {sorted(objects)}")
    return inside


def configuration(state):
    """The server's configuration as the chart lays it into its pods."""
    maps = [it for (kind, _), it in state.get("objects", {}).items() if kind == "configmap"]
    texts = [text for it in maps for name, text in it.get("data", {}).items() if name == "legation.yaml"]
    return texts[0] if texts else None


def terraform(words, folder, _state):
    """`terraform`: providers can't be had, so files must parse, and variables be those that they declare and need."""
    chdir = [word.partition("=")[2] for word in words if word.startswith("-chdir=")]
    rest = [word for word in words[1:] if not word.startswith("-chdir=")]
    plain, named = options(
        rest, {"-var", "-var-file", "-target", "-out"}, {"-auto-approve", "-raw", "-upgrade", "-destroy"}
    )
    if plain[0] not in ("init", "plan", "apply", "destroy", "validate", "fmt", "output"):
        raise Wrong(f"unknown subcommand terraform {plain[0]}")
    root = folder / (chdir[0] if chdir else ".")
    files = sorted(root.glob("*.tf"))
    if not files:
        raise Wrong(f"no file of Terraform in {root}")
    declared = {}
    for file in files:
        for block in parse(file).get("variable", []):
            declared.update({name.strip('"'): said for name, said in block.items()})
    given = {text.partition("=")[0] for text in named.get("-var", [])}
    for file in named.get("-var-file", []):
        given |= {name for name in parse(root / file) if not name.startswith("__")}
    if given - set(declared):
        raise Wrong(f"no variable {sorted(given - set(declared))} is declared in {root}")
    lacking = {name for name, said in declared.items() if "default" not in said} - given
    if lacking and plain[0] in ("plan", "apply", "destroy"):
        raise Wrong(f"terraform {plain[0]} would ask for {sorted(lacking)}")


def parse(path):
    with open(path) as file:
        return hcl2.load(file)


def judge_module(text, folder):
    """A block of HCL: modules of this repository are given what they declare, and all that they need."""
    for block in hcl2.loads(text).get("module", []):
        for name, said in block.items():
            source = str(said["source"]).strip('"')
            if source.startswith((".", "/")):
                source = source.lstrip("./")
            if not source.startswith("deploy/"):
                continue
            variables = {}
            for file in sorted((folder / source).glob("*.tf")):
                for variable in parse(file).get("variable", []):
                    variables.update({key.strip('"'): value for key, value in variable.items()})
            given = {key for key in said if not key.startswith("__")} - {
                "source",
                "version",
                "providers",
                "count",
                "for_each",
            }
            if not variables or given - set(variables):
                raise Wrong(f"module {name} of {source}: no variable {sorted(given - set(variables))}")
            lacking = {key for key, value in variables.items() if "default" not in value} - given
            if lacking:
                raise Wrong(f"module {name} of {source} needs {sorted(lacking)}")


def docker(words, folder, _state):
    """`docker`: the Dockerfile that is named is there, and each of its lines is an instruction."""
    rest = words[2:] if words[1] == "buildx" else words[1:]
    valued = {"-f", "--file", "-t", "--tag", "--build-arg", "--platform", "--target", "--output", "--network"}
    plain, named = options(rest, valued, {"--push", "--load", "--pull", "--no-cache"})
    if plain[0] in ("push", "tag", "pull", "login"):
        return
    if plain[0] != "build":
        raise Wrong(f"unknown subcommand docker {plain[0]}")
    context = folder / plain[1]
    path = folder / (named.get("-f") or named.get("--file") or [context / "Dockerfile"])[-1]
    judge_dockerfile(path)


def judge_dockerfile(path):
    text = re.sub(r"\\\n", " ", "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#")))
    for line in filter(str.strip, text.splitlines()):
        word = line.split()[0].upper()
        if word not in KNOWN_LINES:
            raise Wrong(f"{path}: {word} is no instruction")


def make(words, folder, _state):
    """`make`: the Makefile has the target."""
    text = (folder / "Makefile").read_text()
    for target in [word for word in words[1:] if "=" not in word]:
        if not re.search(rf"^{re.escape(target)}:", text, re.MULTILINE):
            raise Wrong(f"the Makefile has no target {target}")


PROGRAMS = {"helm": helm, "kubectl": kubectl, "terraform": terraform, "docker": docker, "make": make}
