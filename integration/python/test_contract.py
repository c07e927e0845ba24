"""Holds the AWS-like endpoint to botocore's service models.

Every operation is called through boto3, and `shapes` compares each raw answer with the model.
LEGATION_FAKE_AWS holds the line that `fake_aws --gallery --faulty` printed. It does not judge what the
answers mean for Legation.
"""

import json
import re
import time

import boto3
import pytest

from shapes import ALWAYS, FAKE, PARSED, Api, client, refused, task_arns

CLUSTER, NAMESPACE = FAKE["cluster"], FAKE["namespace"]


@pytest.fixture(scope="module")
def ecs():
    return Api("ecs")


@pytest.fixture(scope="module")
def cloudmap():
    return Api("servicediscovery")


@pytest.fixture(scope="module")
def sqs():
    return Api("sqs")


def described(ecs, arns, cluster=CLUSTER, **more):
    answer = ecs.describe_tasks(cluster=cluster, tasks=arns, **more)
    assert answer["failures"] == []
    return answer["tasks"]


# ECS


def test_clusters(ecs):
    arns = ecs.list_clusters()["clusterArns"]
    assert [arn.split("/")[1] for arn in arns] == [CLUSTER, "spare", "with-machines"]
    answer = ecs.describe_clusters(clusters=[CLUSTER, arns[1], "nowhere"], include=["TAGS"])
    assert [c["clusterName"] for c in answer["clusters"]] == [CLUSTER, "spare"]
    assert answer["clusters"][1]["runningTasksCount"] == 120
    assert [c.get("serviceConnectDefaults") for c in answer["clusters"]] == [None, {"namespace": NAMESPACE}]
    assert [(f["reason"], f["arn"].split("/")[1]) for f in answer["failures"]] == [("MISSING", "nowhere")]


def test_services_are_listed_in_pages_of_ten(ecs):
    pages = ecs.pages("list_services", cluster=CLUSTER)
    assert {len(page["serviceArns"]) for page in pages[:-1]} == {10}
    arns = [arn for page in pages for arn in page["serviceArns"]]
    assert len(arns) == len(set(arns)) == 33
    assert not any(arn.endswith("/gone") for arn in arns)
    hundred = ecs.list_services(cluster=CLUSTER, maxResults=100)
    assert hundred["serviceArns"] == arns and "nextToken" not in hundred
    assert ecs.list_services(cluster=CLUSTER, launchType="EC2")["serviceArns"] == []


def test_services_are_described_with_tags_and_failures(ecs):
    answer = ecs.describe_services(cluster=CLUSTER, services=["payments", "nothing", "search"], include=["TAGS"])
    payments, search = answer["services"]
    assert payments["tags"] == [{"key": "legation:namespace", "value": NAMESPACE}]
    assert (payments["desiredCount"], payments["runningCount"], payments["pendingCount"]) == (3, 3, 0)
    assert re.fullmatch(r"ecs-svc/\d{19}", payments["deployments"][0]["id"])
    assert payments["deployments"][0]["rolloutState"] == "COMPLETED"
    assert search["serviceRegistries"][0]["containerPort"] == 7700
    assert [f["arn"].split("/")[-1] for f in answer["failures"]] == ["nothing"]
    assert "tags" not in ecs.describe_services(cluster=CLUSTER, services=["payments"])["services"][0]
    gone = ecs.describe_services(cluster=CLUSTER, services=["gone"])["services"][0]
    assert gone["status"] == "INACTIVE"


def test_a_deployment_under_way_shows_primary_and_active(ecs):
    service = ecs.describe_services(cluster=CLUSTER, services=["rolling"])["services"][0]
    primary, active = service["deployments"]
    assert (primary["status"], primary["rolloutState"], primary["runningCount"]) == ("PRIMARY", "IN_PROGRESS", 1)
    assert (active["status"], active["runningCount"]) == ("ACTIVE", 2)
    started_by = {t["startedBy"] for t in described(ecs, task_arns(ecs, cluster=CLUSTER, serviceName="rolling"))}
    assert started_by == {primary["id"], active["id"]}


def test_a_canary_shows_what_each_revision_is_to_get(ecs):
    service = ecs.describe_services(cluster=CLUSTER, services=["canary"])["services"][0]
    assert service["deploymentConfiguration"]["strategy"] == "CANARY"
    arn = service["currentServiceDeployment"]
    listed = ecs.list_service_deployments(cluster=CLUSTER, service="canary", status=["IN_PROGRESS"])
    brief, = listed["serviceDeployments"]
    assert (brief["serviceDeploymentArn"], brief["status"]) == (arn, "IN_PROGRESS")
    over = ecs.list_service_deployments(cluster=CLUSTER, service="canary", status=["SUCCESSFUL"])
    assert over["serviceDeployments"] == []
    answer = ecs.describe_service_deployments(serviceDeploymentArns=[arn, arn + "0"])
    assert [failure["reason"] for failure in answer["failures"]] == ["MISSING"]
    deployment, = answer["serviceDeployments"]
    assert deployment["lifecycleStage"] == "PRODUCTION_TRAFFIC_SHIFT"
    source, = deployment["sourceServiceRevisions"]
    target = deployment["targetServiceRevision"]
    assert target["arn"] == brief["targetServiceRevisionArn"]
    weights = [(it["requestedProductionTrafficWeight"], it["requestedTestTrafficWeight"]) for it in (source, target)]
    assert weights == [(90.0, 0.0), (10.0, 100.0)]
    revisions = {it["arn"] for it in service["currentServiceRevisions"]}
    assert revisions == {source["arn"], target["arn"]}
    refused("ServiceNotFoundException", ecs.list_service_deployments, cluster=CLUSTER, service="nowhere")


def test_service_connect_is_on_the_deployment_and_the_revision(ecs, cloudmap):
    service = ecs.describe_services(cluster=CLUSTER, services=["invoices"])["services"][0]
    assert "serviceConnectConfiguration" not in service
    deployment = service["deployments"][0]
    offer = deployment["serviceConnectConfiguration"]["services"][0]
    assert offer["clientAliases"] == [{"port": 9000, "dnsName": "invoices"}]
    assert offer["ingressPortOverride"] == 15000
    resource = deployment["serviceConnectResources"][0]
    assert cloudmap.get_service(Id=resource["discoveryArn"])["Service"]["Name"] == "invoices"
    revision = service["currentServiceRevisions"][0]["arn"]
    answer = ecs.describe_service_revisions(serviceRevisionArns=[revision, revision + "0"])
    assert answer["serviceRevisions"][0]["serviceConnectConfiguration"]["namespace"] == NAMESPACE
    assert answer["failures"][0]["reason"] == "MISSING"


def test_services_by_namespace(ecs, cloudmap):
    by_name = ecs.list_services_by_namespace(namespace=NAMESPACE)["serviceArns"]
    assert [arn.split("/")[-1] for arn in by_name] == ["invoices"]
    namespaces = cloudmap.list_namespaces()["Namespaces"]
    arn = next(ns["Arn"] for ns in namespaces if ns["Name"] == NAMESPACE)
    assert [a for p in ecs.pages("list_services_by_namespace", namespace=arn) for a in p["serviceArns"]] == by_name
    refused("NamespaceNotFoundException", ecs.list_services_by_namespace, namespace="nowhere")


def test_tasks_are_listed_in_pages_of_a_hundred(ecs):
    pages = ecs.pages("list_tasks", cluster="spare")
    assert [len(page["taskArns"]) for page in pages] == [100, 20]
    arns = [arn for page in pages for arn in page["taskArns"]]
    assert len(set(arns)) == 120
    sevens = ecs.pages("list_tasks", cluster="spare", PaginationConfig={"PageSize": 7})
    assert [arn for page in sevens for arn in page["taskArns"]] == arns
    assert len(described(ecs, arns[:100], cluster="spare")) == 100


def test_task_filters(ecs):
    payments = task_arns(ecs, cluster=CLUSTER, serviceName="payments")
    assert len(payments) == 3
    assert task_arns(ecs, cluster=CLUSTER, family="payments") == payments
    deployment = described(ecs, payments)[0]["startedBy"]
    assert task_arns(ecs, cluster=CLUSTER, startedBy=deployment) == payments
    assert len(task_arns(ecs, cluster=CLUSTER, desiredStatus="STOPPED")) == 3
    assert task_arns(ecs, cluster=CLUSTER, desiredStatus="PENDING") == []
    assert task_arns(ecs, cluster=CLUSTER, launchType="EC2") == []
    refused("ServiceNotFoundException", ecs.list_tasks, cluster=CLUSTER, serviceName="nothing")
    refused("InvalidParameterException", ecs.list_tasks, cluster=CLUSTER, startedBy="x", family="payments")
    refused("InvalidParameterException", ecs.list_tasks, cluster=CLUSTER, maxResults=101)


def test_a_running_task(ecs):
    tasks = described(ecs, task_arns(ecs, cluster=CLUSTER, serviceName="payments"))
    assert {t["availabilityZone"] for t in tasks} == {"eu-west-1a", "eu-west-1b", "eu-west-1c"}
    for task in tasks:
        assert (task["desiredStatus"], task["lastStatus"], task["healthStatus"]) == ("RUNNING", "RUNNING", "HEALTHY")
        assert (task["version"], task["group"]) == (3, "service:payments")
        interface = task["containers"][0]["networkInterfaces"][0]
        attachment = task["attachments"][0]
        details = {d["name"]: d["value"] for d in attachment["details"]}
        assert attachment["type"] == "ElasticNetworkInterface" and attachment["status"] == "ATTACHED"
        assert interface["attachmentId"] == attachment["id"]
        assert interface["privateIpv4Address"] == details["privateIPv4Address"]
        assert re.fullmatch(rf"arn:aws:ecs:eu-west-1:\d{{12}}:task/{CLUSTER}/[0-9a-f]{{32}}", task["taskArn"])


def test_stopped_tasks_stay_describable(ecs):
    tasks = described(ecs, task_arns(ecs, cluster=CLUSTER, desiredStatus="STOPPED"))
    by_code = {t["stopCode"]: t for t in tasks}
    planned, crash = by_code["UserInitiated"], by_code["EssentialContainerExited"]
    assert (planned["version"], crash["version"]) == (6, 5)
    for task in (planned, crash):
        assert task["lastStatus"] == "STOPPED" and task["group"] == "family:batch"
        assert "startedBy" not in task
        assert task["createdAt"] <= task["startedAt"] <= task["stoppedAt"]
    assert planned["stoppingAt"] <= planned["executionStoppedAt"] <= planned["stoppedAt"]
    assert crash["executionStoppedAt"] < crash["stoppingAt"], "a crash is noticed late"
    assert (planned["containers"][0]["exitCode"], crash["containers"][0]["exitCode"]) == (0, 1)


def test_run_task_tags_come_only_when_asked(ecs):
    arns = task_arns(ecs, cluster=CLUSTER, family="batch")
    tagged = [t["tags"] for t in described(ecs, arns, include=["TAGS"]) if t["group"] == "family:batch"]
    assert tagged == [[{"key": "legation:namespace", "value": NAMESPACE}]]
    assert all(t["tags"] == [] for t in described(ecs, arns))


def test_unknown_tasks_are_failures(ecs):
    known = task_arns(ecs, cluster=CLUSTER, serviceName="redis")[0]
    answer = ecs.describe_tasks(cluster=CLUSTER, tasks=[known.split("/")[-1], "0" * 32, known + "0"])
    assert [t["taskArn"] for t in answer["tasks"]] == [known]
    assert [f["reason"] for f in answer["failures"]] == ["MISSING", "MISSING"]
    elsewhere = ecs.describe_tasks(cluster="spare", tasks=[known])
    assert elsewhere["tasks"] == [] and elsewhere["failures"][0]["arn"] == known


def test_task_definitions(ecs):
    by_family = ecs.describe_task_definition(taskDefinition="invoices", include=["TAGS"])
    definition = by_family["taskDefinition"]
    assert by_family["tags"] == [{"key": "team", "value": "billing"}]
    port = definition["containerDefinitions"][0]["portMappings"][0]
    assert port == {"containerPort": 9000, "hostPort": 9000, "protocol": "tcp", "name": "api", "appProtocol": "http2"}
    assert definition["containerDefinitions"][0]["healthCheck"]["command"]
    for reference in ("invoices:1", definition["taskDefinitionArn"]):
        again = ecs.describe_task_definition(taskDefinition=reference)
        assert again["taskDefinition"] == definition and "tags" not in again
    batch = ecs.describe_task_definition(taskDefinition="batch")["taskDefinition"]
    assert batch["containerDefinitions"][0]["dockerLabels"] == {"legation.role": "client"}
    for unknown in ("nothing", "invoices:2", "invoices:x", "invoices:0"):
        refused("ClientException", ecs.describe_task_definition, taskDefinition=unknown)


def test_a_task_on_a_machine(ecs):
    cluster = "with-machines"
    (task,) = described(ecs, task_arns(ecs, cluster=cluster), cluster=cluster)
    assert task_arns(ecs, cluster=cluster, launchType="EC2") == [task["taskArn"]]
    assert task_arns(ecs, cluster=cluster, launchType="FARGATE") == []
    assert (task["launchType"], task["attachments"]) == ("EC2", [])
    container = task["containers"][0]
    assert container["networkInterfaces"] == []
    assert container["networkBindings"] == [
        {"bindIP": "0.0.0.0", "containerPort": 8080, "hostPort": 32768, "protocol": "tcp"}
    ]
    definition = ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])["taskDefinition"]
    assert definition["networkMode"] == "bridge"
    arn = task["containerInstanceArn"]
    answer = ecs.describe_container_instances(cluster=cluster, containerInstances=[arn, "0" * 32])
    (instance,) = answer["containerInstances"]
    assert (instance["containerInstanceArn"], instance["runningTasksCount"]) == (arn, 1)
    assert {"name": "legation.address", "value": "192.168.7.1"} in instance["attributes"]
    assert [f["reason"] for f in answer["failures"]] == ["MISSING"]
    too_many = [str(number) for number in range(101)]
    refused("InvalidParameterException", ecs.describe_container_instances, cluster=cluster, containerInstances=too_many)

    ec2 = client("ec2")
    wanted = [{"Name": "instance-id", "Values": ["i-0", instance["ec2InstanceId"]]}]
    (reservation,) = ec2.describe_instances(Filters=wanted)["Reservations"]
    (machine,) = reservation["Instances"]
    assert machine["InstanceId"] == instance["ec2InstanceId"]
    assert machine["PrivateIpAddress"].startswith("127.") and machine["State"]["Name"] == "running"
    assert ec2.describe_instances(Filters=[{"Name": "instance-id", "Values": ["i-0"]}])["Reservations"] == []
    refused("InvalidAction", ec2.describe_vpcs)
    denied = client("ec2", FAKE["faulty"]["access-denied"])
    response = refused("UnauthorizedOperation", denied.describe_instances)
    assert "ec2:DescribeInstances" in response["Error"]["Message"]
    throttled = client("ec2", FAKE["faulty"]["throttle"])
    assert refused("RequestLimitExceeded", throttled.describe_instances)["ResponseMetadata"]["HTTPStatusCode"] == 503


def test_a_role_is_taken_on_and_leads_into_its_account():
    arguments = {"RoleArn": "arn:aws:iam::111122223333:role/reader", "RoleSessionName": "legation"}
    answer = client("sts").assume_role(**arguments)
    assert answer["AssumedRoleUser"]["Arn"] == "arn:aws:sts::111122223333:assumed-role/reader/legation"
    lent = answer["Credentials"]
    assert lent["Expiration"].timestamp() > time.time() and lent["AccessKeyId"].startswith("ASIA")
    assert lent["SecretAccessKey"] and lent["SessionToken"]
    stranger = arguments | {"RoleArn": "arn:aws:iam::999999999999:role/reader"}
    refused("AccessDenied", client("sts").assume_role, **stranger)
    refused("InvalidAction", client("sts").get_caller_identity)
    for fault, code, status in (
        ("access-denied", "AccessDenied", 403), ("throttle", "Throttling", 400), ("server-error", "InternalFailure", 500)
    ):
        faulty = client("sts", FAKE["faulty"][fault])
        response = refused(code, faulty.assume_role, **arguments)
        assert response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_ecs_refusals(ecs):
    for call in (ecs.list_tasks, ecs.list_services):
        refused("ClusterNotFoundException", call, cluster="nowhere")
    refused("ClusterNotFoundException", ecs.list_tasks)
    refused("ClusterNotFoundException", ecs.describe_tasks, cluster="nowhere", tasks=["x"])
    refused("ClusterNotFoundException", ecs.describe_services, cluster="nowhere", services=["x"])
    too_many = {
        "describe_tasks": ("tasks", 101), "describe_services": ("services", 11),
        "describe_service_revisions": ("serviceRevisionArns", 21),
        "describe_service_deployments": ("serviceDeploymentArns", 21), "describe_clusters": ("clusters", 101),
    }
    for name, (member, count) in too_many.items():
        without = ("describe_service_revisions", "describe_service_deployments", "describe_clusters")
        arguments = {} if name in without else {"cluster": CLUSTER}
        arguments[member] = [f"x{n}" for n in range(count)]
        refused("InvalidParameterException", getattr(ecs, name), **arguments)
    refused("InvalidParameterException", ecs.describe_tasks, cluster=CLUSTER, tasks=[])
    # Not known here: AWS has more operations than this endpoint.
    refused("UnknownOperationException", ecs.list_account_settings)


def test_a_wrong_page_token_is_refused(ecs, cloudmap):
    token = ecs.list_tasks(cluster="spare")["nextToken"]
    refused("InvalidParameterException", ecs.list_tasks, cluster="spare", nextToken=token + "00")
    refused("InvalidParameterException", ecs.list_tasks, cluster="spare", nextToken="")
    refused("InvalidParameterException", ecs.list_tasks, cluster="spare", nextToken="é" * 20)
    refused("InvalidParameterException", ecs.list_tasks, cluster=CLUSTER, nextToken=token)
    refused("InvalidParameterException", ecs.list_services, cluster="spare", nextToken=token)
    refused("InvalidInput", cloudmap.list_namespaces, NextToken=token)
    refused("InvalidInput", cloudmap.list_namespaces, MaxResults=101)


# Cloud Map


def namespace_id(cloudmap, name):
    found = [ns for page in cloudmap.pages("list_namespaces") for ns in page["Namespaces"] if ns["Name"] == name]
    return found[0]["Id"]


def search_id(cloudmap):
    wanted = [{"Name": "NAMESPACE_ID", "Values": [namespace_id(cloudmap, "legacy.internal")]}]
    pages = cloudmap.pages("list_services", Filters=wanted)
    services = [service for page in pages for service in page["Services"]]
    assert [service["Name"] for service in services] == ["search"]
    return services[0]["Id"]


def test_namespaces(cloudmap):
    pages = cloudmap.pages("list_namespaces", PaginationConfig={"PageSize": 1})
    names = {ns["Name"]: ns["Type"] for page in pages for ns in page["Namespaces"]}
    assert names == {NAMESPACE: "HTTP", "legacy.internal": "DNS_PRIVATE", "common": "HTTP"}
    for name, value, found in (
        ("TYPE", "HTTP", {NAMESPACE, "common"}), ("NAME", NAMESPACE, {NAMESPACE}), ("HTTP_NAME", NAMESPACE, {NAMESPACE}),
        ("RESOURCE_OWNER", "SELF", {NAMESPACE, "legacy.internal"}), ("RESOURCE_OWNER", "OTHER_ACCOUNTS", {"common"}),
    ):
        # A page is filtered after it was taken: the paginator must carry on through empty ones.
        filters = [{"Name": name, "Values": [value], "Condition": "EQ"}]
        pages = cloudmap.pages("list_namespaces", Filters=filters, PaginationConfig={"PageSize": 1})
        assert len(pages) == 3
        assert {ns["Name"] for page in pages for ns in page["Namespaces"]} == found
    one = cloudmap.get_namespace(Id=namespace_id(cloudmap, "legacy.internal"))["Namespace"]
    assert one["Properties"]["DnsProperties"]["HostedZoneId"]
    refused("NamespaceNotFound", cloudmap.get_namespace, Id="ns-nowhere")


def test_map_services_and_instances(cloudmap):
    service = cloudmap.get_service(Id=search_id(cloudmap))["Service"]
    assert service["InstanceCount"] == 4 and service["HealthCheckCustomConfig"]["FailureThreshold"] == 1
    for reference in (service["Id"], service["Arn"]):
        pages = cloudmap.pages("list_instances", ServiceId=reference, PaginationConfig={"PageSize": 3})
        instances = {i["Id"]: i["Attributes"] for page in pages for i in page["Instances"]}
        assert [len(page["Instances"]) for page in pages] == [3, 1] and len(instances) == 4
    registered = [a for a in instances.values() if "ECS_SERVICE_NAME" in a]
    assert len(registered) == 2
    for attributes in registered:
        assert attributes.keys() == {
            "AWS_INSTANCE_IPV4", "AWS_INSTANCE_PORT", "AVAILABILITY_ZONE", "REGION", "ECS_SERVICE_NAME",
            "ECS_CLUSTER_NAME", "ECS_TASK_DEFINITION_FAMILY",
        }
        assert (attributes["ECS_CLUSTER_NAME"], attributes["AWS_INSTANCE_PORT"]) == (CLUSTER, "7700")
    refused("ServiceNotFound", cloudmap.get_service, Id="srv-nowhere")
    refused("ServiceNotFound", cloudmap.list_instances, ServiceId="srv-nowhere")


def test_service_attributes(cloudmap):
    for reference in (search_id(cloudmap), cloudmap.get_service(Id=search_id(cloudmap))["Service"]["Arn"]):
        answer = cloudmap.get_service_attributes(ServiceId=reference)["ServiceAttributes"]
        assert answer["Attributes"] == {"legation.protocol": "http", "team": "search"}
        assert answer["ServiceArn"].endswith(search_id(cloudmap))
    refused("ServiceNotFound", cloudmap.get_service_attributes, ServiceId="srv-nowhere")


def test_a_shared_namespace_goes_by_its_arn_and_its_owner(cloudmap):
    others = [{"Name": "RESOURCE_OWNER", "Values": ["OTHER_ACCOUNTS"]}]
    namespace = cloudmap.list_namespaces(Filters=others)["Namespaces"][0]
    assert (namespace["Name"], namespace["ResourceOwner"]) == ("common", "222222222222")
    assert namespace["Arn"].split(":")[4] == "222222222222"

    def services(reference):
        wanted = [{"Name": "NAMESPACE_ID", "Values": [reference]}]
        return [s for page in cloudmap.pages("list_services", Filters=wanted) for s in page["Services"]]

    assert services(namespace["Id"]) == []
    audit = services(namespace["Arn"])[0]
    assert (audit["Name"], audit["ResourceOwner"], audit["HealthCheckConfig"]["Type"]) == ("audit", "222222222222", "HTTP")
    refused("ServiceNotFound", cloudmap.get_service_attributes, ServiceId=audit["Id"])
    assert cloudmap.get_service_attributes(ServiceId=audit["Arn"])["ServiceAttributes"]["Attributes"] == {}
    assert [i["Id"] for i in cloudmap.list_instances(ServiceId=audit["Arn"])["Instances"]] == ["vm-3"]
    assert cloudmap.get_instances_health_status(ServiceId=audit["Arn"])["Status"] == {"vm-3": "HEALTHY"}
    asked = {"NamespaceName": "common", "ServiceName": "audit"}
    for call in (cloudmap.discover_instances, cloudmap.discover_instances_revision):
        refused("NamespaceNotFound", call, **asked)
        call(**asked, OwnerAccount="222222222222")


def test_instance_health(cloudmap):
    service = search_id(cloudmap)
    # boto3 has no paginator for it.
    first = cloudmap.get_instances_health_status(ServiceId=service, MaxResults=3)
    rest = cloudmap.get_instances_health_status(ServiceId=service, MaxResults=3, NextToken=first["NextToken"])
    assert (len(first["Status"]), len(rest["Status"])) == (3, 1) and "NextToken" not in rest
    health = first["Status"] | rest["Status"]
    assert len(health) == 4
    assert sorted(health.values()) == ["HEALTHY", "HEALTHY", "HEALTHY", "UNHEALTHY"]
    one = cloudmap.get_instances_health_status(ServiceId=service, Instances=["vm-2"])
    assert one["Status"] == {"vm-2": "UNHEALTHY"}
    refused("InstanceNotFound", cloudmap.get_instances_health_status, ServiceId=service, Instances=["vm-3"])


def test_discovery(cloudmap):
    def found(**more):
        answer = cloudmap.discover_instances(NamespaceName="legacy.internal", ServiceName="search", **more)
        return answer["InstancesRevision"], sorted(i["InstanceId"] for i in answer["Instances"])

    revision, everything = found(HealthStatus="ALL", MaxResults=1000)
    assert len(everything) == 4
    assert found(HealthStatus="UNHEALTHY") == (revision, ["vm-2"])
    assert found(HealthStatus="HEALTHY")[1] == sorted(set(everything) - {"vm-2"})
    assert len(found(HealthStatus="ALL", MaxResults=2)[1]) == 2
    assert found(HealthStatus="ALL", QueryParameters={"AWS_INSTANCE_IPV4": "127.0.8.1"})[1] == ["vm-1"]
    assert len(found(HealthStatus="ALL", OptionalParameters={"ECS_SERVICE_NAME": "search"})[1]) == 2
    assert found(HealthStatus="ALL", OptionalParameters={"no": "such"})[1] == everything
    seen = cloudmap.discover_instances_revision(NamespaceName="legacy.internal", ServiceName="search")
    assert seen["InstancesRevision"] == revision
    # Without a check the filter is ignored.
    connect = cloudmap.discover_instances(NamespaceName=NAMESPACE, ServiceName="invoices", HealthStatus="UNHEALTHY")
    assert [i["HealthStatus"] for i in connect["Instances"]] == ["UNKNOWN", "UNKNOWN"]
    assert {i["Attributes"]["AWS_INSTANCE_PORT"] for i in connect["Instances"]} == {"15000"}
    for namespace, service, kind in (("nowhere", "search", "Namespace"), (NAMESPACE, "search", "Service")):
        for call in (cloudmap.discover_instances, cloudmap.discover_instances_revision):
            refused(f"{kind}NotFound", call, NamespaceName=namespace, ServiceName=service)


# STS


def test_a_role_is_lent_unless_its_account_is_unknown():
    sts = boto3.client(
        "sts", endpoint_url=FAKE["url"], region_name="eu-west-1", aws_access_key_id="dummy",
        aws_secret_access_key="dummy",
    )
    role = "arn:aws:iam::111122223333:role/reader"
    answer = sts.assume_role(RoleArn=role, RoleSessionName="legation")
    assert answer["AssumedRoleUser"]["Arn"].endswith(":assumed-role/reader/legation")
    lent = answer["Credentials"]
    assert lent["Expiration"].timestamp() > time.time() and lent["SessionToken"]
    ecs = boto3.client(
        "ecs", endpoint_url=FAKE["url"], region_name="eu-west-1", aws_access_key_id=lent["AccessKeyId"],
        aws_secret_access_key=lent["SecretAccessKey"], aws_session_token=lent["SessionToken"],
    )
    assert len(ecs.list_clusters()["clusterArns"]) == 3
    elsewhere = role.replace("111122223333", "444455556666")
    response = refused("AccessDenied", sts.assume_role, RoleArn=elsewhere, RoleSessionName="legation")
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 403
# SQS


def test_events_are_received_and_deleted(sqs):
    url = FAKE["queue"]
    received = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)["Messages"]
    assert len(received) == 10
    for message in received:
        event = json.loads(message["Body"])
        detail = event["detail"]
        assert (event["source"], event["detail-type"]) == ("aws.ecs", "ECS Task State Change")
        assert event["resources"] == [detail["taskArn"]]
        assert detail["version"] >= 1 and detail["updatedAt"].endswith("Z") and detail["createdAt"].endswith("Z")
        assert "tags" not in detail and "healthStatus" not in json.dumps(detail)
        assert {attachment["type"] for attachment in detail["attachments"]} == {"eni"}
    entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(received)]
    answer = sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    assert [done["Id"] for done in answer["Successful"]] == [entry["Id"] for entry in entries]
    again = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert not {m["MessageId"] for m in received} & {m["MessageId"] for m in again}


# The whole


def test_every_operation_and_structure_was_compared(ecs, cloudmap, sqs):
    called = {f"{api.service}:{name}" for api in (ecs, cloudmap, sqs) for name in api.called}
    called |= {call for call in PARSED if call.startswith(("ec2:", "sts:"))}  # XML, which botocore reads or not
    assert called == set(FAKE["operations"]), "an operation of the endpoint that nobody called, or the other way round"
    compared = {f"{api.name}.{name}" for api in (ecs, cloudmap, sqs) for name in api.seen}
    unused = {name for name in ALWAYS if not any(name in (c, c.split(".")[1]) for c in compared)}
    assert not unused, f"expected but never seen: {unused}"
