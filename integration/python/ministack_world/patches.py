"""What of ministack 1.5.33 is replaced, each with what ministack does instead.

Clusters, task definitions, the records of services, tags and every other service stay ministack's. Replaced is
whatever starts, watches, stops or counts tasks. Invariant: one ECS call at a time, under the estate's lock, so that
an answer never mixes two states.
"""

import json
import secrets
from datetime import datetime

from ministack.core.responses import error_response_json, get_account_id, get_region, json_response
from ministack.services import ecs, servicediscovery

import cloudmap

# The most that one call may ask for.
LIMITS = {"DescribeTasks": ("tasks", 100), "DescribeServices": ("services", 10)}
DEFAULT_PAGE = 10
PLATFORM = {"platformVersion": "1.4.0", "platformFamily": "Linux"}


def install(estate):
    tasks(estate)
    services(estate)
    answers(estate)
    cloud_map()


def tasks(estate):
    # Starts a thread that pulls images and gives each container an address of its own.
    ecs._ACTION_MAP["RunTask"] = lambda data: run_task(estate, data)
    # Is STOPPED before the containers get SIGTERM, and answers only when they are gone.
    ecs._ACTION_MAP["StopTask"] = lambda data: stop_task(estate, data)
    # How DeleteService stops tasks: the scheduler does that here.
    ecs._stop_task = lambda data: None
    # Asks Docker about containers whenever tasks are described: the estate hears of them.
    ecs._maybe_mark_stopped = lambda task, docker_client=None: None
    # Any use of Docker that is left, ExecuteCommand for one.
    ecs._get_docker = lambda: None


def services(estate):
    # Leaves out what ECS fills in, and tells what was not given as null or "".
    register = ecs._ACTION_MAP["RegisterTaskDefinition"]
    ecs._ACTION_MAP["RegisterTaskDefinition"] = lambda data: register_definition(register, data)

    # Starts and stops tasks of a service within the call, with the service's name as `startedBy`.
    def wake(cluster_name, key):
        estate.changed.notify_all()

    ecs._reconcile_service_tasks = wake

    # Makes ids of hexadecimal digits, and a first deployment that is COMPLETED without a task.
    make = ecs._make_deployment

    def make_deployment(*given, **named):
        made = make(*given, **named)
        made["id"] = f"ecs-svc/{secrets.randbelow(9 * 10**18) + 10**18}"
        reason = f"ECS deployment {made['id']} in progress."
        return made | {"rolloutState": "IN_PROGRESS", "rolloutStateReason": reason} | PLATFORM

    ecs._make_deployment = make_deployment

    # Forget serviceConnectConfiguration, and what deployments have of their service.
    for action in ("CreateService", "UpdateService"):
        ecs._ACTION_MAP[action] = completed(ecs._ACTION_MAP[action])

    # Is INACTIVE at once: here when the last task is STOPPED, which the scheduler sees.
    delete = ecs._ACTION_MAP["DeleteService"]

    def delete_service(data):
        answer = with_service(delete(data), lambda service: service.update(status="DRAINING"))
        estate.changed.notify_all()
        return answer

    ecs._ACTION_MAP["DeleteService"] = delete_service


def answers(estate):
    # Cuts times to whole seconds.
    ecs._ts_to_epoch = to_epoch
    # Knows neither pages nor limits where AWS has them.
    ecs._ACTION_MAP["ListServices"] = paged(ecs._ACTION_MAP["ListServices"])
    for action, (key, most) in LIMITS.items():
        ecs._ACTION_MAP[action] = limited(ecs._ACTION_MAP[action], key, most)
    # Is always empty.
    ecs._ACTION_MAP["ListServicesByNamespace"] = list_services_by_namespace

    # Answers while tasks change.
    dispatch = ecs._dispatch_action

    def dispatch_alone(action, data):
        with estate.changed:
            return dispatch(action, data)

    ecs._dispatch_action = dispatch_alone


def cloud_map():
    # Ignore their filters, and list what is not set as null.
    def list_services(data):
        wanted = filter_of(data, "NAMESPACE_ID")
        ids = {it.rsplit("/", 1)[-1] for it in wanted or []}
        found = [it for it in servicediscovery._services.values() if wanted is None or it["NamespaceId"] in ids]
        return json_response({"Services": [map_service(it) for it in found]})

    def list_namespaces(data):
        found = servicediscovery._namespaces.values()
        for name, value in (
            ("TYPE", lambda it: it["Type"]),
            ("NAME", lambda it: it["Name"]),
            ("HTTP_NAME", lambda it: it.get("Properties", {}).get("HttpProperties", {}).get("HttpName")),
        ):
            wanted = filter_of(data, name)
            found = [it for it in found if wanted is None or value(it) in wanted]
        return json_response({"Namespaces": [without(it, None) for it in found]})

    # Leaves out the revision.
    discover = servicediscovery._discover_instances

    def discover_instances(data):
        status, headers, body = discover(data)
        if status != 200:
            return status, headers, body
        revision = json.loads(servicediscovery._discover_instances_revision(data)[2])
        return json_response(json.loads(body) | revision)

    servicediscovery._discover_instances = discover_instances
    servicediscovery._list_services = list_services
    servicediscovery._list_namespaces = list_namespaces


def map_service(service):
    shown = {key: value for key, value in without(service, None).items() if key != "NamespaceId"}
    count = len(servicediscovery._instances.get(service["Id"], {}))
    return shown | {"InstanceCount": count, "Type": "DNS_HTTP" if service["DnsConfig"] else "HTTP"}


def without(members, *values):
    return {key: value for key, value in members.items() if value not in values}


def filter_of(data, name):
    return next((it["Values"] for it in data.get("Filters") or [] if it["Name"] == name), None)


def cluster_of(data):
    """A cluster's name, or the error."""
    name = ecs._resolve_cluster_name(data.get("cluster", "default"))
    if name in ecs._clusters:
        return name, None
    return None, error_response_json("ClusterNotFoundException", "Cluster not found.", 400)


def run_task(estate, data):
    cluster, error = cluster_of(data)
    if error:
        return error
    definition = ecs._task_defs.get(ecs._resolve_td_key(data.get("taskDefinition", "")))
    if not definition:
        return error_response_json("ClientException", "TaskDefinition not found.", 400)
    place = (get_account_id(), get_region(), cluster)
    started = [estate.run(*place, definition, data) for _ in range(data.get("count", 1))]
    for task in started:
        ecs._tags[task.arn] = list(data.get("tags", []))
    shown = [ecs._tasks[task.arn] | {"tags": data.get("tags", [])} for task in started]
    return json_response({"tasks": shown, "failures": []})


def stop_task(estate, data):
    cluster, error = cluster_of(data)
    if error:
        return error
    found = ecs._resolve_task(data.get("task", ""), cluster)
    if not found:
        return error_response_json("InvalidParameterException", "The referenced task was not found.", 400)
    task = estate.tasks[found["taskArn"].rsplit("/", 1)[1]]
    task.stop("UserInitiated", data.get("reason", "Task stopped by user"))
    return json_response({"task": ecs._tasks[task.arn]})


def with_service(answer, change):
    """Changes the service that a call answers with, and answers with that."""
    status, _, body = answer
    if status != 200:
        return answer
    arn = json.loads(body)["service"]["serviceArn"]
    service = next(it for it in ecs._services.values() if it["serviceArn"] == arn)
    change(service)
    return json_response({"service": ecs._sanitize(service)})


def definition_fault(data):
    """What ECS refuses and ministack takes: names that nothing bears."""
    containers = {it["name"] for it in data.get("containerDefinitions", [])}
    volumes = {it["name"] for it in data.get("volumes", [])}
    for container in data.get("containerDefinitions", []):
        needed = {it["containerName"] for it in container.get("dependsOn", [])} - containers
        mounted = {it["sourceVolume"] for it in container.get("mountPoints", [])} - volumes
        if needed or mounted:
            unknown = ", ".join(sorted(needed | mounted))
            return f"container {container['name']} depends on, or mounts, what the definition lacks: {unknown}"
    return None


def register_definition(register, data):
    fault = definition_fault(data)
    if fault:
        return error_response_json("ClientException", fault, 400)
    for container in data.get("containerDefinitions", []):
        for key in ("environment", "mountPoints", "portMappings", "volumesFrom", "systemControls"):
            container.setdefault(key, [])
        for mapping in container["portMappings"]:
            mapping.setdefault("protocol", "tcp")
            mapping.setdefault("hostPort", mapping["containerPort"])
    status, headers, body = register(data)
    if status != 200:
        return status, headers, body
    answer = json.loads(body)
    definition = ecs._task_defs[ecs._resolve_td_key(answer["taskDefinition"]["taskDefinitionArn"])]
    definition = without(definition, None, "") | {"requiresAttributes": [{"name": "ecs.capability.task-eni"}]}
    ecs._task_defs[f"{definition['family']}:{definition['revision']}"] = definition
    return json_response(answer | {"taskDefinition": definition})


def completed(call):
    def complete(data):
        def fill(service):
            service.update(placementConstraints=[], placementStrategy=[])
            primary, *former = service["deployments"]
            primary.setdefault("networkConfiguration", service["networkConfiguration"])
            connected = (it["serviceConnectConfiguration"] for it in former if "serviceConnectConfiguration" in it)
            configuration = data.get("serviceConnectConfiguration") or next(connected, None)
            if configuration and "serviceConnectConfiguration" not in primary:
                cloudmap.connect(primary, configuration)

        given = data.get("taskDefinition")
        if given and not ecs._task_defs.get(ecs._resolve_td_key(given)):  # which ministack takes
            return error_response_json("ClientException", f"TaskDefinition not found: {given}", 400)
        return with_service(call(data), fill)

    return complete


def to_epoch(value):
    """Times of tasks are numbers already."""
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else value


def paged(call):
    def page(data):
        status, headers, body = call(data)
        if status != 200:
            return status, headers, body
        arns = json.loads(body)["serviceArns"]
        start, most = int(data.get("nextToken") or 0), data.get("maxResults", DEFAULT_PAGE)
        answer = {"serviceArns": arns[start : start + most]}
        if start + most < len(arns):
            answer["nextToken"] = str(start + most)
        return json_response(answer)

    return page


def limited(call, key, most):
    def within(data):
        if len(data.get(key, [])) > most:
            return error_response_json("InvalidParameterException", f"{key} can have at most {most} items.", 400)
        return call(data)

    return within


def list_services_by_namespace(data):
    wanted = cloudmap.namespace(data.get("namespace", ""))
    if not wanted:
        return error_response_json("NamespaceNotFoundException", "The specified namespace was not found.", 400)
    arns = []
    for service in ecs._services.values():
        configuration = service["deployments"][0].get("serviceConnectConfiguration", {})
        if configuration.get("enabled") and cloudmap.namespace(configuration.get("namespace", "")) is wanted:
            arns.append(service["serviceArn"])
    return json_response({"serviceArns": arns})
