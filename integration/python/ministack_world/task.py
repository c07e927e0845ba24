"""One task and its containers, from PROVISIONING to STOPPED.

A thread leads a task through its life; what it waits for (a container that ended, a health check, a stop that
was asked for) is a change of the estate. Invariant: fields change under the estate's lock and are published
before it is left, and no call of Docker is made under it.
"""

import logging
import secrets
import threading
import time

from dockerside import Refused

RUNNING, STOPPED = "RUNNING", "STOPPED"
ENDED_BY_ITSELF = ("EssentialContainerExited", "TaskFailedToStart")
log = logging.getLogger("task")


class Closing(Exception):
    """The program ends; `sweep` removes what is left."""


class Container:
    def __init__(self, definition, override):
        own = {key: value for key, value in override.items() if key in ("command", "memory")}
        self.definition = definition | own
        self.overridden = {pair["name"]: pair["value"] for pair in override.get("environment", [])}
        self.name = definition["name"]
        self.essential = definition.get("essential", True)
        self.checked = "healthCheck" in definition
        self.depends_on = {it["containerName"]: it["condition"] for it in definition.get("dependsOn", [])}
        self.token = secrets.token_hex(16)  # its part of the metadata endpoint
        self.docker_id = None  # once it is made
        self.started = None
        self.exit_code = None
        self.noticed = False  # that it ended
        self.health = "UNKNOWN"
        self.kill_at = None  # set by SIGTERM

    @property
    def status(self):
        if self.exit_code is not None and self.noticed:
            return STOPPED
        return RUNNING if self.started else "PENDING"

    @property
    def runs(self):
        return self.started is not None and self.exit_code is None

    def reached(self, condition):
        """Whether one that depends on this may start."""
        ended = self.exit_code is not None
        if (condition == "SUCCESS" and ended and self.exit_code) or (condition == "HEALTHY" and ended):
            raise Refused(f"dependency {self.name} did not reach {condition}: it ended with {self.exit_code}")
        return {
            "START": self.started is not None,
            "COMPLETE": ended,
            "SUCCESS": ended,
            "HEALTHY": self.health == "HEALTHY",
        }[condition]

    def start_limit(self):
        """Until when those that depend on this wait for it."""
        limit = self.definition.get("startTimeout")
        return self.started + limit if limit and self.started else float("inf")


class Task:
    def __init__(self, estate, account, region, cluster, definition, order):
        self.estate, self.account, self.region, self.cluster = estate, account, region, cluster
        self.definition = definition
        self.id = secrets.token_hex(16)
        self.arn = f"arn:aws:ecs:{region}:{account}:task/{cluster}/{self.id}"
        self.group = order.get("group") or f"family:{definition['family']}"
        self.service = self.group.removeprefix("service:") if self.group.startswith("service:") else None
        self.label = self.service or definition["family"]
        self.started_by = order.get("startedBy")
        self.launch_type = order.get("launchType") or "FARGATE"
        self.overrides = order.get("overrides") or {}
        self.zone = estate.zone(self.group, cluster)
        overrides = {it["name"]: it for it in self.overrides.get("containerOverrides", [])}
        each = definition["containerDefinitions"]
        self.containers = {it["name"]: Container(it, overrides.get(it["name"], {})) for it in each}
        self.version = 0
        self.desired, self.last_status = RUNNING, None
        self.stop_code = self.stopped_reason = None
        self.times = {"createdAt": time.time()}
        self.address = self.mac = None
        self.registered = []  # ids of Cloud Map services

    # What others ask of it, under the lock.

    @property
    def ready(self):
        """What a rolling deployment counts: it runs, and essential containers pass their checks."""
        checks = (it for it in self.containers.values() if it.essential and it.checked)
        runs = self.last_status == RUNNING and self.desired == RUNNING
        return runs and all(it.health == "HEALTHY" for it in checks)

    @property
    def health(self):
        """ECS: unhealthy if one essential container is, healthy if all are."""
        found = {it.health for it in self.containers.values() if it.essential}
        return next((it for it in ("UNHEALTHY", "UNKNOWN") if it in found), "HEALTHY")

    def stop(self, code, reason):
        """The first visible sign of a stop. A task whose container ended, or that never started, is seen
        DEPROVISIONING at once; one that is asked to stop is still RUNNING."""
        if self.desired == STOPPED:
            return
        self.desired, self.stop_code, self.stopped_reason = STOPPED, code, reason
        self.times["stoppingAt"] = time.time()
        for container in self.containers.values():
            container.noticed = True
        self.estate.registry.leave(self)
        self.advance("DEPROVISIONING" if code in ENDED_BY_ITSELF else self.last_status)

    def advance(self, status):
        """Another version, of which an event tells."""
        self.last_status = status
        self.version += 1
        self.estate.publish(self, event=True)

    def environment(self, container):
        base = {
            "ECS_CONTAINER_METADATA_URI_V4": self.estate.metadata_uri(container),
            "AWS_EXECUTION_ENV": f"AWS_ECS_{self.launch_type}",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }
        own = {pair["name"]: pair["value"] for pair in container.definition.get("environment", [])}
        return base | own | container.overridden

    def labels(self, container):
        return container.definition.get("dockerLabels", {}) | {
            "com.amazonaws.ecs.cluster": self.cluster,
            "com.amazonaws.ecs.container-name": container.name,
            "com.amazonaws.ecs.task-arn": self.arn,
            "com.amazonaws.ecs.task-definition-family": self.definition["family"],
            "com.amazonaws.ecs.task-definition-version": str(self.definition["revision"]),
        }

    # Its life, in its own thread.

    def begin(self):
        self.advance("PROVISIONING")
        threading.Thread(target=self._live, daemon=True, name=f"task-{self.id[:12]}").start()

    def _live(self):
        changed = self.estate.changed
        try:
            try:
                self._provision()
                self._start_containers()
                self._until(self._is_over)
                with changed:
                    self.stop("EssentialContainerExited", "Essential container in task exited")
            except Refused as refused:
                log.warning("%s %s failed to start: %s", self.label, self.id, refused)
                with changed:
                    self.stop("TaskFailedToStart", str(refused))
            self._stop_containers()
            self._release()
        except Closing:
            pass

    def _until(self, holds, seconds=None):
        with self.estate.changed:
            self.estate.changed.wait_for(lambda: self.estate.closing or holds(), seconds)
            if self.estate.closing:
                raise Closing

    def _is_over(self):
        ended = (it.essential and it.exit_code is not None and it.noticed for it in self.containers.values())
        return self.desired == STOPPED or any(ended)

    def _provision(self):
        address, mac = self.estate.docker.provision(self)
        with self.estate.changed:
            self.address, self.mac = address, mac
            self.times["connectivityAt"] = self.times["pullStartedAt"] = time.time()
            if self.desired == RUNNING:
                self.advance("PENDING")

    def _start_containers(self):
        waiting = list(self.containers.values())
        while waiting:
            container = self._next_to_start(waiting)
            if container is None:
                return
            waiting.remove(container)
            container.docker_id = self.estate.docker.create(self, container)
            self.estate.docker.start(container)
            with self.estate.changed:
                container.started = time.monotonic()
                self.estate.publish(self)
        with self.estate.changed:
            if not self._is_over():
                self.times["pullStoppedAt"] = self.times["startedAt"] = time.time()
                self.advance(RUNNING)
                self.estate.registry.join(self)

    def _next_to_start(self, waiting):
        """Waits for a container whose dependencies are met; None if the task is to end before."""
        while True:
            with self.estate.changed:
                if self._is_over():
                    return None
                for container in waiting:
                    if all(self.containers[name].reached(it) for name, it in container.depends_on.items()):
                        return container
                limits = [self.containers[name].start_limit() for it in waiting for name in it.depends_on]
                seconds = min(limits) - time.monotonic()
                if seconds <= 0:
                    raise Refused("a dependency did not reach its condition within its startTimeout")
                if self.estate.closing:
                    raise Closing
                self.estate.changed.wait(None if seconds == float("inf") else seconds)

    def _stop_containers(self):
        """SIGTERM to each container once those that depend on it have ended, SIGKILL after its stopTimeout."""
        self._until(lambda: False, self.estate.options.stop_delay)
        while True:
            with self.estate.changed:
                running = [it for it in self.containers.values() if it.runs]
                needed = {name for it in running for name in it.depends_on}
                to_end = [it for it in running if it.kill_at is None and it.name not in needed]
                to_kill = [it for it in running if it.kill_at is not None and it.kill_at <= time.monotonic()]
                for container in to_end:
                    container.kill_at = time.monotonic() + container.definition.get("stopTimeout", 30)
                for container in to_kill:
                    container.kill_at = float("inf")
            if not running:
                return
            for container in to_end:
                self.estate.docker.signal(self, container, "SIGTERM")
            for container in to_kill:
                self.estate.docker.signal(self, container, "SIGKILL")
            self._wait_for_an_end(running)

    def _wait_for_an_end(self, running):
        limits = [it.kill_at for it in running if it.kill_at is not None]
        seconds = min(limits) - time.monotonic()
        self._until(lambda: not all(it.runs for it in running), None if seconds == float("inf") else max(0, seconds))

    def _release(self):
        docker = self.estate.docker
        with self.estate.changed:
            self.times["executionStoppedAt"] = time.time()
            if self.last_status != "DEPROVISIONING":
                self.advance("DEPROVISIONING")
        docker.remove(self)
        self._until(lambda: False, self.estate.options.deprovisioning)
        docker.remove(self, pause=True)
        with self.estate.changed:
            self.times["stoppedAt"] = time.time()
            self.advance(STOPPED)
