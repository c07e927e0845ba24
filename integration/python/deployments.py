"""The two descriptions of one deployment side by side: what CloudFormation and Terraform would create for the same parameters.

It judges nothing; test_deploy.py does. Invariant: whatever `Both` answers is in the words of the AWS API where both have
them, and else in those of Terraform, so that equal deployments give equal values.
"""

import copy
import json
import pathlib

import cloudformation
import correspondence
import task_definitions
import terraform

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ACCOUNT, REGION, NAME = "123456789012", "eu-west-1", "legation"
DATA = {
    "aws_caller_identity": {"current": {"account_id": ACCOUNT}},
    "aws_partition": {"current": {"partition": "aws"}},
    "aws_region": {"current": {"region": REGION}},
}

# Parameters of the server by CloudFormation's names; lists as lists.
SERVER = {
    "VpcId": "vpc-0123456789abcdef0",
    "Subnets": ["subnet-0a0a0a0a", "subnet-0b0b0b0b", "subnet-0c0c0c0c"],
    "Cluster": "control",
    "Image": "example.com/legation:1",
    "WatchedClusters": ["prod-a"],
    "ClientCidr": "10.0.0.0/16",
}
SERVERS = {
    "usual": SERVER,
    "trial": {**SERVER, "Replicas": ["A"], "Events": "disabled", "ClientCidr": "", "ClientSecurityGroup": "sg-0123456789abcdef0"},
    "everything": {
        **SERVER,
        "Replicas": ["A", "B", "C"],
        "WatchedClusters": ["prod-a", "prod-b"],
        "CloudMapNamespaces": ["prod.local", "shared.local"],
        "ConfigSource": f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/legation/config",
        "PolicySource": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:legation-policy-a1b2c3",
        "ClientSecurityGroup": "sg-0123456789abcdef0",
        "MetricsCidr": "10.0.0.0/8",
        "DnsCidr": "10.0.3.0/28",
        "PrivateZoneId": "Z0123456789ABCDEFGHIJ",
        "XdsName": "legation.prod.internal",
        "AssignPublicIp": "ENABLED",
        "CpuArchitecture": "ARM64",
        "Size": "1024/4096",
        "CallBudgetPercent": 16,
        "Ec2Permissions": "enabled",
        "AssumeRoleArns": ["arn:aws:iam::444455556666:role/legation"],
        "ExecuteCommand": "enabled",
        "LogRetentionDays": 90,
        "AlarmTopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:on-call",
    },
}
SIDECAR = {
    "Cluster": "prod-a",
    "Subnets": ["subnet-0a0a0a0a", "subnet-0b0b0b0b"],
    "SecurityGroups": ["sg-0123456789abcdef0", "sg-0fedcba9876543210"],
    "XdsAddress": "legation.prod.internal:18000",
    "Image": "example.com/legation:1",
    "EnvoyImage": "example.com/envoy:1.40.0",
    "AppImage": "example.com/checkout:1",
}
SIDECARS = {
    "usual": SIDECAR,
    "everything": {
        **SIDECAR,
        "ServiceName": "orders",
        "Namespace": "test",
        "EnvoyImage": "example.com/envoy:1.38.3",
        "AppCommand": ["/bin/orders", "--verbose"],
        "AppHealthCommand": ["/bin/orders", "--check"],
        "AppPort": 9000,
        "DesiredCount": 3,
        "AssignPublicIp": "ENABLED",
        "TaskRoleArn": f"arn:aws:iam::{ACCOUNT}:role/orders",
        "LogRetentionDays": 7,
    },
}


def template(kind):
    return cloudformation.load(DEPLOY / "cloudformation" / f"{kind}.yaml")


def module(kind, parameters):
    variables = {cloudformation.snake(name): value for name, value in parameters.items()}
    return terraform.Module(DEPLOY / "terraform" / ("" if kind == "server" else kind), variables, DATA)


def statements(document):
    """The statements of a policy, in one form and order."""
    def listed(value):
        return sorted(value) if isinstance(value, list) else [value]

    found = []
    for statement in copy.deepcopy(document["Statement"]):
        for key in ("Action", "Resource"):
            statement[key] = listed(statement[key])
        for condition in statement.get("Condition", {}).values():
            condition.update({key: listed(value) for key, value in condition.items()})
        found.append(json.dumps(statement, sort_keys=True))
    return found


class Both:
    """One kind of deployment for some parameters; each method answers a pair, CloudFormation's value first."""

    def __init__(self, kind, parameters, of=None):
        self.stack = cloudformation.Stack(of or template(kind), parameters)
        self.module = module(kind, parameters)

    def task_definitions(self):
        """By replica: the input of RegisterTaskDefinition."""
        ours = {name.removeprefix("TaskDefinition") or None: task_definitions.from_cloudformation(it)
                for name, it in self.stack.of_type("AWS::ECS::TaskDefinition").items()}
        theirs = {}
        for _, _, key, body in self.module.instances("aws_ecs_task_definition"):
            definition = {api_name(name): value for name, value in body.items()}
            definition["containerDefinitions"] = json.loads(body["container_definitions"])
            definition.pop("volume", None)
            if "volume" in body:
                definition["volumes"] = body["volume"]
            if "runtime_platform" in body:
                (platform,) = body["runtime_platform"]
                definition["runtimePlatform"] = {api_name(name): value for name, value in platform.items()}
            theirs[key] = definition
        return ours, theirs

    def permissions(self, role):
        """The statements of a role's own policies."""
        roles = [it for name, it in self.stack.of_type("AWS::IAM::Role").items() if cloudformation.snake(name) == role]
        ours = [it["PolicyDocument"] for it in roles[0].get("Policies", [])]
        ours += [it["PolicyDocument"] for it in self.stack.of_type("AWS::IAM::Policy").values() if f"<{role}.name>" in it["Roles"]]
        theirs = [json.loads(body["policy"]) for _, _, _, body in self.module.instances("aws_iam_role_policy")
                  if body["role"] == f"<{role}.name>"]
        return sorted(it for doc in ours for it in statements(doc)), sorted(it for doc in theirs for it in statements(doc))

    def trusts(self):
        ours = [it["AssumeRolePolicyDocument"] for it in self.stack.of_type("AWS::IAM::Role").values()]
        theirs = [json.loads(body["assume_role_policy"]) for _, _, _, body in self.module.instances("aws_iam_role")]
        return ours, theirs

    def event_patterns(self):
        ours = [it["EventPattern"] for it in self.stack.of_type("AWS::Events::Rule").values()]
        theirs = [json.loads(body["event_pattern"]) for _, _, _, body in self.module.instances("aws_cloudwatch_event_rule")]
        return ours, theirs

    def queue_policies(self):
        """Of all queues: by its URL, what each lets in."""
        ours = {queue: it["PolicyDocument"] for it in self.stack.of_type("AWS::SQS::QueuePolicy").values() for queue in it["Queues"]}
        theirs = {body["queue_url"]: json.loads(body["policy"]) for _, _, _, body in self.module.instances("aws_sqs_queue_policy")}
        return ours, theirs

    def reach(self):
        """Who may reach what: group, direction, port, peer."""
        ours = set()
        for name, group in self.stack.of_type("AWS::EC2::SecurityGroup").items():
            me = f"<{cloudformation.snake(name)}.id>"
            ours |= {(me, "in", *_rule(it)) for it in group.get("SecurityGroupIngress", [])}
            ours |= {(me, "out", *_rule(it)) for it in group.get("SecurityGroupEgress", []) if it["IpProtocol"] != "-1"}
        ours |= {(it["GroupId"], "out", *_rule(it)) for it in self.stack.of_type("AWS::EC2::SecurityGroupEgress").values()}
        theirs = set()
        for kind, _, _, body in self.module.instances():
            if kind.startswith("aws_vpc_security_group_"):
                peer = body.get("cidr_ipv4") or body["referenced_security_group_id"]
                way = "in" if "ingress" in kind else "out"
                ports = body["from_port"], body["to_port"]
                theirs.add((body["security_group_id"], way, body["ip_protocol"], *ports, peer, body["description"]))
        return ours, theirs

    def outputs(self):
        """By the names of Terraform."""
        ours = {cloudformation.snake(name): value for name, value in self.stack.outputs().items()}
        return ours, self.module.outputs()

    def services(self):
        """The ECS services, by noun and replica."""
        return correspondence.compared(correspondence.SERVICES, self.stack, self.module)

    def others(self):
        """Load balancer and its name, queues, subscriptions, logs and alarms, by noun and replica."""
        return correspondence.compared(correspondence.OTHERS, self.stack, self.module)


def _rule(it):
    peer = it.get("CidrIp") or it.get("SourceSecurityGroupId") or it["DestinationSecurityGroupId"]
    return it["IpProtocol"], it["FromPort"], it["ToPort"], peer, it["Description"]


def api_name(name):
    """`task_role_arn` as the API writes it."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
