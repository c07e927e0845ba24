"""Holds everything below deploy/ to what AWS takes, to deploy/iam, and its two descriptions to each other. Nothing is asked
outside this machine.

What only the binary can tell is in test_deploy_commands.py; that these tests can fail is in test_deploy_mutants.py.
"""

import json
import pathlib
import re
import subprocess
import sys

import boto3
import moto
import pytest
import yaml

import cloudformation
import task_definitions
import terraform
from deployments import ACCOUNT, DATA, DEPLOY, NAME, REGION, ROOT, SERVERS, SIDECAR, SIDECARS, Both, module, statements, template

CASES = [("server", name, it) for name, it in SERVERS.items()] + [("sidecar", name, it) for name, it in SIDECARS.items()]
BOTH = {(kind, name): Both(kind, parameters) for kind, name, parameters in CASES}


CFN_LINT = pathlib.Path(sys.executable).with_name("cfn-lint")


def pairs(kind=None):
    return pytest.mark.parametrize("case", [it for it in BOTH if kind in (None, it[0])], ids="-".join)


def text(value):
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# What the tools of AWS say


@pytest.mark.parametrize("kind, name", [("server", None), ("sidecar", None), *BOTH])
def test_cfn_lint_finds_nothing(kind, name, tmp_path):
    file, given = DEPLOY / "cloudformation" / f"{kind}.yaml", []
    if name:
        parameters = tmp_path / "parameters.json"
        values = {"server": SERVERS, "sidecar": SIDECARS}[kind][name].items()
        parameters.write_text(json.dumps([{"ParameterKey": key, "ParameterValue": value} for key, value in values]))
        given = ["--parameter-files", parameters]
    ran = subprocess.run([CFN_LINT, file, *given], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")
    assert "cfn-lint" not in file.read_text(), "no rule is switched off"


@pairs()
def test_cfn_lint_finds_nothing_in_what_follows(case, tmp_path):
    """Without loops, conditions and parameters, so that it sees the values themselves."""
    kind, name = case
    stack = cloudformation.Plain(template(kind), {"server": SERVERS, "sidecar": SIDECARS}[kind][name])
    file = tmp_path / "plain.json"
    file.write_text(json.dumps(stack.template_of(*{it["Type"] for it in stack.resources.values()})))
    ran = subprocess.run([CFN_LINT, file], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


@pairs()
def test_ecs_would_take_the_task_definitions(case):
    ours, theirs = BOTH[case].task_definitions()
    assert ours and ours == theirs
    for definition in ours.values():
        assert task_definitions.faults(definition) == []


def test_the_task_definition_to_copy_is_that_of_the_template():
    written = (DEPLOY / "task-definition.json").read_text()
    places = {"LEGATION_IMAGE": SIDECAR["Image"], "ENVOY_IMAGE": SIDECAR["EnvoyImage"], "APP_IMAGE": SIDECAR["AppImage"],
              "XDS_ADDRESS": SIDECAR["XdsAddress"],
              "REGION": REGION, "LOG_GROUP": "<log_group.name>", "ACCOUNT": ACCOUNT, "EXECUTION_ROLE": "legation"}
    assert set(re.findall("<([A-Z_]+)>", written)) == set(places)
    assert task_definitions.faults(json.loads(written)) == []
    filled = json.loads(re.sub("<([A-Z_]+)>", lambda place: places[place.group(1)], written))
    assert filled.pop("executionRoleArn") == f"arn:aws:iam::{ACCOUNT}:role/legation"
    ours, _ = BOTH["sidecar", "usual"].task_definitions()
    (ours,) = ours.values()
    assert ours.pop("executionRoleArn") and filled == ours


@pairs("sidecar")
def test_every_essential_container_says_whether_it_is_well(case):
    """With a check of some alone ECS counts a task as ready by these."""
    for definition in BOTH[case].task_definitions()[0].values():
        checked = {it["name"]: "healthCheck" in it for it in definition["containerDefinitions"] if it["essential"]}
        assert checked == {"envoy": True, "app": True}


def test_a_first_reading_has_the_time_that_it_is_said_to_need():
    """The time is that of one page of tasks listed and described for each hundred, as the budget in the source allows."""
    budget = (ROOT / "src/source/aws/budget.rs").read_text()
    reserve = float(re.search(r"const RESERVE: f64 = ([\d.]+);", budget).group(1))
    limit = re.search(r'"ecs:ListTasks", "ecs:DescribeTasks".*?burst: ([\d.]+),\s+per_second: ([\d.]+)', budget, re.DOTALL)
    burst, per_second = map(float, limit.groups())
    declared = template("server")["Parameters"]["CallBudgetPercent"]
    percent, tasks = re.search(r"With (\d+) a start is in time for up to ([\d,]+) tasks", declared["Description"]).groups()
    assert int(percent) == declared["Default"]
    share = int(percent) / 100
    needed = (2 * int(tasks.replace(",", "")) / 100 - (1 - reserve) * burst * share) / (per_second * share)
    for definition in BOTH["server", "usual"].task_definitions()[0].values():
        check = definition["containerDefinitions"][0]["healthCheck"]
        given = check["startPeriod"] + (check["retries"] - 1) * check["interval"]
        assert given - 30 <= needed <= given - 10, (needed, given)
    for service in BOTH["server", "usual"].stack.of_type("AWS::ECS::Service").values():
        assert service["HealthCheckGracePeriodSeconds"] >= given + check["interval"] + check["timeout"]


EMULATED = ["AWS::SQS::Queue", "AWS::SNS::Topic", "AWS::Events::Rule", "AWS::IAM::Role", "AWS::IAM::Policy",
            "AWS::Logs::LogGroup", "AWS::ECS::TaskDefinition"]


@pytest.mark.parametrize("name", SERVERS)
def test_an_emulator_creates_it_and_every_replica_hears_everything(name, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    stack = cloudformation.Plain(template("server"), SERVERS[name])
    wanted = stack.template_of(*EMULATED)
    with moto.mock_aws():
        api = {it: boto3.client(it, REGION) for it in ("cloudformation", "sns", "sqs", "ecs", "iam", "events")}
        api["cloudformation"].create_stack(StackName=NAME, TemplateBody=json.dumps(wanted), Capabilities=["CAPABILITY_IAM"])
        made = api["cloudformation"].describe_stack_resources(StackName=NAME)["StackResources"]
        ids = {it["LogicalResourceId"]: it["PhysicalResourceId"] for it in made}
        assert set(ids) == set(wanted["Resources"])
        policies = api["iam"].list_role_policies(RoleName=ids["TaskRole"])["PolicyNames"]
        assert {f"ecs-{cluster}" for cluster in SERVERS[name]["WatchedClusters"]} <= set(policies)
        for subscription in stack.of_type("AWS::SNS::Subscription").values():
            queue = subscription["Endpoint"]["Fn::GetAtt"][0]
            arn = api["sqs"].get_queue_attributes(QueueUrl=ids[queue], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            raw = {"RawMessageDelivery": text(subscription["RawMessageDelivery"]).lower()}
            api["sns"].subscribe(TopicArn=ids["Topic"], Protocol=subscription["Protocol"], Endpoint=arn, Attributes=raw)
        if "Topic" in ids:
            api["sns"].publish(TopicArn=ids["Topic"], Message='{"detail":{}}')
        for replica, definition in [(it, ids[it]) for it in ids if it.startswith("TaskDefinition")]:
            (container,) = api["ecs"].describe_task_definition(taskDefinition=definition)["taskDefinition"]["containerDefinitions"]
            queues = [it["value"] for it in container["environment"] if it["name"] == "LEGATION_ECS__QUEUE_URL"]
            assert queues == ([ids[f"Queue{replica[-1]}"]] if "Topic" in ids else [])
            for queue in queues:
                heard = api["sqs"].receive_message(QueueUrl=queue)["Messages"]
                assert [message["Body"] for message in heard] == ['{"detail":{}}']


# The two descriptions


@pytest.mark.parametrize("kind", ["server", "sidecar"])
def test_variables_are_the_parameters_in_snake_case(kind):
    parameters = template(kind)["Parameters"]
    given = SERVERS["usual"] if kind == "server" else SIDECAR
    variables = module(kind, given)
    names = {cloudformation.snake(name): it for name, it in parameters.items()}
    assert set(variables.variables) - set(names) == ({"name"} if kind == "server" else set())
    assert set(names) <= set(variables.variables)
    assert variables.required() == {name for name, it in names.items() if "Default" not in it}
    for name, declared in names.items():
        block = variables.variables[name]
        said = variables.evaluate(block.attributes["description"], {})
        words = {other: cloudformation.snake(other) for other in parameters if re.search(rf"\b{other}\b", declared["Description"])}
        expected = re.sub(r"\w+", lambda word: words.get(word.group(), word.group()), declared["Description"])
        expected = expected.replace("parameters above", "variables above").replace("the server_yaml", "server.yaml")
        expected = expected.removesuffix("; no two that differ in - and _ alone")  # loops of CloudFormation take these out of names
        if name not in ("namespace", "size", "xds_address"):
            assert said == expected, name
        if "Default" in declared:
            default = variables.evaluate(block.attributes["default"], {})
            assert text(default) == str(declared["Default"]), name
        listed = declared["Type"].startswith(("List<", "CommaDelimitedList"))
        kinds = {True: "list(string)", False: "number" if declared["Type"] == "Number" else "string"}
        assert re.sub(r"\s", "", _source(block.attributes["type"])) == kinds[listed], name


def _source(tree):
    return "".join(str(token) for token in tree.scan_values(lambda _: True))


WRONG = [
    ("Replicas", []), ("Replicas", ["A", "D"]), ("Replicas", ["3"]), ("WatchedClusters", ["arn:aws:ecs:eu-west-1:1:cluster/a"]),
    ("WatchedClusters", []), ("Cluster", ""), ("Cluster", "a/b"), ("Image", ""), ("Namespace", "Prod"), ("Namespace", ""),
    ("ConfigSource", "legation.yaml"), ("ConfigSource", "arn:aws:s3:::bucket/key"), ("PolicySource", "policy.yaml"),
    ("Events", "on"), ("ClientCidr", ""), ("ClientSecurityGroup", "default"), ("AssignPublicIp", "true"),
    ("CpuArchitecture", "amd64"), ("Size", "512/8192"), ("Size", "512"), ("CallBudgetPercent", 0), ("Ec2Permissions", "yes"),
    ("ExecuteCommand", "yes"), ("LogRetentionDays", 31), ("AlarmTopicArn", "on-call"), ("MetricsCidr", "everybody"),
    ("ClientCidr", "everybody"), ("DnsCidr", "10.0.0.2"), ("XdsName", "legation.prod.internal"), ("PrivateZoneId", "Z0123456789"),
    ("PolicySource", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:legation-a1b2c3:policy::"),
    ("ConfigSource", "arn:aws:ssm:eu-west-1:123456789012:document/legation"), ("WatchedClusters", ["a" * 125]),
]
WRONG_WITH_ALL = [("XdsName", "legation"), ("XdsName", "https://legation.internal"), ("PrivateZoneId", "prod.internal"),
                  ("PrivateZoneId", "/hostedzone/Z0123456789")]


@pytest.mark.parametrize("base, name, value", [("usual", *it) for it in WRONG] + [("everything", *it) for it in WRONG_WITH_ALL], ids=str)
def test_both_refuse_the_same_values(base, name, value):
    """CloudFormation knows no empty list: it is one of an empty text, which its pattern refuses."""
    ours = {**SERVERS[base], name: value or [""] if isinstance(value, list) else value}
    stack = cloudformation.Stack(template("server"), ours)
    theirs = module("server", {**SERVERS[base], name: value}).refusals()
    assert len(stack.refusals()) == 1 and len(theirs) == 1
    assert cloudformation.snake(name) in theirs[0]


@pairs()
def test_both_take_the_samples(case):
    assert (BOTH[case].stack.refusals(), BOTH[case].module.refusals()) == ([], [])


@pairs()
def test_services_queues_balancer_logs_and_alarms_are_equal(case):
    for ours, theirs in (BOTH[case].services(), BOTH[case].others()):
        assert ours and ours == theirs


@pairs("server")
def test_outputs_are_equal_and_the_address_is_the_name_if_there_is_one(case):
    ours, theirs = BOTH[case].outputs()
    assert ours and ours == theirs
    name = SERVERS[case[1]].get("XdsName", "<load_balancer.dns_name>")
    assert ours["xds_address"] == f"{name}:18000"
    records = [it for (kind, *_), it in BOTH[case].others()[0].items() if kind == "aws_route53_record"]
    assert [it["name"] for it in records] == [name] * ("XdsName" in SERVERS[case[1]])


@pairs()
def test_terraform_waits_for_services_and_fails_with_them_as_cloudformation_does(case):
    services = [body for *_, body in BOTH[case].module.instances("aws_ecs_service")]
    assert services and all(it["wait_for_steady_state"] is True for it in services)
    (block,) = [it for it in BOTH[case].module.blocks if it.labels[:1] == ["aws_ecs_service"]]
    (lifecycle,) = [it for it in block.blocks if it.kind == "lifecycle"]
    condition = re.sub(r"\s", "", _source(lifecycle.blocks[0].attributes["condition"]))
    assert re.fullmatch(r"self\.task_definition==aws_ecs_task_definition\.task_definition(\[each\.key\])?\.arn", condition)


@pytest.mark.parametrize("name", ["a-", "-a", "1", "a" * 33, "internal-a", "Internal-a", "sg-a", "a_b"])
def test_a_name_that_aws_would_refuse_is_refused(name):
    """Of the load balancer or of a security group."""
    (refusal,) = terraform.Module(DEPLOY / "terraform", {**MODULE, "name": name}, DATA).refusals()
    assert refusal.startswith("name ")


@pytest.mark.parametrize("name", ["a", "a-b", "internal", "sg", "a" * 32])
def test_other_names_are_taken(name):
    assert terraform.Module(DEPLOY / "terraform", {**MODULE, "name": name}, DATA).refusals() == []


MODULE = {cloudformation.snake(name): value for name, value in SERVERS["usual"].items()}
PROVIDER = json.loads((pathlib.Path(__file__).parent / "terraform_aws.json").read_text())["resources"]


def strangers(block, known):
    """What the provider does not know of a resource, or misses in it."""
    meta = {"for_each", "count", "depends_on", "lifecycle"}
    written = set(block.attributes) - meta | {inner.kind for inner in block.blocks if inner.kind not in meta}
    found = [f"{name} is no argument" for name in written - set(known)]
    found += [f"{name} is missing" for name, need in known.items() if need == "required" and name not in written]
    nested = [(inner, known[inner.kind]) for inner in block.blocks if isinstance(known.get(inner.kind), dict)]
    return found + [f"{inner.kind}: {it}" for inner, below in nested for it in strangers(inner, below)]


@pytest.mark.parametrize("kind, given", [("server", SERVERS["usual"]), ("sidecar", SIDECAR)], ids=["server", "sidecar"])
def test_the_provider_knows_every_argument(kind, given):
    """Against the arguments of the version that terraform_aws.json names: a provider itself would have to be downloaded."""
    resources = [block for block in module(kind, given).blocks if block.kind == "resource"]
    assert resources
    for block in resources:
        assert strangers(block, PROVIDER[block.labels[0]]) == [], block.labels


def test_fewer_subnets_than_replicas_are_refused():
    given = {**SERVERS["usual"], "Subnets": ["subnet-0a0a0a0a"]}
    assert "subnets" in module("server", given).refusals()[0]
    with pytest.raises(IndexError):
        assert cloudformation.Stack(template("server"), given).resources


@pairs()
def test_roles_trust_ecs_alone(case):
    ours, theirs = BOTH[case].trusts()
    assert ours == theirs
    for document in ours:
        (statement,) = document["Statement"]
        assert statement["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


def iam(file, **places):
    """The statements of a file of deploy/iam with its places filled; a list stands for all its items."""
    document = json.loads((DEPLOY / "iam" / f"{file}.json").read_text())
    written = json.dumps(document)
    for place, value in {"REGION": REGION, "ACCOUNT": ACCOUNT, **places}.items():
        if isinstance(value, list):
            written = written.replace(f'"{place}"', json.dumps(value))
        else:
            written = re.sub(rf"(?<![A-Z_]){re.escape(place)}(?![A-Z_])", value, written)
    return statements(json.loads(written))


@pairs("server")
def test_the_task_role_has_the_statements_of_deploy_iam(case):
    given = SERVERS[case[1]]
    expected = []
    for cluster in given["WatchedClusters"]:
        files = ["ecs", "deployments", "default-namespace"] + ["ec2"] * (given.get("Ec2Permissions") == "enabled")
        expected += [it for file in files for it in iam(file, CLUSTER=cluster)]
    if given.get("CloudMapNamespaces"):
        expected += iam("cloud-map", NAMESPACE=given["CloudMapNamespaces"])
    if given.get("AssumeRoleArns"):
        expected += iam("assume-role", **{"arn:aws:iam::OTHER_ACCOUNT:role/ROLE": given["AssumeRoleArns"]})
    if given.get("Events") != "disabled":
        for replica in given.get("Replicas", ["A", "B"]):
            arn = f"<queue[{replica}].arn>"
            expected += [it.replace(f"arn:aws:sqs:{REGION}:{ACCOUNT}:QUEUE", arn) for it in iam("events")]
    ours, theirs = BOTH[case].permissions("task_role")
    assert ours == theirs
    exec_channels = [it for it in ours if "EcsExec" in it]
    assert len(exec_channels) == (given.get("ExecuteCommand") == "enabled")
    assert sorted(it for it in ours if it not in exec_channels) == sorted(expected)


def test_five_clusters_fit_into_one_role():
    """Of the policies in a role IAM counts 10,240 characters, less white space."""
    given = {**SERVERS["everything"], "WatchedClusters": [f"production-cluster-{number}" for number in range(5)]}
    ours, theirs = Both("server", given).permissions("task_role")
    document = json.dumps({"Version": "2012-10-17", "Statement": []}, separators=(",", ":"))
    sizes = [len(re.sub(r"\s", "", statement)) + 1 for statement in ours]
    policies = 5 * 2 + 3 + 3  # by cluster, by replica, and three more
    assert ours == theirs and sum(sizes) + policies * len(document) <= 10240


@pairs("server")
def test_ecs_may_read_the_sources_and_no_others(case):
    given = SERVERS[case[1]]
    ours, theirs = BOTH[case].permissions("execution_role")
    assert ours == theirs
    sources = sorted(given[key] for key in ("ConfigSource", "PolicySource") if key in given)
    assert [json.loads(it)["Resource"] for it in ours] == ([sources] if sources else [])


SAMPLE = {
    "version": "0", "source": "aws.ecs", "detail-type": "ECS Task State Change", "region": REGION,
    "detail": {"clusterArn": f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/prod-a", "desiredStatus": "STOPPED", "lastStatus": "RUNNING"},
}


def matches(pattern, event):
    """EventBridge's rule for patterns of plain values."""
    return all(key in event and (matches(wanted, event[key]) if isinstance(wanted, dict) else event[key] in wanted)
               for key, wanted in pattern.items())


@pairs("server")
def test_task_events_of_watched_clusters_pass_and_no_others(case):
    given = SERVERS[case[1]]
    ours, theirs = BOTH[case].event_patterns()
    assert ours == theirs
    assert len(ours) == (0 if given.get("Events") == "disabled" else len(given["WatchedClusters"]))
    others = [{**SAMPLE, "detail": {**SAMPLE["detail"], "clusterArn": SAMPLE["detail"]["clusterArn"] + "x"}},
              {**SAMPLE, "detail-type": "ECS Service Action"}, {**SAMPLE, "source": "my.ecs"}]
    if ours:
        assert [matches(pattern, SAMPLE) for pattern in ours].count(True) == 1
    assert not any(matches(pattern, event) for pattern in ours for event in others)
    assert all(len(json.dumps(pattern)) <= 2048 for pattern in ours)
    rules = BOTH[case].stack.of_type("AWS::Events::Rule").values()
    assert all("EventBusName" not in rule for rule in rules), "ECS has its events on the default bus"
    assert all("Name" not in rule for rule in rules), "names of 64 characters have no room for those of stack and cluster"
    theirs = [body for *_, body in BOTH[case].module.instances("aws_cloudwatch_event_rule")]
    assert all(body["name_prefix"] == f"{NAME}-" and "name" not in body for body in theirs)


@pairs("server")
def test_queues_let_in_the_topic_or_the_rules(case):
    ours, theirs = BOTH[case].queue_policies()
    assert ours == theirs
    for queue, document in ours.items():
        allowed = [it for it in document["Statement"] if it["Effect"] == "Allow"]
        rules = {"ArnLike": {"aws:SourceArn": f"arn:aws:events:{REGION}:{ACCOUNT}:rule/*"}}
        topic = {"ArnEquals": {"aws:SourceArn": "<topic.arn>"}}
        assert [it["Condition"] for it in allowed] == [rules if queue == "<rule_dead_letters.url>" else topic]
        assert [it["Action"] for it in allowed] == ["sqs:SendMessage"]
    topics = [it["PolicyDocument"]["Statement"] for it in BOTH[case].stack.of_type("AWS::SNS::TopicPolicy").values()]
    theirs = [json.loads(body["policy"])["Statement"] for *_, body in BOTH[case].module.instances("aws_sns_topic_policy")]
    assert topics == theirs
    assert all("Condition" not in it for statement in topics for it in statement), "with one EventBridge could not publish"


@pairs("server")
def test_only_clients_reach_the_balancer_and_only_it_the_servers(case):
    given = SERVERS[case[1]]
    ours, theirs = BOTH[case].reach()
    assert ours == theirs
    inbound = {(group, port, peer) for group, way, _, port, _, peer, _ in ours if way == "in"}
    clients = [given[key] for key in ("ClientCidr", "ClientSecurityGroup") if given.get(key)]
    balancer, server = "<load_balancer_security_group.id>", "<server_security_group.id>"
    expected = {(balancer, 18000, client) for client in clients} | {(server, 18000, balancer), (server, 9090, balancer)}
    assert inbound == expected | ({(server, 9090, given["MetricsCidr"])} if "MetricsCidr" in given else set())
    outbound = {(protocol, port, peer) for group, way, protocol, port, _, peer, _ in ours if (group, way) == (server, "out")}
    dns = {(protocol, 53, given["DnsCidr"]) for protocol in ("tcp", "udp") if "DnsCidr" in given}
    assert outbound == {("tcp", 443, "0.0.0.0/0")} | dns


def test_arguments_and_ports_are_those_of_the_chart():
    """But for where the configuration is: the chart has a file of it, ECS its text in LEGATION_CONFIG."""
    seen = {}
    for case in BOTH:
        if case[0] == "server":
            for definitions in BOTH[case].task_definitions():
                for definition in definitions.values():
                    (container,) = definition["containerDefinitions"]
                    seen[f"{case}"] = (container["command"], [(it["name"], it["containerPort"]) for it in container["portMappings"]])
    chart = ROOT / "charts" / "legation"
    if chart.exists():
        objects = [it for it in yaml.safe_load_all((chart / "tests" / "defaults.out.yaml").read_text()) if it]
        pods = [it["spec"]["template"]["spec"] for it in objects if it["kind"] in ("Deployment", "StatefulSet")]
        for container in [it for pod in pods for it in pod["containers"] if it["name"] == "legation"]:
            arguments = " ".join(container["args"])
            assert re.search(" --config /[^ ]+", arguments), "the chart names no file"
            seen["chart"] = (re.sub(" --config /[^ ]+", "", arguments).split(), [(it["name"], it["containerPort"]) for it in container["ports"]])
        assert "chart" in seen, "the chart runs no container `legation`"
    for where, value in seen.items():
        assert value == (["serve"], [("xds", 18000), ("metrics", 9090)]), where


def test_the_container_is_closed_unless_exec_opens_it():
    for name, given in SERVERS.items():
        opened = given.get("ExecuteCommand") == "enabled"
        for definition in BOTH["server", name].task_definitions()[0].values():
            (container,) = definition["containerDefinitions"]
            assert container["readonlyRootFilesystem"] is not opened
            assert container["user"] == "65532" and container["linuxParameters"]["capabilities"] == {"drop": [] if opened else ["ALL"]}


def test_the_server_has_time_to_end_its_streams():
    checks = (ROOT / "src/config/checks.rs").read_text()
    (default,) = re.findall(r"shutdown_grace, Duration::ZERO, Duration::from_secs\((\d+)\)", checks)
    (last,) = re.findall(r"const LAST_WAIT: Duration = Duration::from_secs\((\d+)\)", (ROOT / "src/app.rs").read_text())
    for definition in BOTH["server", "usual"].task_definitions()[0].values():
        (container,) = definition["containerDefinitions"]
        environment = {it["name"]: it["value"] for it in container["environment"]}
        grace = int(environment["LEGATION_SHUTDOWN_GRACE"].removesuffix("s"))
        assert grace == int(default) and container["stopTimeout"] >= 2 * (grace + int(last))


def test_the_server_knows_every_variable():
    known = set(re.findall(r'"(LEGATION_[A-Z_0-9]+)",\n', (ROOT / "src/config/environment.rs").read_text()))
    assert "LEGATION_AWS__REGION" in known
    for definition in BOTH["server", "everything"].task_definitions()[0].values():
        (container,) = definition["containerDefinitions"]
        names = {it["name"] for it in container["environment"] + container["secrets"]}
        assert names - known == {"LEGATION_SOURCE_VERSION", "LEGATION_CONFIG", "LEGATION_POLICY"}


GUIDES = ["README.md", "terraform/README.md"]


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_lead_to_files_that_are_there(guide):
    written = (DEPLOY / guide).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", written) if "://" not in link]
    assert links and all(((DEPLOY / guide).parent / link).exists() for link in links)


def test_the_guide_gives_parameters_that_are_there():
    written = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    stacks = re.findall(r"--template-file cloudformation/(\w+)\.yaml .*?--parameter-overrides (.*)", written)
    assert [kind for kind, _ in stacks] == ["server", "sidecar", "server"]
    for kind, overrides in stacks:
        given = [word.partition("=")[0] for word in overrides.split()]
        declared = template(kind)["Parameters"]
        assert given and set(given) <= set(declared)
        if len(given) > 4:
            assert {name for name, it in declared.items() if "Default" not in it} <= set(given)


def test_the_modules_in_the_guide_are_taken():
    blocks = re.findall(r'module "(\w+)" \{\n(.*?)\n\}', (DEPLOY / "terraform/README.md").read_text(), re.DOTALL)
    kinds = {"legation": "server", "checkout": "sidecar"}
    for name, body in blocks:
        given = set(re.findall(r"^  (\w+) +=", body, re.MULTILINE)) - {"source"}
        known = module(kinds[name], SERVERS["usual"] if name == "legation" else SIDECAR)
        assert known.required() <= given <= set(known.variables)
    assert len(blocks) == 2
