# The Legation server on ECS Fargate: one ECS service and one queue of events for each replica, behind one internal
# Network Load Balancer. It creates no VPC, no ECS cluster and no sidecar.
#
# Invariant: every replica has a queue of its own, because each needs every event; deploy/cloudformation/server.yaml describes the same.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region
  account   = data.aws_caller_identity.current.account_id
  ecs       = "arn:${local.partition}:ecs:${local.region}:${local.account}"

  has_events     = var.events == "enabled"
  event_replicas = local.has_events ? var.replicas : []
  has_exec       = var.execute_command == "enabled"
  alarm_actions  = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]

  # JSON, which is YAML too.
  config = jsonencode({
    namespaces = {
      (var.namespace) = { clusters = var.watched_clusters, cloudMap = var.cloud_map_namespaces }
    }
  })
}

resource "aws_cloudwatch_log_group" "log_group" {
  name              = "/legation/${var.name}"
  retention_in_days = var.log_retention_days
}

resource "aws_ecs_task_definition" "task_definition" {
  for_each = toset(var.replicas)

  family                   = "${var.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = split("/", var.size)[0]
  memory                   = split("/", var.size)[1]
  task_role_arn            = aws_iam_role.task_role.arn
  execution_role_arn       = aws_iam_role.execution_role.arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  container_definitions = jsonencode([{
    name                   = "legation"
    image                  = var.image
    essential              = true
    command                = ["serve"]
    user                   = "65532"
    readonlyRootFilesystem = !local.has_exec
    linuxParameters        = { initProcessEnabled = local.has_exec, capabilities = { drop = local.has_exec ? [] : ["ALL"] } }
    portMappings = [
      { name = "xds", containerPort = 18000, protocol = "tcp" },
      { name = "metrics", containerPort = 9090, protocol = "tcp" },
    ]
    environment = concat(
      [
        { name = "LEGATION_AWS__REGION", value = local.region },
        { name = "LEGATION_AWS__CALL_BUDGET_PERCENT", value = tostring(var.call_budget_percent) },
        { name = "LEGATION_SHUTDOWN_GRACE", value = "10s" },             # within stopTimeout
        { name = "LEGATION_SOURCE_VERSION", value = var.source_version } # for its change alone
      ],
      local.has_events ? [{ name = "LEGATION_ECS__QUEUE_URL", value = aws_sqs_queue.queue[each.key].url }] : [],
      var.config_source == "" ? [{ name = "LEGATION_CONFIG", value = local.config }] : [],
    )
    secrets = concat(
      var.config_source == "" ? [] : [{ name = "LEGATION_CONFIG", valueFrom = var.config_source }],
      var.policy_source == "" ? [] : [{ name = "LEGATION_POLICY", valueFrom = var.policy_source }],
    )
    # 390 s for a first reading: 95,000 tasks take 376 s at 25 percent. Who was ready once, stays so until the end.
    healthCheck = {
      command     = ["CMD", "/usr/local/bin/legation", "ready"]
      startPeriod = 300
      interval    = 10
      timeout     = 5
      retries     = 10
    }
    stopTimeout = 30
    ulimits     = [{ name = "nofile", softLimit = 65535, hardLimit = 65535 }]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.log_group.name
        "awslogs-region"        = local.region
        "awslogs-stream-prefix" = each.key
        "mode"                  = "non-blocking"
      }
    }
  }])
}

resource "aws_ecs_service" "service" {
  for_each = toset(var.replicas)

  name                               = "${var.name}-${each.key}"
  cluster                            = var.cluster
  task_definition                    = aws_ecs_task_definition.task_definition[each.key].arn
  launch_type                        = "FARGATE"
  desired_count                      = 1
  enable_execute_command             = local.has_exec
  health_check_grace_period_seconds  = 420 # not before the container's own check
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  wait_for_steady_state              = true # as CloudFormation does

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    assign_public_ip = var.assign_public_ip == "ENABLED"
    security_groups  = [aws_security_group.server_security_group.id]
    # One each, or chance may put all replicas into one zone.
    subnets = join(",", var.replicas) == "A" ? var.subnets : [var.subnets[index(["A", "B", "C"], each.key)]]
  }

  load_balancer {
    container_name   = "legation"
    container_port   = 18000
    target_group_arn = aws_lb_target_group.target_group.arn
  }

  # Three starts that fail, and the way back.
  timeouts {
    create = "45m"
    update = "45m"
  }

  # Steady it may be with the task of before.
  lifecycle {
    postcondition {
      condition     = self.task_definition == aws_ecs_task_definition.task_definition[each.key].arn
      error_message = "ECS took the deployment of ${self.name} back: its events and the log of its tasks say why."
    }
  }

  # Without these a start fails.
  depends_on = [
    aws_lb_listener.listener, aws_iam_role_policy.ecs, aws_iam_role_policy.sources, aws_iam_role_policy_attachment.execution,
    aws_vpc_security_group_egress_rule.aws, aws_vpc_security_group_egress_rule.dns, aws_vpc_security_group_egress_rule.to_servers,
    aws_vpc_security_group_ingress_rule.from_load_balancer,
  ]
}
