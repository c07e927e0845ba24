output "xds_address" {
  description = "What sidecars give to legation bootstrap --server"
  value       = "${var.xds_name == "" ? aws_lb.load_balancer.dns_name : var.xds_name}:18000"
}

output "task_role_arn" {
  description = "What roles of assume_role_arns must trust"
  value       = aws_iam_role.task_role.arn
}

output "server_security_group_id" {
  description = "The security group of the servers"
  value       = aws_security_group.server_security_group.id
}

output "log_group_name" {
  description = "Where the servers log"
  value       = aws_cloudwatch_log_group.log_group.name
}
