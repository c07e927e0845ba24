"""ECS's entries in Cloud Map: tasks of services with `serviceRegistries` or Service Connect.

ministack's ECS registers nothing there. A task is registered when it runs and leaves when its stop begins, before
any container of it is told. Invariant: what is registered here is taken out here, by the task's id.
"""

from ministack.core.responses import request_scope
from ministack.services import ecs, servicediscovery


class Registry:
    def __init__(self, estate):
        self.estate = estate

    def join(self, task):
        with request_scope(task.account, task.region):
            for service_id, port in self._places(task):
                attributes = _attributes(task) | ({"AWS_INSTANCE_PORT": str(port)} if port else {})
                entry = {"ServiceId": service_id, "InstanceId": task.id, "Attributes": attributes}
                if servicediscovery._register_instance(entry)[0] == 200:
                    task.registered.append(service_id)
        self.tell_health(task)

    def leave(self, task):
        with request_scope(task.account, task.region):
            for service_id in task.registered:
                servicediscovery._deregister_instance({"ServiceId": service_id, "InstanceId": task.id})
        task.registered = []

    def tell_health(self, task):
        """ECS sets the custom health of what it registered from the health of the containers.

        Not by ministack's UpdateInstanceCustomHealthStatus, with which the revision rises."""
        with request_scope(task.account, task.region):
            for service_id in task.registered:
                service = servicediscovery._services.get(service_id)
                if service and service["HealthCheckCustomConfig"] is not None:
                    known = servicediscovery._instance_health_status[service_id]
                    known[task.id] = "HEALTHY" if task.ready else "UNHEALTHY"

    def _places(self, task):
        """Ids of Cloud Map services, each with the port to register."""
        service = ecs._services.get(f"{task.cluster}/{task.service}") if task.service else None
        for registry in (service or {}).get("serviceRegistries", []):
            port = registry.get("containerPort") or registry.get("port")
            yield registry["registryArn"].rsplit("/", 1)[1], port or _first_port(task)
        for deployment in (service or {}).get("deployments", []):
            if deployment["id"] == task.started_by:
                yield from _connected(task, deployment)


def _connected(task, deployment):
    offers = deployment.get("serviceConnectConfiguration", {}).get("services", [])
    for offer, resource in zip(offers, deployment.get("serviceConnectResources", [])):
        mapped = (it for own in task.containers.values() for it in own.definition.get("portMappings", []))
        port = next((it["containerPort"] for it in mapped if it.get("name") == offer["portName"]), None)
        yield resource["discoveryArn"].rsplit("/", 1)[1], offer.get("ingressPortOverride", port)


def _first_port(task):
    mapped = (it for own in task.containers.values() for it in own.definition.get("portMappings", []))
    return next((it["containerPort"] for it in mapped), None)


def _attributes(task):
    return {
        "AWS_INSTANCE_IPV4": task.address,
        "AVAILABILITY_ZONE": task.zone,
        "REGION": task.region,
        "ECS_SERVICE_NAME": task.service,
        "ECS_CLUSTER_NAME": task.cluster,
        "ECS_TASK_DEFINITION_FAMILY": task.definition["family"],
    }


def namespace(reference):
    """A namespace by name, id or ARN, in the account and Region of the request."""
    wanted = reference.rsplit("/", 1)[-1]
    return next((it for it in servicediscovery._namespaces.values() if wanted in (it["Id"], it["Name"])), None)


def connect(deployment, configuration):
    """Keeps a deployment's Service Connect configuration, and makes the Cloud Map services of what it offers."""
    deployment["serviceConnectConfiguration"] = configuration
    place = namespace(configuration.get("namespace", ""))
    if not configuration.get("enabled") or not place:
        return
    resources = []
    for offer in configuration.get("services", []):
        name = offer.get("discoveryName", offer["portName"])
        found = _map_service(place, name) or _make_map_service(place, name)
        resources.append({"discoveryName": name, "discoveryArn": found["Arn"]})
    deployment["serviceConnectResources"] = resources


def _map_service(place, name):
    services = servicediscovery._services.values()
    return next((it for it in services if it["NamespaceId"] == place["Id"] and it["Name"] == name), None)


def _make_map_service(place, name):
    servicediscovery._create_service({"NamespaceId": place["Id"], "Name": name, "HealthCheckCustomConfig": {}})
    return _map_service(place, name)
