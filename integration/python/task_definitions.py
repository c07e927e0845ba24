"""Judges ECS task definitions: botocore's model of the call first, then what ECS enforces beyond that model.

It does not know EC2: the rules are those of Fargate. Invariant: `faults` answers every fault that it knows, and an empty list
means that RegisterTaskDefinition would take the definition as far as can be said without AWS.
"""

import botocore.session
import botocore.validate

SHAPE = botocore.session.get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition").input_shape
MIB = 1024
FARGATE = {
    "256": [512, 1 * MIB, 2 * MIB],
    "512": [gib * MIB for gib in range(1, 5)],
    "1024": [gib * MIB for gib in range(2, 9)],
    "2048": [gib * MIB for gib in range(4, 17)],
    "4096": [gib * MIB for gib in range(8, 31)],
    "8192": [gib * MIB for gib in range(16, 61, 4)],
    "16384": [gib * MIB for gib in range(32, 121, 8)],
}
# Of parameters for containers, those that Fargate refuses.
NOT_ON_FARGATE = ["links", "hostname", "privileged", "extraHosts", "dnsServers", "dnsSearchDomains", "dockerSecurityOptions"]
LOG_DRIVERS = {"awslogs", "splunk", "awsfirelens"}
# Structures whose keys are names of their users, and are never turned into another case.
FREE = {"DockerLabels", "Options"}


def from_cloudformation(value):
    """A definition of CloudFormation as the input of the API."""
    return _numbers(_camel(value), SHAPE)


def _camel(value):
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: inner if key in FREE else _camel(inner) for key, inner in value.items()}
    return [_camel(inner) for inner in value] if isinstance(value, list) else value


def _numbers(value, shape):
    """CloudFormation gives a number's parameter as text, and makes of it what a property needs."""
    if isinstance(value, dict) and shape.type_name == "structure":
        return {key: _numbers(inner, shape.members[key]) if key in shape.members else inner for key, inner in value.items()}
    if isinstance(value, list) and shape.type_name == "list":
        return [_numbers(inner, shape.member) for inner in value]
    return int(value) if shape.type_name == "integer" and isinstance(value, str) and value.isdigit() else value


def faults(definition):
    report = botocore.validate.ParamValidator().validate(definition, SHAPE)
    if report.has_errors():
        return [report.generate_report()]
    containers = definition["containerDefinitions"]
    found = _whole(definition) + _enums(definition, SHAPE, "")
    for container in containers:
        name = container.get("name", "?")
        found += [f"{name}: {fault}" for fault in _container(container, definition)]
    return found + _cycles(containers)


def _enums(value, shape, path):
    """Words that the model does not list: botocore itself lets them pass."""
    if shape.type_name == "structure":
        members = [(key, inner) for key, inner in value.items() if inner is not None]
        return [it for key, inner in members for it in _enums(inner, shape.members[key], f"{path}.{key}")]
    if shape.type_name == "list":
        return [it for inner in value for it in _enums(inner, shape.member, path)]
    words = getattr(shape, "enum", [])
    return [f"{path[1:]} is {value!r}, and none of {', '.join(words)}"] if words and value not in words else []


def _whole(definition):
    found = []
    containers = definition["containerDefinitions"]
    names = [container.get("name") for container in containers]
    if len(set(names)) < len(names):
        found.append("two containers have one name")
    if not any(container.get("essential", True) for container in containers):
        found.append("no container is essential")
    if definition.get("requiresCompatibilities") != ["FARGATE"] or definition.get("networkMode") != "awsvpc":
        found.append("Fargate needs networkMode awsvpc")
    cpu, memory = str(definition.get("cpu")), str(definition.get("memory"))
    if not memory.isdigit() or int(memory) not in FARGATE.get(cpu, []):
        found.append(f"Fargate has no cpu {cpu} with memory {memory}")
        return found
    if sum(container.get("memory", container.get("memoryReservation", 0)) for container in containers) > int(memory):
        found.append("the containers' memory is more than the task's")
    if sum(container.get("cpu", 0) for container in containers) > int(cpu):
        found.append("the containers' cpu is more than the task's")
    awslogs = any(c.get("logConfiguration", {}).get("logDriver") == "awslogs" for c in containers)
    if (awslogs or any(c.get("secrets") for c in containers)) and not definition.get("executionRoleArn"):
        found.append("logs and secrets need an executionRoleArn")
    ports = [port.get("containerPort") for container in containers for port in container.get("portMappings", [])]
    if len(set(ports)) < len(ports):
        found.append("two containers of one network have the same port")
    port_names = [port["name"] for container in containers for port in container.get("portMappings", []) if "name" in port]
    if len(set(port_names)) < len(port_names):
        found.append("two port mappings have one name")
    return found


def _container(container, definition):
    found = _dependencies(container, definition["containerDefinitions"])
    if not container.get("image"):
        found.append("no image")
    found += [f"Fargate takes no {key}" for key in NOT_ON_FARGATE if container.get(key)]
    if container.get("memoryReservation", 0) > container.get("memory", float("inf")):
        found.append("memoryReservation is more than memory")
    for key, least, most in [("stopTimeout", 2, 120), ("startTimeout", 2, 120)]:
        if key in container and not least <= container[key] <= most:
            found.append(f"{key} is {container[key]}, and Fargate takes {least} to {most}")
    volumes = {volume["name"] for volume in definition.get("volumes", [])}
    found += [f"there is no volume {mount['sourceVolume']}" for mount in container.get("mountPoints", [])
              if mount["sourceVolume"] not in volumes]
    found += _ports(container) + _health(container.get("healthCheck"))
    logs = container.get("logConfiguration")
    if logs and logs["logDriver"] not in LOG_DRIVERS:
        found.append(f"Fargate has no log driver {logs['logDriver']}")
    if logs and logs["logDriver"] == "awslogs":
        found += [f"awslogs needs {key}" for key in ("awslogs-group", "awslogs-region", "awslogs-stream-prefix")
                  if not logs.get("options", {}).get(key)]
    added = container.get("linuxParameters", {}).get("capabilities", {}).get("add", [])
    found += [f"Fargate adds no capability {name}" for name in added if name != "SYS_PTRACE"]
    found += [f"ulimit {it['name']}: soft is above hard" for it in container.get("ulimits", []) if it["softLimit"] > it["hardLimit"]]
    variables = [it["name"] for it in container.get("environment", []) + container.get("secrets", [])]
    found += [f"the variable {name} is there twice" for name in sorted(set(variables)) if variables.count(name) > 1]
    return found


def _dependencies(container, containers):
    found, by_name = [], {it.get("name"): it for it in containers}
    for dependency in container.get("dependsOn", []):
        name, condition = dependency["containerName"], dependency["condition"]
        of = by_name.get(name)
        if of is None:
            found.append(f"dependsOn names {name}, which is no container")
        elif condition == "HEALTHY" and "healthCheck" not in of:
            found.append(f"dependsOn waits for {name} to be HEALTHY, which has no healthCheck")
        elif condition in ("SUCCESS", "COMPLETE") and of.get("essential", True):
            found.append(f"dependsOn waits for {name} to end, which is essential")
    return found


def _ports(container):
    found = []
    for port in container.get("portMappings", []):
        number = port.get("containerPort")
        if number is None or not 1 <= number <= 65535:
            found.append(f"{number} is no containerPort")
        if port.get("hostPort", number) != number:
            found.append("hostPort differs from containerPort in awsvpc")
        if "appProtocol" in port and "name" not in port:
            found.append("appProtocol needs a name of the port")
    return found


def _health(check):
    if check is None:
        return []
    found = [] if check["command"][:1] in (["CMD"], ["CMD-SHELL"]) else ["the health check's command begins with CMD or CMD-SHELL"]
    for key, least, most in [("interval", 5, 300), ("timeout", 2, 60), ("retries", 1, 10), ("startPeriod", 0, 300)]:
        if key in check and not least <= check[key] <= most:
            found.append(f"the health check's {key} is {check[key]}, and ECS takes {least} to {most}")
    return found


def _cycles(containers):
    """Containers that wait for each other."""
    waits = {it.get("name"): {on["containerName"] for on in it.get("dependsOn", [])} for it in containers}
    while ready := [name for name, on in waits.items() if not on & waits.keys()]:
        for name in ready:
            del waits[name]
    return [f"{', '.join(sorted(waits))} wait for each other"] if waits else []
