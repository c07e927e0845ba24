# The way of ECS's events: a rule for each watched cluster, one topic, a queue for each replica.

resource "aws_sns_topic" "topic" {
  count = local.has_events ? 1 : 0
  name  = var.name
}

# EventBridge gives SNS no context that a condition could ask for.
resource "aws_sns_topic_policy" "topic" {
  count = local.has_events ? 1 : 0
  arn   = aws_sns_topic.topic[0].arn

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sns:Publish"
      Resource  = aws_sns_topic.topic[0].arn
    }]
  })
}

resource "aws_cloudwatch_event_rule" "event_rule" {
  for_each = toset(local.has_events ? var.watched_clusters : [])

  name_prefix = "${var.name}-" # with the cluster's name it could be too long
  description = "Task events of one cluster, for Legation"

  event_pattern = jsonencode({
    "source"      = ["aws.ecs"]
    "detail-type" = ["ECS Task State Change"]
    "detail"      = { clusterArn = ["${local.ecs}:cluster/${each.key}"] }
  })
}

resource "aws_cloudwatch_event_target" "event_rule" {
  for_each = toset(local.has_events ? var.watched_clusters : [])

  rule      = aws_cloudwatch_event_rule.event_rule[each.key].name
  target_id = "topic"
  arn       = aws_sns_topic.topic[0].arn

  dead_letter_config {
    arn = aws_sqs_queue.rule_dead_letters[0].arn
  }
}

resource "aws_sqs_queue" "rule_dead_letters" {
  count = local.has_events ? 1 : 0

  name                      = "${var.name}-rules-dead-letters"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_policy" "rule_dead_letters" {
  count     = local.has_events ? 1 : 0
  queue_url = aws_sqs_queue.rule_dead_letters[0].url

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = aws_sqs_queue.rule_dead_letters[0].arn
      Condition = {
        ArnLike = { "aws:SourceArn" = "arn:${local.partition}:events:${local.region}:${local.account}:rule/*" }
      }
    }]
  })
}

resource "aws_sqs_queue" "queue" {
  for_each = toset(local.event_replicas)

  name                       = "${var.name}-${each.key}"
  message_retention_seconds  = 300 # what is older, a reading has found
  visibility_timeout_seconds = 30
  receive_wait_time_seconds  = 20
  sqs_managed_sse_enabled    = true
  redrive_policy             = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead_letters[each.key].arn, maxReceiveCount = 5 })
}

resource "aws_sqs_queue" "dead_letters" {
  for_each = toset(local.event_replicas)

  name                      = "${var.name}-${each.key}-dead-letters"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

locals {
  queue_policy = local.has_events ? jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect    = "Allow"
        Principal = { Service = "sns.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = "*" # the queue that has this policy
        Condition = { ArnEquals = { "aws:SourceArn" = aws_sns_topic.topic[0].arn } }
      },
      {
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*"
        Resource  = "*"
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  }) : ""
}

resource "aws_sqs_queue_policy" "queue" {
  for_each  = toset(local.event_replicas)
  queue_url = aws_sqs_queue.queue[each.key].url
  policy    = local.queue_policy
}

resource "aws_sqs_queue_policy" "dead_letters" {
  for_each  = toset(local.event_replicas)
  queue_url = aws_sqs_queue.dead_letters[each.key].url
  policy    = local.queue_policy
}

resource "aws_sns_topic_subscription" "subscription" {
  for_each = toset(local.event_replicas)

  topic_arn            = aws_sns_topic.topic[0].arn
  protocol             = "sqs"
  endpoint             = aws_sqs_queue.queue[each.key].arn
  raw_message_delivery = true
  redrive_policy       = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead_letters[each.key].arn })
}
