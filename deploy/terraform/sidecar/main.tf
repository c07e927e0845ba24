# An example of an ECS service whose tasks carry a sidecar: an init container writes the bootstrap of a stock Envoy, and
# `legation sidecar run` starts Envoy and the application, so that a stop loses no request. It creates neither the server nor a
# network; deploy/cloudformation/sidecar.yaml describes the same.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  no_proxy = "169.254.170.2,169.254.169.254,127.0.0.1,localhost"
  logs = {
    for name in ["init", "envoy", "app"] : name => {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.log_group.name
        "awslogs-region"        = data.aws_region.current.region
        "awslogs-stream-prefix" = name
      }
    }
  }
}

resource "aws_cloudwatch_log_group" "log_group" {
  name              = "/legation/${var.service_name}"
  retention_in_days = var.log_retention_days
}

resource "aws_iam_role" "execution_role" {
  name_prefix = "${substr(var.service_name, 0, 32)}-"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.execution_role.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_ecs_task_definition" "task_definition" {
  family                   = var.service_name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = "512"
  memory                   = "1024"
  execution_role_arn       = aws_iam_role.execution_role.arn
  task_role_arn            = var.task_role_arn == "" ? null : var.task_role_arn

  volume {
    name = "mesh"
  }

  container_definitions = jsonencode([
    {
      name             = "legation-init"
      image            = var.image
      essential        = false # it ends when the bootstrap is written
      user             = "0"   # the volume belongs to root
      command          = ["bootstrap", "--server", var.xds_address, "--out", "/mesh/envoy.yaml", "--copy-self", "/mesh/bin/legation", "--container-port", tostring(var.app_port)]
      dockerLabels     = { "legation.namespace" = var.namespace } # read here: the others are not there yet for who asks
      mountPoints      = [{ sourceVolume = "mesh", containerPath = "/mesh" }]
      logConfiguration = local.logs["init"]
    },
    {
      name       = "envoy"
      image      = var.envoy_image
      essential  = true
      user       = "65532"
      memory     = 256
      entryPoint = ["/mesh/bin/legation", "sidecar", "run", "--drain", "20s", "--"]
      command    = ["/usr/local/bin/envoy", "-c", "/mesh/envoy.yaml"]
      dependsOn  = [{ containerName = "legation-init", condition = "SUCCESS" }]
      # Slow to give up, or a moment without CPU would end the task just when it is needed.
      healthCheck      = { command = ["CMD", "/mesh/bin/legation", "sidecar", "ready"], startPeriod = 120, interval = 5, timeout = 3, retries = 10 }
      startTimeout     = 120
      stopTimeout      = 120
      ulimits          = [{ name = "nofile", softLimit = 65535, hardLimit = 65535 }]
      mountPoints      = [{ sourceVolume = "mesh", containerPath = "/mesh", readOnly = true }]
      logConfiguration = local.logs["envoy"]
    },
    {
      name         = "app"
      image        = var.app_image
      essential    = true
      entryPoint   = ["/mesh/bin/legation", "sidecar", "run", "--hold", "5s", "--"]
      command      = var.app_command
      portMappings = [{ name = "http", containerPort = var.app_port, protocol = "tcp", appProtocol = "http" }]
      # So that http://payments:8080 needs no name server; NO_PROXY keeps AWS's own addresses out.
      environment = [
        { name = "HTTP_PROXY", value = "http://127.0.0.1:15001" },
        { name = "http_proxy", value = "http://127.0.0.1:15001" },
        { name = "NO_PROXY", value = local.no_proxy },
        { name = "no_proxy", value = local.no_proxy },
      ]
      dockerLabels = { "legation.namespace" = var.namespace }             # which makes the service a member
      dependsOn    = [{ containerName = "envoy", condition = "HEALTHY" }] # reversed at a stop: the application goes first
      # Without it the task would count as ready when Envoy is.
      healthCheck      = { command = concat(["CMD"], var.app_health_command), startPeriod = 10, interval = 5, timeout = 2, retries = 3 }
      stopTimeout      = 60
      mountPoints      = [{ sourceVolume = "mesh", containerPath = "/mesh", readOnly = true }]
      logConfiguration = local.logs["app"]
    },
  ])
}

resource "aws_ecs_service" "service" {
  name                               = var.service_name
  cluster                            = var.cluster
  task_definition                    = aws_ecs_task_definition.task_definition.arn
  launch_type                        = "FARGATE"
  desired_count                      = var.desired_count
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  wait_for_steady_state              = true # as CloudFormation does

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    assign_public_ip = var.assign_public_ip == "ENABLED"
    security_groups  = var.security_groups
    subnets          = var.subnets
  }

  # Steady it may be with the tasks of before.
  lifecycle {
    postcondition {
      condition     = self.task_definition == aws_ecs_task_definition.task_definition.arn
      error_message = "ECS took the deployment of ${self.name} back: its events and the log of its tasks say why."
    }
  }

  depends_on = [aws_iam_role_policy_attachment.execution]
}
