# What the server may do, in the statements of deploy/iam, and what ECS may do to start it.

locals {
  trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
  sources = concat(
    var.config_source == "" ? [] : [var.config_source],
    var.policy_source == "" ? [] : [var.policy_source],
  )
}

resource "aws_iam_role" "task_role" {
  name_prefix        = "${var.name}-"
  assume_role_policy = local.trust
}

resource "aws_iam_role_policy" "ecs" {
  for_each = toset(var.watched_clusters)

  name = "ecs-${each.key}"
  role = aws_iam_role.task_role.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "LegationList"
        Effect    = "Allow"
        Action    = ["ecs:ListServices", "ecs:ListTasks"]
        Resource  = "*"
        Condition = { ArnEquals = { "ecs:cluster" = "${local.ecs}:cluster/${each.key}" } }
      },
      {
        Sid      = "LegationDescribe"
        Effect   = "Allow"
        Action   = ["ecs:DescribeServices", "ecs:DescribeTasks"]
        Resource = ["${local.ecs}:service/${each.key}/*", "${local.ecs}:task/${each.key}/*"]
      },
      { Sid = "LegationTaskDefinitions", Effect = "Allow", Action = ["ecs:DescribeTaskDefinition"], Resource = "*" },
      {
        Sid      = "LegationListDeployments"
        Effect   = "Allow"
        Action   = ["ecs:ListServiceDeployments"]
        Resource = "${local.ecs}:service/${each.key}/*"
      },
      {
        Sid      = "LegationDeployments"
        Effect   = "Allow"
        Action   = ["ecs:DescribeServiceDeployments", "ecs:DescribeServiceRevisions"]
        Resource = ["${local.ecs}:service-deployment/${each.key}/*/*", "${local.ecs}:service-revision/${each.key}/*/*"]
      },
      {
        Sid      = "LegationDefaultNamespace"
        Effect   = "Allow"
        Action   = ["ecs:DescribeClusters"]
        Resource = "${local.ecs}:cluster/${each.key}"
      },
      {
        Sid      = "LegationNamespaceName"
        Effect   = "Allow"
        Action   = ["servicediscovery:GetNamespace"]
        Resource = "arn:${local.partition}:servicediscovery:${local.region}:${local.account}:namespace/*"
      },
    ]
  })
}

resource "aws_iam_role_policy" "ec2" {
  for_each = toset(var.ec2_permissions == "enabled" ? var.watched_clusters : [])

  name = "ec2-${each.key}"
  role = aws_iam_role.task_role.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "LegationContainerInstances"
        Effect   = "Allow"
        Action   = ["ecs:DescribeContainerInstances"]
        Resource = "${local.ecs}:container-instance/${each.key}/*"
      },
      { Sid = "LegationInstances", Effect = "Allow", Action = ["ec2:DescribeInstances"], Resource = "*" },
    ]
  })
}

resource "aws_iam_role_policy" "cloud_map" {
  count = length(var.cloud_map_namespaces) == 0 ? 0 : 1

  name = "cloud-map"
  role = aws_iam_role.task_role.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "LegationCloudMapList"
        Effect   = "Allow"
        Action   = ["servicediscovery:ListNamespaces", "servicediscovery:ListServices"]
        Resource = "*"
      },
      {
        Sid    = "LegationCloudMapServices"
        Effect = "Allow"
        Action = [
          "servicediscovery:GetServiceAttributes",
          "servicediscovery:ListInstances",
          "servicediscovery:GetInstancesHealthStatus",
        ]
        Resource = "*"
      },
      {
        Sid       = "LegationCloudMapDiscover"
        Effect    = "Allow"
        Action    = ["servicediscovery:DiscoverInstances", "servicediscovery:DiscoverInstancesRevision"]
        Resource  = "*"
        Condition = { StringEquals = { "servicediscovery:NamespaceName" = var.cloud_map_namespaces } }
      },
    ]
  })
}

resource "aws_iam_role_policy" "assume_role" {
  count = length(var.assume_role_arns) == 0 ? 0 : 1

  name = "assume-role"
  role = aws_iam_role.task_role.name

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Sid = "LegationAssumeRole", Effect = "Allow", Action = ["sts:AssumeRole"], Resource = var.assume_role_arns }]
  })
}

resource "aws_iam_role_policy" "events" {
  for_each = toset(local.event_replicas)

  name = "events-${each.key}"
  role = aws_iam_role.task_role.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "LegationEvents"
      Effect   = "Allow"
      Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage"]
      Resource = aws_sqs_queue.queue[each.key].arn
    }]
  })
}

# What ECS Exec asks for; nothing that Legation calls.
resource "aws_iam_role_policy" "exec" {
  count = local.has_exec ? 1 : 0

  name = "exec"
  role = aws_iam_role.task_role.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid    = "EcsExec"
      Effect = "Allow"
      Action = [
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
      ]
      Resource = "*"
    }]
  })
}

resource "aws_iam_role" "execution_role" {
  name_prefix        = "${var.name}-"
  assume_role_policy = local.trust
}

resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.execution_role.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_iam_role_policy" "sources" {
  count = length(local.sources) == 0 ? 0 : 1

  name = "sources"
  role = aws_iam_role.execution_role.name

  # Which service an ARN is of does not matter: each action is matched to its own kind of resource.
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = ["ssm:GetParameters", "secretsmanager:GetSecretValue"], Resource = local.sources }]
  })
}
