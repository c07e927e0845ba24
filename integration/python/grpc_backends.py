"""gRPC servers that answer every call with their own name, until their input ends.

    grpc_backends.py one=127.0.0.1:20101 two=127.0.0.1:20102

The first line of output is `ready`. Lines of input, each of which brings one line of output:

    asked NAME   how many calls it has answered
    stop NAME    ends it at once, and what it is doing too: `stopped`
"""

import itertools
import sys
from concurrent import futures

import grpc


class Named(grpc.GenericRpcHandler):
    """Whatever is called, the answer is a name, as bytes."""

    def __init__(self, name):
        self.name, self.asked = name.encode(), itertools.count()

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        next(self.asked)
        return self.name


def serve(name, address):
    # Otherwise two of one machine could share a port without noticing.
    options = [("grpc.so_reuseport", 0)]
    named = Named(name)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), handlers=[named], options=options)
    server.add_insecure_port(address)
    server.start()
    return named, server


def obey(servers, command, name):
    named, server = servers[name]
    if command == "asked":
        # The only way to read such a counter is to look at what it would say next.
        return named.asked.__reduce__()[1][0]
    assert command == "stop", command
    del servers[name]
    server.stop(grace=0).wait()
    return "stopped"


def main():
    servers = {}
    for word in sys.argv[1:]:
        name, address = word.split("=")
        servers[name] = serve(name, address)
    print("ready", flush=True)
    for line in sys.stdin:
        print(obey(servers, *line.split()), flush=True)
    for _, server in servers.values():
        server.stop(grace=0)


main()
