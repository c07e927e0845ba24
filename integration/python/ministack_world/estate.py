"""The tasks: who runs, what the API shows of it, and which events tell of it.

Its lock, in `changed`, guards all tasks and all of ministack's ECS records. Invariant: what DescribeTasks answers
is what was published last, and an event's version is that of the record published with it.
"""

import json
import threading
from collections import Counter

from ministack.core.responses import request_scope
from ministack.services import ecs, eventbridge

import render
from cloudmap import Registry
from task import RUNNING, STOPPED, Task


class Estate:
    def __init__(self, options, docker):
        self.options, self.docker = options, docker
        self.changed = threading.Condition()
        self.closing = False
        self.tasks = {}  # by id, oldest first
        self.registry = Registry(self)

    def run(self, account, region, cluster, definition, order):
        """Starts one task."""
        task = Task(self, account, region, cluster, definition, order)
        self.tasks[task.id] = task
        task.begin()
        return task

    def zone(self, group, cluster):
        """The zone with the fewest tasks of the group."""
        running = [it for it in self.tasks.values() if it.desired == RUNNING and it.cluster == cluster]
        count = Counter(it.zone for it in running if it.group == group)
        return min(self.options.zones, key=lambda zone: count[zone])

    def of_service(self, service):
        """The tasks that the deployments of a service started."""
        cluster = service["clusterArn"].rsplit("/", 1)[1]
        place = service["serviceArn"].split(":")[3:5]
        return [
            it
            for it in self.tasks.values()
            if it.service == service["serviceName"] and it.cluster == cluster and [it.region, it.account] == place
        ]

    def publish(self, task, event=False):
        with request_scope(task.account, task.region):
            ecs._tasks[task.arn] = render.task(task)
            if event:
                entry = {
                    "Source": "aws.ecs",
                    "DetailType": "ECS Task State Change",
                    "Resources": [task.arn],
                    "Detail": json.dumps(render.detail(task)),
                }
                eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)
        self.changed.notify_all()

    def metadata_uri(self, container):
        return f"http://{self.options.gateway}:{self.options.port}/v4/{container.token}"

    def by_token(self, token):
        for task in self.tasks.values():
            for container in task.containers.values():
                if container.token == token and task.last_status != STOPPED:
                    return task, container
        return None

    # What Docker tells.

    def ended(self, task_id, name, exit_code):
        with self.changed:
            task = self.tasks[task_id]
            container = task.containers.get(name)
            if container is None:  # the network namespace's, which only `release` ends
                return
            container.exit_code = exit_code
            delay = self.options.crash_notice if container.essential and not container.noticed else 0
            self.changed.notify_all()
        if delay:
            timer = threading.Timer(delay, self._notice, (task, container))
            timer.daemon = True
            timer.start()
        else:
            self._notice(task, container)

    def _notice(self, task, container):
        with self.changed:
            container.noticed = True
            if task.last_status != STOPPED:
                self.publish(task)

    def health(self, task_id, name, status):
        with self.changed:
            task = self.tasks[task_id]
            task.containers[name].health = status
            self.publish(task)
            self.registry.tell_health(task)

    def close(self):
        """Ends all that runs, at once."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        for thread in threading.enumerate():
            if thread.name.startswith("task-"):
                thread.join()
        self.docker.sweep()
