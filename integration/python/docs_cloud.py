"""An AWS for the guides: moto with what they speak of, and a plain endpoint for what moto can't do.

The AWS command line checks every parameter against its models before it calls; what comes back is as empty as may be.
Invariant: which calls leave moto is written down here, and every other call is moto's.
"""

import http.server
import json
import logging
import threading
import urllib.parse
import urllib.request

import boto3
import yaml
from moto.ecs.models import ecs_backends
from moto.server import ThreadedMotoServer

REGION = "eu-west-1"
ACCOUNT = "123456789012"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "guide", "AWS_SECRET_ACCESS_KEY": "guide"}
# What goes to the plain endpoint: moto's services never run a task, it has no ECS Exec and no EKS pod identities, and
# its CloudFormation knows no loops.
ELSEWHERE = {
    ("ecs", "wait"),
    ("ecs", "execute-command"),
    ("eks", "create-pod-identity-association"),
    ("cloudformation", "deploy"),
    ("cloudformation", "delete-stack"),
    ("cloudformation", "describe-stacks"),
    ("cloudformation", "validate-template"),
}
SERVICES = ("payments", "checkout", "legation")


class Moto:
    """A moto server; `prepare` empties it and fills it again."""

    def __init__(self):
        logging.getLogger("werkzeug").disabled = True
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        host, port = self.server.get_host_and_port()
        self.url = f"http://{host}:{port}"

    def client(self, service):
        return boto3.client(
            service, endpoint_url=self.url, region_name=REGION, aws_access_key_id="guide", aws_secret_access_key="guide"
        )

    def prepare(self):
        reset = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset, timeout=20).close()
        subnets, groups, vpc = self.network()
        balancer = self.client("elbv2")
        made = balancer.create_target_group(Name="payments", Protocol="HTTP", Port=8080, VpcId=vpc, TargetType="ip")
        target = made["TargetGroups"][0]["TargetGroupArn"]
        balancer.create_load_balancer(Name="payments", Subnets=subnets, Scheme="internal")
        self.services(subnets, groups, target)
        zone = {"VPCRegion": REGION, "VPCId": vpc}
        self.client("route53").create_hosted_zone(Name="prod.mesh", CallerReference="guide", VPC=zone)

    def network(self):
        ec2 = self.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
        ec2.create_tags(Resources=[vpc], Tags=[{"Key": "Name", "Value": "prod"}])
        subnets = []
        for number, letter in enumerate("abc"):
            made = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{REGION}{letter}")
            subnets.append(made["Subnet"]["SubnetId"])
            ec2.create_tags(Resources=subnets[-1:], Tags=[{"Key": "Name", "Value": f"private-{letter}"}])
        groups = {
            name: ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"] for name in SERVICES
        }
        return subnets, groups, vpc

    def services(self, subnets, groups, target):
        ecs = self.client("ecs")
        ecs.create_cluster(clusterName="prod-a")
        for name in SERVICES:
            port = {"name": "http", "containerPort": 8080, "appProtocol": "http"}
            app = {"name": "app", "image": f"registry.example/{name}:1", "memory": 256, "portMappings": [port]}
            ecs.register_task_definition(
                family=name,
                networkMode="awsvpc",
                requiresCompatibilities=["FARGATE"],
                cpu="256",
                memory="512",
                containerDefinitions=[app],
            )
            network = {"awsvpcConfiguration": {"subnets": subnets[:1], "securityGroups": [groups[name]]}}
            common = {
                "cluster": "prod-a",
                "taskDefinition": name,
                "launchType": "FARGATE",
                "networkConfiguration": network,
            }
            behind = [{"targetGroupArn": target, "containerName": "app", "containerPort": 8080}]
            ecs.create_service(serviceName=name, desiredCount=1, loadBalancers=behind, **common)
            connect(name)
            ecs.run_task(count=1, startedBy="ecs-svc/0000000000000000001", **common)

    def stop(self):
        self.server.stop()


def connect(name):
    """What ECS tells of Service Connect, which moto's services do not keep: all are clients, `payments` is called."""
    block = {"enabled": True, "namespace": "prod"}
    if name == "payments":
        alias = {"port": 8080, "dnsName": "payments"}
        block["services"] = [{"portName": "http", "discoveryName": "payments", "clientAliases": [alias]}]
    service = ecs_backends[ACCOUNT][REGION].services[f"prod-a:{name}"]
    service.deployments[0]["serviceConnectConfiguration"] = block


class Template(yaml.SafeLoader):
    """Reads CloudFormation, whose short functions are tags."""


def tagged(loader, _, node):
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


Template.add_multi_constructor("!", tagged)


def judge_stack(body, given):
    """What is wrong with the parameters of a stack."""
    known = yaml.load(body, Template)["Parameters"]
    wrong = [f"unknown parameter {name}" for name in given if name not in known]
    wrong += [
        f"parameter {name} is missing" for name, said in known.items() if "Default" not in said and name not in given
    ]
    for name, value in given.items():
        if value is None:
            continue  # as it was before
        said = known.get(name, {})
        allowed = [str(it) for it in said.get("AllowedValues", [])]
        values = value.split(",") if said.get("Type", "").startswith(("CommaDelimited", "List")) else [value]
        wrong += [f"{name}: {one} is not one of {allowed}" for one in values if allowed and one not in allowed]
    return wrong


class Plain(http.server.BaseHTTPRequestHandler):
    """Answers what `ELSEWHERE` names: success with as little as the caller reads."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        target = self.headers.get("x-amz-target", "")
        if target.endswith(".DescribeServices"):
            stable = {"status": "ACTIVE", "deployments": [{}], "runningCount": 1, "desiredCount": 1}
            return self.answer(200, json.dumps({"services": [stable], "failures": []}))
        cluster = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/prod-a"
        if target.endswith(".DescribeTasks"):
            containers = [{"name": name, "runtimeId": "guide"} for name in ("legation", "envoy", "app")]
            task = {"clusterArn": cluster, "taskArn": f"{cluster}/guide", "containers": containers}
            return self.answer(200, json.dumps({"tasks": [task], "failures": []}))
        form = dict(urllib.parse.parse_qsl(body)) if "Action=" in body else {}
        if form:
            return self.answer(*self.stack(form))
        session = {"sessionId": "guide", "streamUrl": "ws://guide", "tokenValue": "guide"}
        answer = {"session": session, "clusterArn": cluster, "taskArn": f"{cluster}/guide", "containerName": "legation"}
        return self.answer(200, json.dumps(answer if target else {}))

    def stack(self, form):
        action, stacks = form["Action"], self.server.stacks
        name = form.get("StackName", "")
        name = name.split("/")[-2] if "/" in name else name
        if action == "CreateChangeSet":
            keys = [key for key in form if key.endswith(".ParameterKey")]
            given = {form[key]: form.get(key.replace(".ParameterKey", ".ParameterValue")) for key in keys}
            wrong = judge_stack(form["TemplateBody"], given)
            if wrong:
                return 400, error("ValidationError", "; ".join(wrong))
            self.server.proposed[name] = list(given)
            return 200, result(action, f"<Id>{arn('changeSet', name)}</Id><StackId>{arn('stack', name)}</StackId>")
        if action == "GetTemplateSummary":
            keys = "".join(f"<member><ParameterKey>{key}</ParameterKey></member>" for key in self.server.proposed[name])
            return 200, result(action, f"<Parameters>{keys}</Parameters>")
        if action == "DescribeChangeSet":
            return 200, result(action, "<Status>CREATE_COMPLETE</Status><ExecutionStatus>AVAILABLE</ExecutionStatus>")
        if action == "ExecuteChangeSet":
            stacks[name] = "UPDATE_COMPLETE" if name in stacks else "CREATE_COMPLETE"
            return 200, result(action, "")
        if action == "DeleteStack":
            stacks.pop(name, None)
        if action == "DescribeStacks" and name not in stacks:
            return 400, error("ValidationError", f"Stack with id {name} does not exist")
        if action == "DescribeStacks":
            output = (
                "<member><OutputKey>XdsAddress</OutputKey><OutputValue>legation.example:18000</OutputValue></member>"
            )
            member = (
                f"<StackName>{name}</StackName><StackStatus>{stacks[name]}</StackStatus><Outputs>{output}</Outputs>"
            )
            member += "<CreationTime>2026-11-29T00:00:00Z</CreationTime>"
            return 200, result(action, f"<Stacks><member>{member}</member></Stacks>")
        return 200, result(action, "")

    def answer(self, status, text):
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", "application/x-amz-json-1.1" if text.startswith("{") else "text/xml")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def arn(kind, name):
    return f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:{kind}/{name}/0"


def result(action, inner):
    space = "http://cloudformation.amazonaws.com/doc/2010-05-15/"
    return f'<{action}Response xmlns="{space}"><{action}Result>{inner}</{action}Result></{action}Response>'


def error(code, message):
    told = f"<Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>"
    return f"<ErrorResponse><Error>{told}</Error></ErrorResponse>"


def plain_endpoint():
    """The plain endpoint and its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain)
    server.stacks, server.proposed = {}, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"
