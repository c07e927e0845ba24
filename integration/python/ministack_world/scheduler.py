"""Keeps as many tasks of each service as are wanted, and rolls a service from one deployment to the next.

It looks at all services whenever something in the estate changed, in a thread of its own. Services are ministack's
records; their counts, the state of their deployments and DRAINING are kept here. Invariant: while a deployment
rolls, no more than `maximumPercent` of the tasks are there, and none that is ready is stopped unless
`minimumHealthyPercent` are ready without it.
"""

import threading
import time
from collections import Counter

from ministack.services import ecs

from task import ENDED_BY_ITSELF, RUNNING, STOPPED

LONGEST_PAUSE = 60


class Scheduler:
    def __init__(self, estate):
        self.estate = estate

    def start(self):
        threading.Thread(target=self._run, daemon=True, name="scheduler").start()

    def _run(self):
        with self.estate.changed:
            while not self.estate.closing:
                pauses = [self._level(service) for service in ecs._services.all_values()]
                self.estate.changed.wait(min(filter(None, pauses), default=None))

    def _level(self, service):
        """One service. Tells after how many seconds it is to be looked at again, if nothing changes before."""
        tasks = self.estate.of_service(service)
        live = [it for it in tasks if it.desired == RUNNING]
        if service["status"] != "ACTIVE":
            for task in live:
                task.stop("ServiceSchedulerInitiated", "Service deleted")
            if all(it.last_status == STOPPED for it in tasks):
                service["status"] = "INACTIVE"
            _count(service, tasks)
            return None
        primary = next(it for it in service["deployments"] if it["status"] == "PRIMARY")
        for task in live:
            if task.health == "UNHEALTHY":
                task.stop("ServiceSchedulerInitiated", "Task failed container health checks")
        new, old = _split([it for it in live if it.desired == RUNNING], primary)
        wanted = service["desiredCount"]
        percent = service["deploymentConfiguration"]
        most = max(wanted * percent.get("maximumPercent", 200) // 100, wanted)
        least = -(-wanted * percent.get("minimumHealthyPercent", 100) // 100)

        _stop_excess(primary, new, wanted)
        _stop_old(primary, new, old, least)
        missing = min(wanted - len(new), most - sum(it.desired == RUNNING for it in new + old))
        pause = _pause(tasks, primary)
        if missing > 0 and not pause:
            for _ in range(missing):
                self._start(service, primary)
        tasks = self.estate.of_service(service)
        _count(service, tasks)
        _conclude(service, primary, tasks)
        return pause if missing > 0 else None

    def _start(self, service, deployment):
        _, _, _, region, account, _ = service["serviceArn"].split(":", 5)
        family = deployment["taskDefinition"].rsplit("/", 1)[1]
        definition = ecs._task_defs.get_scoped(account, region, family)
        order = {
            "group": f"service:{service['serviceName']}",
            "startedBy": deployment["id"],
            "launchType": service.get("launchType"),
        }
        self.estate.run(account, region, service["clusterArn"].rsplit("/", 1)[1], definition, order)


def _stop_excess(primary, new, wanted):
    """From the zone with the most tasks the newest, until there are as many as wanted."""
    while len(new) > wanted:
        count = Counter(it.zone for it in new)
        last = max(reversed(new), key=lambda it: count[it.zone])
        new.remove(last)
        last.stop("ServiceSchedulerInitiated", f"Scaling activity initiated by (deployment {primary['id']})")


def _split(live, primary):
    new = [it for it in live if it.started_by == primary["id"]]
    return new, [it for it in live if it.started_by != primary["id"]]


def _stop_old(primary, new, old, least):
    """Tasks of former deployments, as far as enough are ready without them."""
    spare = sum(it.ready for it in new + old) - least
    for task in old:
        if task.ready and spare <= 0:
            continue
        spare -= task.ready
        task.stop("ServiceSchedulerInitiated", f"Scaling activity initiated by (deployment {primary['id']})")


def _pause(tasks, primary):
    """Seconds until the next start, after tasks that ended before they ran."""
    failed, last = 0, 0
    for task in reversed(tasks):
        if "startedAt" in task.times:
            break
        if task.started_by == primary["id"] and task.stop_code in ENDED_BY_ITSELF:
            failed, last = failed + 1, max(last, task.times["stoppingAt"])
    return max(0, last + min(2**failed, LONGEST_PAUSE) - time.time()) if failed else 0


def _count(service, tasks):
    live = [it for it in tasks if it.desired == RUNNING]
    for record in [service, *service["deployments"]]:
        own = [it for it in live if record is service or it.started_by == record["id"]]
        record["runningCount"] = sum(it.last_status == RUNNING for it in own)
        record["pendingCount"] = len(own) - record["runningCount"]
        if record is not service and record["status"] != "PRIMARY":
            record["desiredCount"] = len(own)


def _conclude(service, primary, tasks):
    """A deployment is complete when its tasks alone are there; a former one leaves with its last task."""
    new, old = _split([it for it in tasks if it.desired == RUNNING], primary)
    done = not old and len(new) == service["desiredCount"] and all(it.ready for it in new)
    if done and primary["rolloutState"] != "COMPLETED":
        primary.update(
            rolloutState="COMPLETED",
            rolloutStateReason=f"ECS deployment {primary['id']} completed.",
            updatedAt=ecs._iso(),
        )
    left = {it.started_by for it in tasks if it.last_status != STOPPED}
    service["deployments"] = [it for it in service["deployments"] if it is primary or it["id"] in left]
