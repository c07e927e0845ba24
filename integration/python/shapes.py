"""A boto3 client that compares every raw answer with botocore's service model.

Members must be the model's, of its types and enumerations, and members that AWS always sends must be
there. What an answer means is not judged here.
"""

import json
import os

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

FAKE = json.loads(os.environ["LEGATION_FAKE_AWS"])
# The operations that were answered and that botocore could read.
PARSED = set()

# Members that AWS always sends, by the model's name of the structure.
ALWAYS = {
    "Cluster": "clusterArn clusterName status registeredContainerInstancesCount runningTasksCount "
    "pendingTasksCount activeServicesCount statistics tags settings capacityProviders "
    "defaultCapacityProviderStrategy",
    "Service": "serviceArn serviceName clusterArn loadBalancers serviceRegistries status desiredCount runningCount "
    "pendingCount launchType taskDefinition deploymentConfiguration deployments events createdAt "
    "placementConstraints placementStrategy networkConfiguration schedulingStrategy deploymentController "
    "enableECSManagedTags propagateTags enableExecuteCommand",
    "Deployment": "id status taskDefinition desiredCount pendingCount runningCount failedTasks createdAt updatedAt "
    "launchType platformVersion platformFamily networkConfiguration rolloutState rolloutStateReason",
    "ServiceRegistry": "registryArn",
    "Task": "attachments availabilityZone clusterArn containers cpu createdAt desiredStatus group healthStatus "
    "lastStatus launchType memory overrides tags taskArn taskDefinitionArn version",
    "Container": "containerArn taskArn name image lastStatus networkInterfaces healthStatus",
    "NetworkInterface": "attachmentId privateIpv4Address",
    "NetworkBinding": "bindIP containerPort hostPort protocol",
    "ContainerInstance": "containerInstanceArn ec2InstanceId version versionInfo remainingResources registeredResources "
    "status agentConnected runningTasksCount pendingTasksCount attributes registeredAt attachments tags",
    "DescribeContainerInstancesResponse": "containerInstances failures",
    "Attachment": "id type status details",
    "TaskDefinition": "taskDefinitionArn containerDefinitions family revision volumes status requiresAttributes "
    "placementConstraints compatibilities registeredAt registeredBy networkMode cpu memory",
    "ContainerDefinition": "name image cpu portMappings essential environment mountPoints volumesFrom",
    "PortMapping": "containerPort hostPort protocol",
    "ServiceRevision": "serviceRevisionArn serviceArn clusterArn taskDefinition launchType platformVersion "
    "platformFamily networkConfiguration containerImages guardDutyEnabled createdAt",
    "Failure": "arn reason",
    "NamespaceSummary": "Id Arn Name Type Properties CreateDate",
    "Namespace": "Id Arn Name Type Properties CreateDate CreatorRequestId",
    "ServiceSummary": "Id Arn Name Type InstanceCount CreateDate",
    "cloudmap.Service": "Id Arn Name NamespaceId Type InstanceCount CreateDate CreatorRequestId",
    "InstanceSummary": "Id Attributes",
    "HttpInstanceSummary": "InstanceId NamespaceName ServiceName HealthStatus Attributes",
    # Whole answers.
    "ListClustersResponse": "clusterArns",
    "DescribeClustersResponse": "clusters failures",
    "ListServicesResponse": "serviceArns",
    "DescribeServicesResponse": "services failures",
    "ListTasksResponse": "taskArns",
    "DescribeTasksResponse": "tasks failures",
    "DescribeTaskDefinitionResponse": "taskDefinition",
    "ListServicesByNamespaceResponse": "serviceArns",
    "DescribeServiceRevisionsResponse": "serviceRevisions failures",
    "ListNamespacesResponse": "Namespaces",
    "GetNamespaceResponse": "Namespace",
    "cloudmap.ListServicesResponse": "Services",
    "GetServiceResponse": "Service",
    "GetServiceAttributesResponse": "ServiceAttributes",
    "ServiceAttributes": "ServiceArn ResourceOwner Attributes",
    "ListInstancesResponse": "Instances",
    "GetInstancesHealthStatusResponse": "Status",
    "DiscoverInstancesResponse": "Instances InstancesRevision",
    "DiscoverInstancesRevisionResponse": "InstancesRevision",
    "Message": "MessageId ReceiptHandle MD5OfBody Body",
    "DeleteMessageBatchResult": "Successful Failed",
}


def compare(value, shape, api, path, seen):
    """Compares a raw JSON value with the model's shape; returns what is wrong."""
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(value, dict):
            return [f"{path}: not a structure"]
        seen.add(shape.name)
        wrong = [f"{path}.{key}: unknown member" for key in value if key not in shape.members]
        wanted = ALWAYS.get(f"{api}.{shape.name}", ALWAYS.get(shape.name, "")).split()
        wrong += [f"{path}.{key}: missing" for key in wanted + list(shape.required_members) if key not in value]
        for key in value.keys() & shape.members.keys():
            wrong += compare(value[key], shape.members[key], api, f"{path}.{key}", seen)
        return wrong
    if kind == "list":
        if not isinstance(value, list):
            return [f"{path}: not a list"]
        return [w for i, item in enumerate(value) for w in compare(item, shape.member, api, f"{path}[{i}]", seen)]
    if kind == "map":
        if not isinstance(value, dict):
            return [f"{path}: not a map"]
        return [w for key in value for w in compare(value[key], shape.value, api, f"{path}.{key}", seen)]
    types = {
        "string": str, "integer": int, "long": int, "boolean": bool, "timestamp": (int, float), "double": (int, float),
    }
    if not isinstance(value, types[kind]) or (kind != "boolean" and isinstance(value, bool)):
        return [f"{path}: {value!r} is not a {kind}"]
    if kind == "string" and shape.enum and value not in shape.enum:
        return [f"{path}: {value!r} is not one of {shape.enum}"]
    return []


def client(service, url=FAKE["url"], core=None):
    """A boto3 client of the endpoint, which tries once."""
    config = Config(inject_host_prefix=False, retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10)
    made = boto3.session.Session(botocore_session=core).client(
        service, endpoint_url=url, region_name="eu-west-1", aws_access_key_id="dummy",
        aws_secret_access_key="dummy", config=config,
    )
    made.meta.events.register("after-call", lambda http_response, model, **_: _parsed(service, http_response, model))
    return made


def _parsed(service, response, operation):
    if response.status_code == 200:
        PARSED.add(f"{service}:{operation.name}")


class Api:
    """A boto3 client whose every raw answer is compared with the model."""

    def __init__(self, service, url=FAKE["url"]):
        core = botocore.session.get_session()
        if service == "servicediscovery":
            # boto3 would speak CBOR; Legation's SDK speaks JSON, so the comparison is about JSON.
            model = core.get_component("data_loader").load_service_model(service, "service-2")
            model["metadata"].update(protocol="json", protocols=["json"])
        self.client = client(service, url, core)
        self.name = "cloudmap" if service == "servicediscovery" else service
        self.service, self.called, self.seen = service, set(), set()
        self.client.meta.events.register("before-parse", self._compare)

    def _compare(self, operation_model, response_dict, **_):
        version = operation_model.metadata["jsonVersion"]
        assert response_dict["headers"]["content-type"] == f"application/x-amz-json-{version}"
        assert response_dict["headers"]["x-amzn-requestid"]
        if response_dict["status_code"] != 200:
            return
        try:
            body = json.loads(response_dict["body"])
        except ValueError:
            return
        wrong = compare(body, operation_model.output_shape, self.name, operation_model.name, self.seen)
        assert not wrong, "\n".join(wrong)
        self.called.add(operation_model.name)

    def __getattr__(self, name):
        return getattr(self.client, name)

    def pages(self, operation, **arguments):
        return list(self.client.get_paginator(operation).paginate(**arguments))


def faulty(fault, service="ecs"):
    return Api(service, FAKE["faulty"][fault])


def refused(kind, call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == kind
    assert caught.value.response["Error"]["Message"]
    return caught.value.response


def task_arns(ecs, **filters):
    return [arn for page in ecs.pages("list_tasks", **filters) for arn in page["taskArns"]]
