# The parameters of deploy/cloudformation/sidecar.yaml under the same names in snake case.

variable "service_name" {
  description = "The ECS service, which is also its name in the mesh"
  type        = string
  default     = "checkout"

  validation {
    condition     = can(regex("^[a-zA-Z0-9_-]{1,64}$", var.service_name))
    error_message = "service_name has 1 to 64 letters, digits, `_` and `-`."
  }
}

variable "cluster" {
  description = "The name of an ECS cluster that the server watches"
  type        = string
}

variable "subnets" {
  description = "The subnets of the tasks"
  type        = list(string)
}

variable "security_groups" {
  description = "The security groups of the tasks; they must let other tasks of the mesh reach app_port"
  type        = list(string)
}

variable "xds_address" {
  description = "Where the server is, as the output xds_address of the server's module says"
  type        = string

  validation {
    condition     = can(regex("^[^/:]+:[0-9]+$", var.xds_address))
    error_message = "xds_address is a host and a port, such as `legation.prod.internal:18000`."
  }
}

variable "namespace" {
  description = "The mesh namespace"
  type        = string
  default     = "prod"

  validation {
    condition     = can(regex("^[a-z0-9_.-]{1,127}$", var.namespace))
    error_message = "namespace has 1 to 127 of a-z, 0-9, `_`, `-` and `.`."
  }
}

variable "image" {
  description = "The image of Legation, best by its digest"
  type        = string
}

variable "envoy_image" {
  description = "A copy of your own of the image of a stock Envoy, 1.36 to 1.40, such as distroless-v1.40.0, best by its digest"
  type        = string
}

variable "app_image" {
  description = "The image of the application"
  type        = string
}

variable "app_command" {
  description = "How the application is started: its program and arguments"
  type        = list(string)
  default     = ["/app/server"]
}

variable "app_health_command" {
  description = "What ECS runs in the application's container to know whether it serves: a program and its arguments"
  type        = list(string)
  default     = ["/app/server", "health"]
}

variable "app_port" {
  description = "The port that the application listens on"
  type        = number
  default     = 8080

  validation {
    condition     = var.app_port >= 1 && var.app_port <= 65535
    error_message = "app_port is 1 to 65535."
  }
}

variable "desired_count" {
  description = "How many tasks"
  type        = number
  default     = 2
}

variable "assign_public_ip" {
  description = "ENABLED in public subnets without a NAT gateway"
  type        = string
  default     = "DISABLED"

  validation {
    condition     = contains(["DISABLED", "ENABLED"], var.assign_public_ip)
    error_message = "assign_public_ip is DISABLED or ENABLED."
  }
}

variable "task_role_arn" {
  description = "The role of the application; the sidecar needs none"
  type        = string
  default     = ""
}

variable "log_retention_days" {
  description = "How many days logs are kept"
  type        = number
  default     = 30
}
