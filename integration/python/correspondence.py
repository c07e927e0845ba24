"""Which property of a CloudFormation resource is which argument of a Terraform resource.

It knows the resources of deploy/ alone. Invariant: a property or argument that is in no table is an error, so nothing of the
two stays uncompared. Terraform may say more in two ways: names, where CloudFormation makes them up, and that it waits for a
service, as CloudFormation does always.
"""

import json

from cloudformation import snake

ALARM = {
    "AlarmDescription": "alarm_description", "Namespace": "namespace", "MetricName": "metric_name", "Dimensions": "dimensions",
    "Statistic": "statistic", "Period": "period", "EvaluationPeriods": "evaluation_periods", "Threshold": "threshold",
    "ComparisonOperator": "comparison_operator", "TreatMissingData": "treat_missing_data", "AlarmActions": "alarm_actions",
}
OTHERS = {
    "AWS::Logs::LogGroup": ("aws_cloudwatch_log_group", {"LogGroupName": "name", "RetentionInDays": "retention_in_days"}),
    "AWS::SQS::Queue": ("aws_sqs_queue", {
        "MessageRetentionPeriod": "message_retention_seconds",
        "VisibilityTimeout": "visibility_timeout_seconds",
        "ReceiveMessageWaitTimeSeconds": "receive_wait_time_seconds",
        "SqsManagedSseEnabled": "sqs_managed_sse_enabled",
        "RedrivePolicy": "redrive_policy",
    }),
    "AWS::SNS::Subscription": ("aws_sns_topic_subscription", {
        "TopicArn": "topic_arn", "Protocol": "protocol", "Endpoint": "endpoint", "RawMessageDelivery": "raw_message_delivery",
        "RedrivePolicy": "redrive_policy",
    }),
    "AWS::CloudWatch::Alarm": ("aws_cloudwatch_metric_alarm", ALARM),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": ("aws_lb", {
        "Type": "load_balancer_type", "Scheme": "internal", "Subnets": "subnets", "SecurityGroups": "security_groups",
        "LoadBalancerAttributes/load_balancing.cross_zone.enabled": "enable_cross_zone_load_balancing",
    }),
    "AWS::ElasticLoadBalancingV2::TargetGroup": ("aws_lb_target_group", {
        "VpcId": "vpc_id", "TargetType": "target_type", "Protocol": "protocol", "Port": "port",
        "HealthCheckProtocol": "health_check/protocol", "HealthCheckPort": "health_check/port",
        "HealthCheckPath": "health_check/path", "Matcher/HttpCode": "health_check/matcher",
        "HealthCheckIntervalSeconds": "health_check/interval", "HealthCheckTimeoutSeconds": "health_check/timeout",
        "HealthyThresholdCount": "health_check/healthy_threshold", "UnhealthyThresholdCount": "health_check/unhealthy_threshold",
        "TargetGroupAttributes/deregistration_delay.timeout_seconds": "deregistration_delay",
        "TargetGroupAttributes/preserve_client_ip.enabled": "preserve_client_ip",
        "TargetGroupAttributes/target_health_state.unhealthy.connection_termination.enabled":
            "target_health_state/enable_unhealthy_connection_termination",
    }),
    "AWS::ElasticLoadBalancingV2::Listener": ("aws_lb_listener", {
        "LoadBalancerArn": "load_balancer_arn", "Protocol": "protocol", "Port": "port",
        "DefaultActions/Type": "default_action/type", "DefaultActions/TargetGroupArn": "default_action/target_group_arn",
    }),
    "AWS::Route53::RecordSet": ("aws_route53_record", {
        "HostedZoneId": "zone_id", "Name": "name", "Type": "type", "AliasTarget/HostedZoneId": "alias/zone_id",
        "AliasTarget/DNSName": "alias/name", "AliasTarget/EvaluateTargetHealth": "alias/evaluate_target_health",
    }),
}
NETWORK = "NetworkConfiguration/AwsvpcConfiguration"
BREAKER = "DeploymentConfiguration/DeploymentCircuitBreaker"
SERVICES = {
    "AWS::ECS::Service": ("aws_ecs_service", {
        "ServiceName": "name", "Cluster": "cluster", "TaskDefinition": "task_definition", "LaunchType": "launch_type",
        "DesiredCount": "desired_count", "EnableExecuteCommand": "enable_execute_command",
        "HealthCheckGracePeriodSeconds": "health_check_grace_period_seconds",
        "DeploymentConfiguration/MinimumHealthyPercent": "deployment_minimum_healthy_percent",
        "DeploymentConfiguration/MaximumPercent": "deployment_maximum_percent",
        f"{BREAKER}/Enable": "deployment_circuit_breaker/enable", f"{BREAKER}/Rollback": "deployment_circuit_breaker/rollback",
        f"{NETWORK}/AssignPublicIp": "network_configuration/assign_public_ip",
        f"{NETWORK}/SecurityGroups": "network_configuration/security_groups",
        f"{NETWORK}/Subnets": "network_configuration/subnets",
        "LoadBalancers/ContainerName": "load_balancer/container_name",
        "LoadBalancers/ContainerPort": "load_balancer/container_port",
        "LoadBalancers/TargetGroupArn": "load_balancer/target_group_arn",
    }),
}
# Words for what the other says by true or false.
WORDS = {"ENABLED": "true", "DISABLED": "false", "internal": "true", "internet-facing": "false"}
MADE_UP = {"name", "alarm_name"}
WAITS = {"wait_for_steady_state", "timeouts/create", "timeouts/update"}


def flat(value, path=""):
    """Every leaf by its path. Of a list with one structure that structure, of a list of keys with values the values."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        keys = "Key" if "Key" in value[0] else "Name" if "Name" in value[0] else None
        value = {it[keys]: it["Value"] for it in value} if keys else _only(value)
    # Names of dimensions and of a policy's keys are no properties: these are leaves.
    if isinstance(value, dict) and not path.endswith(("Dimensions", "dimensions", "RedrivePolicy")):
        return {leaf: it for key, inner in value.items() for leaf, it in flat(inner, f"{path}/{key}").items()}
    return {path[1:]: value}


def _only(items):
    (item,) = items
    return item


def plain(value):
    """A leaf in one form: numbers, truth and words for it as text, JSON as what it says."""
    if isinstance(value, str) and value.startswith("{"):
        return plain(json.loads(value))
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    word = str(value).lower() if isinstance(value, bool) else str(value)
    return WORDS.get(word, word)


def compared(tables, stack, module):
    """Everything of these kinds by noun and replica: what CloudFormation says, and what Terraform."""
    ours, theirs = {}, {}
    for kind, (other, table) in tables.items():
        for name, properties in stack.of_type(kind).items():
            replica = name[-1] if name[-1] in "ABC" and name[:-1] + "A" in stack.raw else None
            noun = snake(name.removesuffix(replica or ""))
            leaves = flat(properties)
            assert set(leaves) <= set(table), f"{name}: {set(leaves) - set(table)} is compared with nothing"
            ours[other, noun, replica] = {table[path]: plain(value) for path, value in leaves.items()}
        for _, noun, key, body in module.instances(other):
            leaves = flat(body)
            strangers = set(leaves) - set(table.values()) - MADE_UP - WAITS
            assert not strangers, f"{other}.{noun}: {strangers} is compared with nothing"
            theirs[other, noun, key] = {path: plain(value) for path, value in leaves.items() if path in table.values()}
    return ours, theirs
