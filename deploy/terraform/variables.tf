# What the server needs to know: the parameters of deploy/cloudformation/server.yaml under the same names in snake case. Only
# `name` is new; it stands for the stack's name.

variable "name" {
  description = "What everything here is called by"
  type        = string
  default     = "legation"

  validation {
    condition     = can(regex("^[a-zA-Z]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?$", var.name))
    error_message = "name has 1 to 32 letters, digits and hyphens, a letter first and no hyphen last."
  }

  validation {
    condition     = !startswith(lower(var.name), "internal-") && !startswith(lower(var.name), "sg-")
    error_message = "name may not begin with internal- or sg-, which AWS keeps for names of its own."
  }
}

variable "vpc_id" {
  description = "The VPC of the load balancer and the tasks"
  type        = string
}

variable "subnets" {
  description = "Private subnets, one of each zone; replica A runs in the first, B in the second, C in the third"
  type        = list(string)

  validation {
    condition     = length(var.subnets) >= length(var.replicas)
    error_message = "subnets has fewer entries than replicas: each replica runs in one of its own."
  }
}

variable "cluster" {
  description = "The name of the ECS cluster that the server runs in"
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9_-]{1,255}$", var.cluster))
    error_message = "cluster is the name of a cluster, such as `control`, and no ARN."
  }
}

variable "image" {
  description = "The image of Legation, best by its digest"
  type        = string

  validation {
    condition     = length(var.image) > 0
    error_message = "image is empty."
  }
}

variable "replicas" {
  description = "The replicas by letter; A alone for a first trial, A,B or A,B,C else"
  type        = list(string)
  default     = ["A", "B"]

  validation {
    condition     = length(var.replicas) > 0 && alltrue([for replica in var.replicas : contains(["A", "B", "C"], replica)])
    error_message = "replicas is one to three of \"A\", \"B\" and \"C\"."
  }
}

variable "namespace" {
  description = "The mesh namespace, unless config_source says all"
  type        = string
  default     = "prod"

  validation {
    condition     = can(regex("^[a-z0-9_.-]{1,127}$", var.namespace))
    error_message = "namespace has 1 to 127 of a-z, 0-9, `_`, `-` and `.`."
  }
}

variable "watched_clusters" {
  description = "The names of the ECS clusters to watch, in this account and Region"
  type        = list(string)

  validation {
    condition     = length(var.watched_clusters) > 0 && alltrue([for name in var.watched_clusters : can(regex("^[a-zA-Z0-9_-]{1,124}$", name))])
    error_message = "watched_clusters has at least one name of a cluster, such as `prod-a`, each of up to 124 characters, and no ARN."
  }
}

variable "cloud_map_namespaces" {
  description = "The HTTP names of Cloud Map namespaces whose services are members too; empty for none"
  type        = list(string)
  default     = []
}

variable "config_source" {
  description = "The ARN of an SSM parameter or a secret that holds the whole configuration as YAML; else it follows from the variables above"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:[^:]+:(ssm:[^:]+:[^:]+:parameter/|secretsmanager:[^:]+:[^:]+:secret:)[^:]+)?$", var.config_source))
    error_message = "config_source is the ARN of an SSM parameter or of a whole secret, without a key behind it."
  }
}

variable "policy_source" {
  description = "The ARN of an SSM parameter or a secret that holds a policy as YAML; empty for none"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:[^:]+:(ssm:[^:]+:[^:]+:parameter/|secretsmanager:[^:]+:[^:]+:secret:)[^:]+)?$", var.policy_source))
    error_message = "policy_source is the ARN of an SSM parameter or of a whole secret, without a key behind it."
  }
}

variable "source_version" {
  description = "Any text; another one starts the tasks anew, which read config_source and policy_source again"
  type        = string
  default     = "1"
}

variable "events" {
  description = "Whether ECS's events come by queues; without them a stop is seen when its cluster is read next"
  type        = string
  default     = "enabled"

  validation {
    condition     = contains(["enabled", "disabled"], var.events)
    error_message = "events is enabled or disabled."
  }
}

variable "client_cidr" {
  description = "The addresses that sidecars call from, as a CIDR; or say client_security_group"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([0-9.]+/[0-9]+)?$", var.client_cidr))
    error_message = "client_cidr is a CIDR, such as 10.0.0.0/16."
  }

  validation {
    condition     = var.client_cidr != "" || var.client_security_group != ""
    error_message = "Say who may ask for xDS, by client_cidr or client_security_group."
  }
}

variable "client_security_group" {
  description = "The security group of tasks with sidecars; or say client_cidr"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(sg-[0-9a-f]+)?$", var.client_security_group))
    error_message = "client_security_group is the id of a security group."
  }
}

variable "metrics_cidr" {
  description = "Who may read metrics and health on port 9090, as a CIDR, such as the VPC's; empty for the load balancer alone"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([0-9.]+/[0-9]+)?$", var.metrics_cidr))
    error_message = "metrics_cidr is a CIDR, such as 10.0.0.0/16."
  }
}

variable "dns_cidr" {
  description = "Name servers of your own that the VPC's DHCP options name, as a CIDR; empty for the VPC's own, which no security group stops"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([0-9.]+/[0-9]+)?$", var.dns_cidr))
    error_message = "dns_cidr is a CIDR, such as 10.0.0.0/28."
  }
}

variable "private_zone_id" {
  description = "The Route 53 hosted zone, private to the VPCs of the sidecars, that xds_name is in; empty for no name"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(Z[A-Z0-9]{1,31})?$", var.private_zone_id))
    error_message = "private_zone_id is the id of a hosted zone alone, such as Z0123456789ABCDEFGHIJ, without /hostedzone/ before it."
  }
}

variable "xds_name" {
  description = "A name for the load balancer, such as legation.prod.internal, which stays when this is made anew; it needs private_zone_id"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([a-z0-9_-]+([.][a-z0-9_-]+)+)?$", var.xds_name))
    error_message = "xds_name is a whole DNS name, such as legation.prod.internal."
  }

  validation {
    condition     = (var.xds_name == "") == (var.private_zone_id == "")
    error_message = "Give xds_name and private_zone_id together."
  }
}

variable "assign_public_ip" {
  description = "ENABLED in public subnets without a NAT gateway, where the tasks reach AWS and the image no other way"
  type        = string
  default     = "DISABLED"

  validation {
    condition     = contains(["DISABLED", "ENABLED"], var.assign_public_ip)
    error_message = "assign_public_ip is DISABLED or ENABLED."
  }
}

variable "cpu_architecture" {
  description = "The architecture of the tasks"
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "cpu_architecture is X86_64 or ARM64."
  }
}

variable "size" {
  description = "CPU units and MiB of memory of each task, in pairs that Fargate takes"
  type        = string
  default     = "512/1024"

  validation {
    condition = contains([
      "256/512", "256/1024", "512/1024", "512/2048", "512/4096", "1024/2048", "1024/4096", "1024/8192",
      "2048/4096", "2048/8192", "4096/8192", "4096/16384",
    ], var.size)
    error_message = "size is a pair that Fargate takes, such as 512/1024 or 1024/4096."
  }
}

variable "call_budget_percent" {
  description = "How much of what AWS allows the account each replica may call, in percent; 50 shared by all is a good value. With 25 a start is in time for up to 95,000 tasks"
  type        = number
  default     = 25

  validation {
    condition     = var.call_budget_percent >= 1 && var.call_budget_percent <= 100000
    error_message = "call_budget_percent is 1 to 100000."
  }
}

variable "ec2_permissions" {
  description = "Whether the server may ask for addresses of EC2 instances, for tasks of network modes bridge and host"
  type        = string
  default     = "disabled"

  validation {
    condition     = contains(["enabled", "disabled"], var.ec2_permissions)
    error_message = "ec2_permissions is enabled or disabled."
  }
}

variable "assume_role_arns" {
  description = "Roles that config_source names in assumeRole; empty for none"
  type        = list(string)
  default     = []
}

variable "execute_command" {
  description = "Whether ECS Exec may run the legation command in the tasks; it needs a root filesystem that can be written to"
  type        = string
  default     = "disabled"

  validation {
    condition     = contains(["enabled", "disabled"], var.execute_command)
    error_message = "execute_command is enabled or disabled."
  }
}

variable "log_retention_days" {
  description = "How many days logs are kept"
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1827, 3653], var.log_retention_days)
    error_message = "log_retention_days is a period that CloudWatch Logs has, such as 14, 30 or 90."
  }
}

variable "alarm_topic_arn" {
  description = "The SNS topic that alarms tell; empty for none"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:[^:]+:sns:.+)?$", var.alarm_topic_arn))
    error_message = "alarm_topic_arn is the ARN of an SNS topic."
  }
}
