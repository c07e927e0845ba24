# What somebody should look at: events that were lost, a replica that is gone, a server that is not ready.

resource "aws_cloudwatch_metric_alarm" "dead_letters_alarm" {
  for_each = toset(local.event_replicas)

  alarm_name          = "${var.name}-${each.key}-dead-letters"
  alarm_description   = "Events of ECS could not be read or delivered; the dead-letter queue holds them"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_letters[each.key].name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 1
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
}

resource "aws_cloudwatch_metric_alarm" "rule_dead_letters_alarm" {
  count = local.has_events ? 1 : 0

  alarm_name          = "${var.name}-rules-dead-letters"
  alarm_description   = "Events of ECS did not reach the topic; the dead-letter queue of the rules holds them"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.rule_dead_letters[0].name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 1
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
}

# Each running task tells its CPU once a minute.
resource "aws_cloudwatch_metric_alarm" "replica_alarm" {
  for_each = toset(var.replicas)

  alarm_name          = "${var.name}-${each.key}-gone"
  alarm_description   = "No task of this replica runs"
  namespace           = "AWS/ECS"
  metric_name         = "CPUUtilization"
  dimensions          = { ClusterName = var.cluster, ServiceName = "${var.name}-${each.key}" }
  statistic           = "SampleCount"
  period              = 60
  evaluation_periods  = 5
  threshold           = 1
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = local.alarm_actions
}

resource "aws_cloudwatch_metric_alarm" "unhealthy_alarm" {
  alarm_name        = "${var.name}-unhealthy"
  alarm_description = "A server is not ready"
  namespace         = "AWS/NetworkELB"
  metric_name       = "UnHealthyHostCount"
  dimensions = {
    LoadBalancer = aws_lb.load_balancer.arn_suffix
    TargetGroup  = aws_lb_target_group.target_group.arn_suffix
  }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
}
