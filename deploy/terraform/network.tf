# The internal Network Load Balancer in front of all replicas, and who may reach what.

resource "aws_security_group" "load_balancer_security_group" {
  name_prefix = "${var.name}-lb-"
  description = "The load balancer of Legation"
  vpc_id      = var.vpc_id
}

resource "aws_security_group" "server_security_group" {
  name_prefix = "${var.name}-"
  description = "The servers of Legation"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "xds_from_cidr" {
  count = var.client_cidr == "" ? 0 : 1

  security_group_id = aws_security_group.load_balancer_security_group.id
  description       = "xDS"
  ip_protocol       = "tcp"
  from_port         = 18000
  to_port           = 18000
  cidr_ipv4         = var.client_cidr
}

resource "aws_vpc_security_group_ingress_rule" "xds_from_security_group" {
  count = var.client_security_group == "" ? 0 : 1

  security_group_id            = aws_security_group.load_balancer_security_group.id
  description                  = "xDS"
  ip_protocol                  = "tcp"
  from_port                    = 18000
  to_port                      = 18000
  referenced_security_group_id = var.client_security_group
}

resource "aws_vpc_security_group_egress_rule" "to_servers" {
  for_each = { xDS = 18000, Health = 9090 }

  security_group_id            = aws_security_group.load_balancer_security_group.id
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
  referenced_security_group_id = aws_security_group.server_security_group.id
}

resource "aws_vpc_security_group_ingress_rule" "from_load_balancer" {
  for_each = { xDS = 18000, Health = 9090 }

  security_group_id            = aws_security_group.server_security_group.id
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
  referenced_security_group_id = aws_security_group.load_balancer_security_group.id
}

resource "aws_vpc_security_group_ingress_rule" "metrics" {
  count = var.metrics_cidr == "" ? 0 : 1

  security_group_id = aws_security_group.server_security_group.id
  description       = "Metrics"
  ip_protocol       = "tcp"
  from_port         = 9090
  to_port           = 9090
  cidr_ipv4         = var.metrics_cidr
}

resource "aws_vpc_security_group_egress_rule" "aws" {
  security_group_id = aws_security_group.server_security_group.id
  description       = "AWS and the image"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_vpc_security_group_egress_rule" "dns" {
  for_each = toset(var.dns_cidr == "" ? [] : ["tcp", "udp"])

  security_group_id = aws_security_group.server_security_group.id
  description       = "DNS"
  ip_protocol       = each.key
  from_port         = 53
  to_port           = 53
  cidr_ipv4         = var.dns_cidr
}

resource "aws_lb" "load_balancer" {
  name                             = var.name
  load_balancer_type               = "network"
  internal                         = true
  subnets                          = var.subnets
  security_groups                  = [aws_security_group.load_balancer_security_group.id]
  enable_cross_zone_load_balancing = true
}

resource "aws_lb_target_group" "target_group" {
  name        = var.name
  vpc_id      = var.vpc_id
  target_type = "ip"
  protocol    = "TCP"
  port        = 18000

  # How long ECS waits before it tells a task to stop. Streams last for half an hour, so no delay waits for them: the server
  # ends them. For up to two minutes, whatever is said here, the load balancer sends some new connections to who leaves. A
  # sidecar that finds nobody dials again; to wait as long would keep two tasks on one queue, which is worse.
  deregistration_delay = "30"
  preserve_client_ip   = "false"

  health_check {
    protocol            = "HTTP"
    port                = "9090"
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }

  target_health_state {
    enable_unhealthy_connection_termination = false
  }
}

resource "aws_lb_listener" "listener" {
  load_balancer_arn = aws_lb.load_balancer.arn
  protocol          = "TCP"
  port              = 18000

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.target_group.arn
  }
}

# Evaluates no health: there is nobody else to answer with.
resource "aws_route53_record" "xds_record" {
  count = var.xds_name == "" ? 0 : 1

  zone_id = var.private_zone_id
  name    = var.xds_name
  type    = "A"

  alias {
    zone_id                = aws_lb.load_balancer.zone_id
    name                   = aws_lb.load_balancer.dns_name
    evaluate_target_health = false
  }
}
