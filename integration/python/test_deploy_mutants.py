"""Shows that the validators of test_deploy.py can fail: each row breaks one thing, and says who must notice and in what words.

It proves nothing of the files themselves.
"""

import copy
import json
import subprocess

import pytest

import cloudformation
import task_definitions
import terraform
from deployments import DATA, DEPLOY, SERVERS, Both, template
from test_deploy import CFN_LINT, PROVIDER, SAMPLE, iam, matches, strangers


def at(value, path):
    for key in path:
        value = value[key]
    return value


def changed(value, path, new):
    """A copy with something else at `path`; `None` takes it away."""
    value = copy.deepcopy(value)
    *way, last = path
    place = at(value, way)
    if new is None:
        del place[last]
    else:
        place[last] = new
    return value


INIT, ENVOY, APP = [("containerDefinitions", index) for index in range(3)]
DEFINITIONS = [
    ((*APP, "dependsOn", 0, "containerName"), "enovy", "app: dependsOn names enovy, which is no container"),
    ((*ENVOY, "healthCheck"), None, "app: dependsOn waits for envoy to be HEALTHY, which has no healthCheck"),
    ((*INIT, "essential"), True, "envoy: dependsOn waits for legation-init to end, which is essential"),
    ((*APP, "dependsOn", 0, "condition"), "COMPLETE", "app: dependsOn waits for envoy to end, which is essential"),
    ((*APP, "dependsOn", 0, "condition"), "READY", "containerDefinitions.dependsOn.condition is 'READY'"),
    ((*INIT, "dependsOn"), [{"containerName": "app", "condition": "START"}], "wait for each other"),
    (("volumes",), None, "there is no volume mesh"),
    (("memory",), "8192", "Fargate has no cpu 512 with memory 8192"),
    (("cpu",), "640", "Fargate has no cpu 640"),
    ((*ENVOY, "memory"), 2048, "the containers' memory is more than the task's"),
    ((*ENVOY, "cpu"), 1024, "the containers' cpu is more than the task's"),
    ((*ENVOY, "memoryReservation"), 512, "memoryReservation is more than memory"),
    ((*ENVOY, "stopTimeout"), 121, "envoy: stopTimeout is 121"),
    ((*ENVOY, "startTimeout"), 1, "envoy: startTimeout is 1"),
    ((*ENVOY, "stopTimeout"), "120", "Invalid type for parameter containerDefinitions[1].stopTimeout"),
    ((*ENVOY, "healthCheck", "command"), ["/mesh/bin/legation"], "command begins with CMD"),
    ((*ENVOY, "healthCheck", "interval"), 1, "interval is 1, and ECS takes 5 to 300"),
    ((*ENVOY, "healthCheck", "timeout"), 1, "timeout is 1, and ECS takes 2 to 60"),
    ((*ENVOY, "ulimits", 0, "softLimit"), 70000, "ulimit nofile: soft is above hard"),
    ((*APP, "portMappings", 0, "name"), None, "appProtocol needs a name"),
    ((*APP, "portMappings", 0, "hostPort"), 80, "hostPort differs"),
    ((*APP, "portMappings", 0, "containerPort"), 70000, "70000 is no containerPort"),
    ((*APP, "portMappings", 0, "appProtocol"), "https", "appProtocol is 'https'"),
    ((*ENVOY, "portMappings"), [{"containerPort": 8080}], "two containers of one network have the same port"),
    ((*APP, "environment", 1, "name"), "HTTP_PROXY", "the variable HTTP_PROXY is there twice"),
    ((*APP, "name"), "envoy", "two containers have one name"),
    ((*APP, "image"), None, "app: no image"),
    ((*APP, "privileged"), True, "Fargate takes no privileged"),
    ((*APP, "linuxParameters"), {"capabilities": {"add": ["NET_ADMIN"]}}, "Fargate adds no capability NET_ADMIN"),
    ((*APP, "logConfiguration", "logDriver"), "syslog", "Fargate has no log driver syslog"),
    ((*APP, "logConfiguration", "options", "awslogs-group"), None, "awslogs needs awslogs-group"),
    (("executionRoleArn",), None, "logs and secrets need an executionRoleArn"),
    (("networkMode",), "bridge", "Fargate needs networkMode awsvpc"),
    (("family",), None, 'Missing required parameter in input: "family"'),
    ((*APP, "dependson"), [], 'Unknown parameter in containerDefinitions[2]: "dependson"'),
]


@pytest.mark.parametrize("path, new, words", DEFINITIONS, ids=[row[2] for row in DEFINITIONS])
def test_a_broken_task_definition_is_refused(path, new, words):
    whole = json.loads((DEPLOY / "task-definition.json").read_text())
    found = task_definitions.faults(changed(whole, path, new))
    assert any(words in fault for fault in found), found


CLUSTERS, REPLICAS = [("Resources", f"Fn::ForEach::{name}", 2) for name in ("EachCluster", "EachReplica")]
STATEMENTS = (*CLUSTERS, "EcsPolicy&{ClusterName}", "Properties", "PolicyDocument", "Statement")
CONTAINER = (*REPLICAS, "TaskDefinition${Replica}", "Properties", "ContainerDefinitions", 0)
RULE = (*CLUSTERS, "EventRule&{ClusterName}", "Properties", "EventPattern")
QUEUES = (*REPLICAS, "QueuePolicy${Replica}", "Properties", "PolicyDocument", "Statement")
PERMISSIONS = [
    ((*STATEMENTS, 1, "Action", 1), None),
    ((*STATEMENTS, 1, "Action", 1), "ecs:StopTask"),
    ((*STATEMENTS, 1, "Resource"), "*"),
    ((*STATEMENTS, 0, "Condition"), None),
    ((*STATEMENTS, 6), None),
    ((*REPLICAS, "EventsPolicy${Replica}", "Properties", "PolicyDocument", "Statement", 0, "Action"), "sqs:*"),
    (("Resources", "TaskRole", "Properties", "Policies"), [{"PolicyName": "more", "PolicyDocument": {"Statement": [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}}]),
]


@pytest.mark.parametrize("path, new", PERMISSIONS, ids=str)
def test_other_permissions_are_noticed(path, new):
    sound, theirs = Both("server", SERVERS["usual"]).permissions("task_role")
    broken, same = Both("server", SERVERS["usual"], of=changed(template("server"), path, new)).permissions("task_role")
    assert sound == theirs == same and broken != theirs
    assert set(iam("ecs", CLUSTER="prod-a")) <= set(sound)


DIFFERENCES = [
    ("task_definitions", (*CONTAINER, "Command"), ["serve", "--config", "x"]),
    ("task_definitions", (*CONTAINER, "StopTimeout"), 31),
    ("task_definitions", (*CONTAINER, "Environment", 4), None),
    ("task_definitions", (*REPLICAS, "TaskDefinition${Replica}", "Properties", "Memory"), "2048"),
    ("event_patterns", (*RULE, "detail"), {"clusterArn": ["*"]}),
    ("event_patterns", (*RULE, "detail-type"), ["ECS Service Action"]),
    ("queue_policies", (*QUEUES, 0, "Condition"), None),
    ("queue_policies", (*QUEUES, 1), None),
    ("reach", ("Resources", "ServerSecurityGroup", "Properties", "SecurityGroupIngress", 0, "FromPort"), 0),
    ("reach", ("Resources", "HealthOfServers"), None),
    ("trusts", ("Resources", "TaskRole", "Properties", "AssumeRolePolicyDocument", "Statement", 0, "Condition"), None),
    ("services", (*REPLICAS, "Service${Replica}", "Properties", "DeploymentConfiguration", "MinimumHealthyPercent"), 0),
    ("services", (*REPLICAS, "Service${Replica}", "Properties", "NetworkConfiguration", "AwsvpcConfiguration", "Subnets"),
     {"Ref": "Subnets"}),
    ("services", (*REPLICAS, "Service${Replica}", "Properties", "HealthCheckGracePeriodSeconds"), 300),
    ("outputs", ("Outputs", "XdsAddress", "Value"), {"Fn::Sub": "${LoadBalancer.DNSName}:18001"}),
    ("task_definitions", (*CONTAINER, "HealthCheck", "Retries"), 3),
    ("others", ("Resources", "TargetGroup", "Properties", "HealthCheckPath"), "/livez"),
    ("others", ("Resources", "TargetGroup", "Properties", "TargetGroupAttributes", 0, "Value"), "300"),
    ("others", ("Resources", "LoadBalancer", "Properties", "Scheme"), "internet-facing"),
    ("others", (*REPLICAS, "Queue${Replica}", "Properties", "MessageRetentionPeriod"), 60),
    ("others", (*REPLICAS, "Subscription${Replica}", "Properties", "RawMessageDelivery"), False),
    ("others", (*REPLICAS, "DeadLettersAlarm${Replica}"), None),
    ("others", ("Resources", "UnhealthyAlarm", "Properties", "Threshold"), 1),
]


@pytest.mark.parametrize("what, path, new", DIFFERENCES, ids=str)
def test_a_difference_of_the_two_is_noticed(what, path, new):
    ours, theirs = getattr(Both("server", SERVERS["usual"]), what)()
    broken, same = getattr(Both("server", SERVERS["usual"], of=changed(template("server"), path, new)), what)()
    assert ours == theirs == same and broken != theirs


WITH_A_NAME = [
    ("others", ("Resources", "XdsRecord", "Properties", "AliasTarget", "HostedZoneId"), {"Ref": "PrivateZoneId"}),
    ("others", ("Resources", "XdsRecord", "Properties", "Name"), "other.prod.internal"),
    ("reach", ("Resources", "ServerSecurityGroup", "Properties", "SecurityGroupEgress", 2), None),
]


@pytest.mark.parametrize("what, path, new", WITH_A_NAME, ids=str)
def test_a_difference_of_names_and_name_servers_is_noticed(what, path, new):
    ours, theirs = getattr(Both("server", SERVERS["everything"]), what)()
    broken, same = getattr(Both("server", SERVERS["everything"], of=changed(template("server"), path, new)), what)()
    assert ours == theirs == same and broken != theirs


def test_an_event_of_another_cluster_matches_no_rule():
    pattern = {"source": ["aws.ecs"], "detail": {"clusterArn": [SAMPLE["detail"]["clusterArn"]]}}
    assert matches(pattern, SAMPLE)
    assert not matches({**pattern, "account": ["1"]}, SAMPLE)
    assert not matches(changed(pattern, ("detail", "clusterArn"), ["prod-a"]), SAMPLE)


LINTED = [
    (("Resources", "Service", "Properties", "LaunchTyp"), "FARGATE", "E3002"),
    (("Resources", "Service", "Properties", "TaskDefinition"), {"Ref": "TaskDefinitions"}, "E1020"),
    (("Resources", "TaskDefinition", "Properties", "Memory"), "8192", "E3047"),
    (("Parameters", "Unused"), {"Type": "String"}, "W2001"),
]


@pytest.mark.parametrize("path, new, rule", LINTED, ids=[row[2] for row in LINTED])
def test_cfn_lint_notices(path, new, rule, tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text(json.dumps(changed(template("sidecar"), path, new)))
    ran = subprocess.run([CFN_LINT, str(file)], capture_output=True, text=True)
    assert ran.returncode != 0 and rule in ran.stdout


def test_a_yaml_alias_is_refused(tmp_path):
    file = tmp_path / "alias.yaml"
    file.write_text("Parameters: &all {}\nResources: *all\n")
    with pytest.raises(AssertionError, match="no YAML aliases"):
        cloudformation.load(file)


def test_what_is_not_created_can_not_be_referred_to(tmp_path):
    whole = template("server")
    del whole["Resources"]["Fn::ForEach::EachReplica"][2]["Subscription${Replica}"]["Condition"]
    with pytest.raises(AssertionError, match="Topic is referred to and not created"):
        assert cloudformation.Stack(whole, SERVERS["trial"]).resources
    (tmp_path / "main.tf").write_text('resource "aws_sqs_queue" "a" {\n  name = aws_sqs_queue.b.name\n}\n')
    with pytest.raises(AssertionError, match="no resource aws_sqs_queue.b"):
        list(terraform.Module(tmp_path, {}, DATA).instances())


def test_arguments_that_the_provider_does_not_know_are_noticed(tmp_path):
    (tmp_path / "main.tf").write_text('''
resource "aws_lb_listener" "listener" {
  ports = 18000
  default_action {
    target_group = "x"
  }
}
''')
    (block,) = terraform.Module(tmp_path, {}, DATA).blocks
    assert sorted(strangers(block, PROVIDER["aws_lb_listener"])) == [
        "default_action: target_group is no argument", "default_action: type is missing", "load_balancer_arn is missing",
        "ports is no argument",
    ]


def test_terraform_is_evaluated_as_terraform_does(tmp_path):
    """Each value as `terraform console` 1.11 prints it."""
    (tmp_path / "main.tf").write_text(EXPRESSIONS)
    found = terraform.Module(tmp_path, {"given": ["b", "a"]}, DATA).outputs()
    assert found == {
        "text": "a-${b}-3", "list": ["A", "b-b", "b-a"], "map": {"b": 1, "a": 1}, "logic": True, "choice": None,
        "json": '{"a":[1,true,null],"b":"x"}', "set": ["a", "b"], "number": 5, "at": "a",
    }
    with pytest.raises(terraform.Unknown, match="the function timestamp"):
        (tmp_path / "main.tf").write_text('output "now" {\n  value = timestamp()\n}\n')
        terraform.Module(tmp_path, {}, DATA).outputs()


EXPRESSIONS = r"""
variable "given" {
  type = list(string)
}
locals {
  three = 1 + 2
}
output "text" {
  value = "a-$${b}-${local.three}"
}
output "list" {
  value = concat(["A"], [for item in var.given : "b-${item}" if item != "c"])
}
output "map" {
  value = { for index, item in var.given : item => length(item) }
}
output "logic" {
  value = !(local.three == 4) && (length(var.given) >= 2 || false)
}
output "choice" {
  value = contains(var.given, "z") ? "z" : null
}
output "json" {
  value = jsonencode(merge({ b = "x" }, { "a" = [1, true, null] }))
}
output "set" {
  value = toset(concat(var.given, var.given))
}
output "number" {
  value = tonumber(split("/", "4/5")[1])
}
output "at" {
  value = var.given[index(["x", "y"], "y")]
}
"""


