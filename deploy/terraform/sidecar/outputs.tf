output "task_definition_arn" {
  description = "The revision of the task definition that runs"
  value       = aws_ecs_task_definition.task_definition.arn
}
