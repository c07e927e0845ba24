"""What a task is in Docker: a container that holds the network namespace, one for each container of the task
that joins it, and a volume for each volume of the task definition.

It decides nothing about tasks; it does what `task` asks and says which containers ended or changed their health.
Invariant: everything that it makes bears LABEL with this process's id, and nothing else is ever removed.
"""

import logging
import os
import threading
import time
import uuid
from ipaddress import ip_network
from pathlib import Path

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.types import Healthcheck, Ulimit

LABEL = "legation.ministack"
TASK, CONTAINER = LABEL + ".task", LABEL + ".container"
SECOND = 1_000_000_000  # Docker's durations are in nanoseconds
log = logging.getLogger("docker")


class Refused(Exception):
    """Docker refused to start something; the text is one that ECS would use as the stopped reason."""


class Docker:
    def __init__(self, options):
        self.options = options
        self.id = uuid.uuid4().hex
        try:
            self.client = docker.from_env(timeout=120, max_pool_size=64)
        except DockerException as error:
            raise SystemExit(f"no Docker where DOCKER_HOST ({os.environ.get('DOCKER_HOST')}) says: {error}")

    def gateway(self):
        """The host's address in the network: what is configured, or the first of the subnet, which Docker takes."""
        name = self.options.network
        try:
            config = self.client.networks.get(name).attrs["IPAM"]["Config"][0]
            return config.get("Gateway") or str(ip_network(config["Subnet"])[1])
        except (NotFound, KeyError, IndexError, TypeError) as error:
            raise SystemExit(f"Docker network {name}: no gateway is known ({error}); create it or give --gateway")

    def name(self, task, part):
        return f"{self.options.prefix}{task.id[:12]}-{part}"

    def labels(self, task, part):
        return {LABEL: self.id, TASK: task.id, CONTAINER: part}

    def provision(self, task):
        """Makes a task's network namespace and volumes; tells its address and MAC."""
        try:
            for volume in task.definition.get("volumes", []):
                if not volume.get("host", {}).get("sourcePath"):
                    name = self.name(task, volume["name"])
                    self.client.volumes.create(name, labels=self.labels(task, volume["name"]))
            pause = self.client.containers.create(
                self.options.pause_image,
                self.options.pause_command,
                name=self.name(task, "pause"),
                hostname=task.id,
                network=self.options.network,
                labels=self.labels(task, ""),
                use_config_proxy=False,
            )
            pause.start()
            pause.reload()
        except DockerException as error:
            raise Refused(f"ResourceInitializationError: {error}") from error
        place = pause.attrs["NetworkSettings"]["Networks"][self.options.network]
        return place["IPAddress"], place["MacAddress"]

    def create(self, task, container):
        """Makes one container of a task, in the task's network namespace; tells its id."""
        own = container.definition
        try:
            made = self.client.containers.create(
                own["image"],
                own.get("command"),
                entrypoint=own.get("entryPoint"),
                environment=task.environment(container),
                user=own.get("user"),
                working_dir=own.get("workingDirectory"),
                read_only=own.get("readonlyRootFilesystem", False),
                network_mode=f"container:{self.name(task, 'pause')}",
                volumes=self._volumes(task, own),
                healthcheck=_healthcheck(own),
                ulimits=self._ulimits(own),
                mem_limit=f"{own['memory']}m" if own.get("memory") else None,
                name=self.name(task, container.name),
                labels=task.labels(container) | self.labels(task, container.name),
                use_config_proxy=False,
            )
        except DockerException as error:
            missing = isinstance(error, NotFound)
            reason = "CannotPullContainerError: no such image here" if missing else "CannotCreateContainerError"
            raise Refused(f"{reason}: {error}") from error
        return made.id

    def start(self, container):
        try:
            self.client.api.start(container.docker_id)
        except DockerException as error:
            raise Refused(f"CannotStartContainerError: {error}") from error

    def _ulimits(self, own):
        most = self.options.most_files
        limits = [(it["name"], it["softLimit"], it["hardLimit"]) for it in own.get("ulimits", [])]
        if most:
            limits = [(name, *(min(it, most) if name == "nofile" else it for it in both)) for name, *both in limits]
        return [Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in limits]

    def _volumes(self, task, own):
        hosts = {v["name"]: v.get("host", {}).get("sourcePath") for v in task.definition.get("volumes", [])}
        mounts = []
        for mount in own.get("mountPoints", []):
            source = hosts.get(mount["sourceVolume"]) or self.name(task, mount["sourceVolume"])
            mounts.append(f"{source}:{mount['containerPath']}:{'ro' if mount.get('readOnly') else 'rw'}")
        return mounts

    def signal(self, task, container, name):
        try:
            self.client.api.kill(self.name(task, container.name), name)
        except APIError as error:  # it ended by itself, of which Docker tells
            log.info("%s to %s: %s", name, container.name, error)

    def containers(self, task=None):
        label = f"{TASK}={task.id}" if task else f"{LABEL}={self.id}"
        return self.client.containers.list(all=True, filters={"label": label}, ignore_removed=True)

    def remove(self, task, pause=False):
        """Removes a task's containers; with `pause`, its network namespace and its volumes too."""
        for each in self.containers(task):
            if each.labels[CONTAINER]:
                self._keep_log(each, f"{task.label}-{task.id}-{each.labels[CONTAINER]}")
            if each.labels[CONTAINER] or pause:
                _gone(lambda: each.remove(force=True, v=True))
        if pause:
            self._remove_volumes(f"{TASK}={task.id}")

    def _remove_volumes(self, label):
        for volume in self.client.volumes.list(filters={"label": label}):
            _gone(volume.remove)

    def _keep_log(self, container, name):
        if self.options.logs:
            folder = Path(self.options.logs)
            folder.mkdir(parents=True, exist_ok=True)
            _gone(lambda: (folder / f"{name}.log").write_bytes(container.logs(timestamps=True)))

    def sweep(self):
        """Removes all that this process made."""
        for each in self.containers():
            task, part = each.labels[TASK], each.labels[CONTAINER]
            if part:
                self._keep_log(each, f"{each.labels.get('com.amazonaws.ecs.task-definition-family')}-{task}-{part}")
        # Those that joined a namespace go before the one that holds it.
        for each in sorted(self.containers(), key=lambda it: not it.labels[CONTAINER]):
            _gone(lambda: each.remove(force=True, v=True))
        self._remove_volumes(f"{LABEL}={self.id}")

    def follow(self, estate):
        """Tells the estate of containers that ended and of health that changed, from now on."""
        filters = {"type": "container", "label": f"{LABEL}={self.id}", "event": ["die", "health_status"]}

        def read():
            since = time.time()
            while not estate.closing:
                try:
                    for event in self.client.events(since=since, filters=filters, decode=True):
                        since = event["timeNano"] / SECOND
                        _tell(estate, event)
                except Exception as error:  # the stream broke: what was missed comes after the reconnect
                    if not estate.closing:
                        log.warning("events: %s", error)

        threading.Thread(target=read, daemon=True, name="docker-events").start()


def _tell(estate, event):
    about = event["Actor"]["Attributes"]
    task, part = about[TASK], about[CONTAINER]
    if event["Action"] == "die":
        estate.ended(task, part, int(about["exitCode"]))
    else:
        estate.health(task, part, event["Action"].removeprefix("health_status: ").upper())


def _gone(act):
    """What is to be removed may be gone already."""
    try:
        act()
    except APIError as error:
        log.info("%s", error)


def _healthcheck(own):
    check = own.get("healthCheck")
    if not check:
        return Healthcheck(test=["NONE"])  # ECS does not see an image's own check
    return Healthcheck(
        test=check["command"],
        interval=check.get("interval", 30) * SECOND,
        timeout=check.get("timeout", 5) * SECOND,
        retries=check.get("retries", 3),
        start_period=check.get("startPeriod", 0) * SECOND,
    )
