"""A task as DescribeTasks, an event and the task metadata endpoint show it.

Times are numbers here; `detail` writes them as EventBridge does. Invariant: what is not known yet is left out.
"""

from datetime import datetime, timezone


def subnet(zone):
    """A VPC has a subnet in each zone."""
    return f"subnet-0a1b2c3d4e5f607{ord(zone[-1]):02x}"


def attachment_id(task):
    own = task.id
    return f"{own[:8]}-{own[8:12]}-{own[12:16]}-{own[16:20]}-{own[20:]}"


def private_name(task):
    return f"ip-{task.address.replace('.', '-')}.{task.region}.compute.internal"


def attachment(task):
    details = [{"name": "subnetId", "value": subnet(task.zone)}]
    if task.address:
        details += [
            {"name": "networkInterfaceId", "value": f"eni-0{task.id[:16]}"},
            {"name": "macAddress", "value": task.mac},
            {"name": "privateDnsName", "value": private_name(task)},
            {"name": "privateIPv4Address", "value": task.address},
        ]
    status = {"PROVISIONING": "PRECREATED", "DEPROVISIONING": "DETACHING", "STOPPED": "DELETED"}
    return {
        "id": attachment_id(task),
        "type": "ElasticNetworkInterface",
        "status": status.get(task.last_status, "ATTACHED"),
        "details": details,
    }


def container(task, own):
    shown = {
        "containerArn": f"{container_arn(task)}/{attachment_id(task)}",
        "taskArn": task.arn,
        "name": own.name,
        "image": own.definition["image"],
        "lastStatus": "STOPPED" if task.last_status == "STOPPED" else own.status,
        "networkBindings": [],
        "networkInterfaces": [],
        "healthStatus": own.health,
        "cpu": str(own.definition.get("cpu", 0)),
    }
    if task.address:
        shown["networkInterfaces"] = [{"attachmentId": attachment_id(task), "privateIpv4Address": task.address}]
    if own.docker_id:
        shown["runtimeId"] = own.docker_id
    if own.exit_code is not None and own.noticed:
        shown["exitCode"] = own.exit_code
    return shown


def container_arn(task):
    return task.arn.replace(":task/", ":container/", 1)


def task(task):
    named = [{"name": name} for name in task.containers]
    shown = {
        "attachments": [attachment(task)],
        "attributes": [{"name": "ecs.cpu-architecture", "value": "x86_64"}],
        "availabilityZone": task.zone,
        "clusterArn": f"arn:aws:ecs:{task.region}:{task.account}:cluster/{task.cluster}",
        "connectivity": "CONNECTED" if task.address else None,
        "containers": [container(task, it) for it in task.containers.values()],
        "cpu": task.definition.get("cpu", "256"),
        "memory": task.definition.get("memory", "512"),
        "desiredStatus": task.desired,
        "lastStatus": task.last_status,
        "healthStatus": task.health,
        "enableExecuteCommand": False,
        "ephemeralStorage": {"sizeInGiB": 20},
        "group": task.group,
        "launchType": task.launch_type,
        "overrides": {"containerOverrides": named, "inferenceAcceleratorOverrides": []} | task.overrides,
        "platformFamily": "Linux",
        "platformVersion": "1.4.0",
        "startedBy": task.started_by,
        "stopCode": task.stop_code,
        "stoppedReason": task.stopped_reason,
        "tags": [],
        "taskArn": task.arn,
        "taskDefinitionArn": task.definition["taskDefinitionArn"],
        "version": task.version,
    }
    return {key: value for key, value in (shown | task.times).items() if value is not None}


def detail(own):
    """What an event tells: a task without health and tags, and with an attachment of another type."""
    shown = task(own)
    for key in ("healthStatus", "tags"):
        del shown[key]
    for part in shown["containers"]:
        del part["healthStatus"]
    for part in shown["attachments"]:
        part["type"] = "eni"
    written = {key: text(value) for key, value in shown.items() if key.endswith("At")}
    return shown | written | {"updatedAt": text(datetime.now(timezone.utc).timestamp())}


def text(seconds):
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def metadata_container(task, own):
    """As ECS's agent does, it tells labels and networks of containers that were made, and ports of all it tells."""
    shown = {
        "Name": own.name,
        "Image": own.definition["image"],
        "DesiredStatus": task.desired,
        "KnownStatus": own.status if own.docker_id else "PULLED",
        "Type": "NORMAL",
        "ContainerARN": f"{container_arn(task)}/{attachment_id(task)}",
    }
    ports = [(it["containerPort"], it.get("protocol", "tcp")) for it in own.definition.get("portMappings", [])]
    if ports:
        shown["Ports"] = [{"ContainerPort": port, "Protocol": kind, "HostPort": port} for port, kind in ports]
    if own.docker_id:
        network = {"NetworkMode": "awsvpc", "IPv4Addresses": [task.address], "PrivateDNSName": private_name(task)}
        shown |= {"DockerId": own.docker_id, "DockerName": own.name, "Labels": task.labels(own), "Networks": [network]}
    if own.checked and own.health != "UNKNOWN":
        shown["Health"] = {"status": own.health}
    if own.exit_code is not None:
        shown["ExitCode"] = own.exit_code
    return shown


def metadata_task(task, pulled):
    """Containers that wait for others are `pulled` or not there yet."""
    shown = {
        "Cluster": f"arn:aws:ecs:{task.region}:{task.account}:cluster/{task.cluster}",
        "TaskARN": task.arn,
        "Family": task.definition["family"],
        "Revision": str(task.definition["revision"]),
        "DesiredStatus": task.desired,
        "KnownStatus": task.last_status,
        "AvailabilityZone": task.zone,
        "LaunchType": task.launch_type,
        "Group": task.group,
        "VPCID": "vpc-0a1b2c3d4e5f60718",
        "Containers": [metadata_container(task, it) for it in task.containers.values() if it.docker_id or pulled],
    }
    if task.service:
        shown["ServiceName"] = task.service
    return shown
