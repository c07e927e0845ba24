"""A proxyless gRPC client that does what it is told, until its input ends.

GRPC_XDS_BOOTSTRAP names the bootstrap. Lines of input and the line of output that each brings, which is JSON:

    call TARGET COUNT SECONDS   calls one after the other, each with this deadline: counts and errors
    begin TARGET SECONDS        calls without a pause from now on: {}
    end TARGET                  no longer: counts and errors since the beginning

All targets share one process, and so one xDS client.
"""

import json
import sys
import threading
import time
from collections import Counter

import grpc

channels = {}
steady = {}


def caller(target):
    if target not in channels:
        channels[target] = grpc.insecure_channel(target)
    return channels[target].unary_unary("/legation.test.Names/Name")


class Tally:
    """What became of calls: good ones by the name of who answered, failures with their first words."""

    def __init__(self):
        self.answers, self.errors, self.failed, self.slowest = Counter(), [], 0, 0.0

    def call(self, call, seconds):
        began = time.monotonic()
        try:
            self.answers[call(b"", timeout=seconds).decode()] += 1
        except grpc.RpcError as error:
            self.failed += 1
            if len(self.errors) < 5:
                after = f"after {time.monotonic() - began:.3f} s"
                self.errors.append(f"{error.code().name} {after}: {error.details()}")
        self.slowest = max(self.slowest, time.monotonic() - began)

    def report(self):
        answers = {"answers": self.answers, "ok": sum(self.answers.values())}
        return answers | {"failed": self.failed, "errors": self.errors, "slowest": self.slowest}


class Steady(threading.Thread):
    def __init__(self, target, seconds):
        super().__init__(daemon=True)
        self.call, self.seconds = caller(target), seconds
        self.tally, self.over = Tally(), threading.Event()

    def run(self):
        while not self.over.is_set():
            self.tally.call(self.call, self.seconds)
            # Many calls, but not all that a machine can do.
            self.over.wait(0.002)


def obey(words):
    command, target = words[0], words[1]
    if command == "call":
        tally, call = Tally(), caller(target)
        for _ in range(int(words[2])):
            tally.call(call, float(words[3]))
        return tally.report()
    if command == "begin":
        steady[target] = Steady(target, float(words[2]))
        steady[target].start()
        return {}
    assert command == "end", words
    ending = steady.pop(target)
    ending.over.set()
    ending.join()
    return ending.tally.report()


def main():
    for line in sys.stdin:
        print(json.dumps(obey(line.split())), flush=True)


main()
