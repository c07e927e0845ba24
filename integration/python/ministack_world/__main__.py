"""An AWS whose ECS tasks are real Docker containers: ministack, made to behave like ECS in network mode awsvpc.

    python ministack_world --network NAME --pause-image IMAGE [--pause-command "pause"]

Docker is where DOCKER_HOST says. The program prints `ready http://ADDRESS:PORT` once it answers there, and ends
when its standard input does; the containers and volumes that it made go with it. Images are taken as they are
here, none is pulled.

ministack's server, and all of its services but the part of ECS that runs tasks, are used as they are (`patches`
says what is replaced). Invariant: ministack itself never talks to Docker, so containers of others are safe.
"""

import argparse
import asyncio
import logging
import os
import shlex
import signal
import socket
import threading

from dockerside import Docker
from estate import Estate


def arguments():
    parser = argparse.ArgumentParser(prog="ministack_world", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--network", required=True, help="the Docker network, of driver bridge, in which tasks get their addresses")
    add("--pause-image", required=True, help="image of the container that holds a task's network namespace")
    add("--pause-command", default="", help="what that container runs; it has to run until it is killed")
    add("--bind", default="127.0.0.1", help="address that clients use")
    add("--gateway", help="address at which containers reach this program (default: the network's gateway)")
    add("--port", type=int, default=0, help="port on both addresses (default: a free one)")
    add("--zones", default="eu-west-1a,eu-west-1b,eu-west-1c", help="zones that tasks are spread over")
    add("--region", default="eu-west-1")
    add("--account", default="123456789012", help="account of clients whose access key is not an account id")
    add("--prefix", default="ms-", help="how the names of containers and volumes begin")
    add("--logs", help="folder for what containers wrote, one file each")
    add("--most-files", type=int, help="cuts the ulimit nofile to this, where Docker may not set what is asked")
    add("--stop-delay", type=float, default=0.0, help="seconds from the event of a stop to SIGTERM")
    add("--crash-notice", type=float, default=0.0, help="seconds until ECS notices that a container ended")
    add("--pull-upfront", action="store_true", help="task metadata tells of containers that wait for others, too")
    add("--deprovisioning", type=float, default=0.5, help="seconds that a task is DEPROVISIONING")
    options = parser.parse_args()
    options.zones = options.zones.split(",")
    options.pause_command = shlex.split(options.pause_command) or None
    return options


def listen(options):
    """Sockets on both addresses with one port. They accept from here on, and are answered once the server runs."""
    sockets = []
    for address in dict.fromkeys([options.bind, options.gateway]):
        sockets.append(socket.create_server((address, options.port), backlog=128))
        options.port = sockets[0].getsockname()[1]
    return sockets


def settle_environment(options):
    """ministack reads its settings when it is imported."""
    os.environ.update(
        MINISTACK_REGION=options.region,
        MINISTACK_ACCOUNT_ID=options.account,
        MINISTACK_HOST=options.bind,
        GATEWAY_PORT=str(options.port),
        BIND_HOST=options.bind,
        # At its start it removes containers that look like its own, whoever made them.
        DOCKER_HOST="unix:///nonexistent",
        # Listeners on fixed ports that nobody here asks.
        IOT_MTLS_ENABLED="0",
        SFTP_ENABLED="0",
        PERSIST_STATE="0",
    )


async def serve(options, estate, sockets):
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config
    from ministack import app as ministack

    import metadata

    config = Config()
    config.bind = [f"fd://{each.detach()}" for each in sockets]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    config.graceful_timeout = 1
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)

    def follow_input():
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(over.set)

    def started():
        print(f"ready http://{options.bind}:{options.port}", flush=True)
        threading.Thread(target=follow_input, daemon=True).start()

    async def until_over():
        await over.wait()
        # Open connections are cut, of which asyncio would print a trace each.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    await hypercorn_serve(metadata.before(ministack.app, estate, started), config, shutdown_trigger=until_over)


def main():
    options = arguments()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    docker = Docker(options)
    options.gateway = options.gateway or docker.gateway()
    sockets = listen(options)
    settle_environment(options)
    import patches
    from scheduler import Scheduler

    estate = Estate(options, docker)
    patches.install(estate)
    Scheduler(estate).start()
    docker.follow(estate)
    try:
        asyncio.run(serve(options, estate, sockets))
    finally:
        estate.close()


main()
