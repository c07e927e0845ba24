"""The JSON that the guides show: whether AWS would take it, and whether the sidecar's definition is that of deploy/.

It asks nobody. Invariant: JSON of a kind that is not known here is an error.
"""

import json
import pathlib

import botocore.session
import botocore.validate

import task_definitions
from docs_reader import ROOT

TASK = "arn:aws:ecs:eu-west-1:111122223333:task/prod-a/0123456789abcdef0123456789abcdef"
SHIPPED = ROOT / "deploy/task-definition.json"
# What is to be filled in of what is compared; the other places are in keys that are not.
PLACES = {"<XDS_ADDRESS>": "legation.prod.internal:18000"}
# Whose they are is up to the reader.
NOT_COMPARED = {"image", "logConfiguration", "environment"}
BATCH = botocore.session.get_session().get_service_model("route53").shape_for("ChangeBatch")
CONTAINER = task_definitions.SHAPE.members["containerDefinitions"].member
AROUND = {
    "family": "part",
    "networkMode": "awsvpc",
    "requiresCompatibilities": ["FARGATE"],
    "cpu": "256",
    "memory": "512",
}


def faults(text):
    """What AWS would refuse of a block."""
    shown = json.loads(text)
    if "containerDefinitions" in shown:
        return task_definitions.faults(shown)
    if "Changes" in shown:
        report = botocore.validate.ParamValidator().validate(shown, BATCH)
        return [report.generate_report()] if report.has_errors() else []
    if "Statement" in shown:
        needed = {"Effect", "Action"}
        return [f"a statement without {needed - set(it)}" for it in shown["Statement"] if needed - set(it)]
    if set(shown) <= set(CONTAINER.members):
        whole = {**AROUND, "containerDefinitions": [{"name": "app", "image": "app", **shown}]}
        return task_definitions.faults(whole)
    return [f"{sorted(shown)} is neither a task definition, nor of a container, nor records, nor a policy"]


def definitions(guide):
    """The task definitions that a guide shows, by the name of their file."""
    shown = {block.name: json.loads(block.text) for block in guide.blocks if block.language == "json"}
    return {name: it for name, it in shown.items() if "containerDefinitions" in it}


def shipped():
    text = pathlib.Path(SHIPPED).read_text()
    for place, value in PLACES.items():
        text = text.replace(place, value)
    return json.loads(text)


def differences(shown, other):
    """Where two definitions of one task say different things."""
    ours, theirs = by_name(shown), by_name(other)
    if list(ours) != list(theirs):
        return [f"{list(ours)} are not {list(theirs)}"]
    tops = {key for key in shown | other if key not in ("containerDefinitions", "executionRoleArn")}
    found = [f"{key}: {shown.get(key)}, {other.get(key)}" for key in sorted(tops) if shown.get(key) != other.get(key)]
    for name, container in ours.items():
        keys = sorted((set(container) | set(theirs[name])) - NOT_COMPARED)
        pairs = [(key, container.get(key), theirs[name].get(key)) for key in keys]
        found += [f"{name}: {key}: {own}, {its}" for key, own, its in pairs if own != its]
        lacking = variables(theirs[name]).items() - variables(container).items()
        found += [f"{name}: environment lacks {variable}={value}" for variable, value in sorted(lacking)]
    return found


def by_name(definition):
    return {container["name"]: container for container in definition["containerDefinitions"]}


def variables(container):
    return {it["name"]: it["value"] for it in container.get("environment", [])}


def metadata(init):
    """What ECS tells `legation-init` of its task: no other container is there while it runs, and it has no ports."""
    assert not init.get("dependsOn"), "then others are there before it"
    return {
        "Cluster": "prod-a",
        "TaskARN": TASK,
        "Family": "checkout",
        "Revision": "1",
        "ServiceName": "checkout",
        "AvailabilityZone": "eu-west-1a",
        "Containers": [{"Name": init["name"], "Labels": init.get("dockerLabels", {})}],
    }
