"""What a kubelet does for one pod, as far as the server notices: files from ConfigMaps, its environment, probes, its end.

Nothing is isolated: `/etc/legation` is a folder of the test.
"""

import json
import queue
import re
import subprocess
import threading
import urllib.error
import urllib.request

from charts import data

HOME = "/etc/legation"


class Pod:
    def __init__(self, folder):
        self.folder, self.projections = folder, 0

    def project(self, found):
        """Puts the ConfigMaps where they are mounted, and replaces them at once as the kubelet does: by one link."""
        self.projections += 1
        for name in ("config", "policies"):
            mounted = self.folder / name
            fresh = mounted / f"..{self.projections}"
            fresh.mkdir(parents=True)
            for file, text in data(found, f"-{name}").items():
                (fresh / file).write_text(text.replace(HOME, str(self.folder)))
            (mounted / "..data_tmp").symlink_to(fresh.name)
            (mounted / "..data_tmp").rename(mounted / "..data")
            for file in fresh.iterdir():
                if not (mounted / file.name).is_symlink():
                    (mounted / file.name).symlink_to(f"..data/{file.name}")

    def environment(self, container, index=0):
        """The environment of a container: variables may name those before them."""
        known = {}
        for variable in container["env"]:
            if "valueFrom" in variable:
                known[variable["name"]] = str(index)
                continue
            value = re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), variable["value"])
            known[variable["name"]] = value.replace(HOME, str(self.folder))
        return known


class Server:
    """A running server, whose log is read while it runs."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.lines, self.log = queue.Queue(), []
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stderr.close()

    def read(self):
        for line in self.process.stderr:
            self.lines.put(line)
        self.lines.put(None)

    def until(self, message, within=20):
        """Waits for a message in the log."""
        while (line := self.lines.get(timeout=within)) is not None:
            self.log.append(line)
            if line.startswith("{") and (entry := json.loads(line))["message"] == message:
                return entry
        raise AssertionError(f"it ended without {message!r}:\n" + "".join(self.log))

    def stop(self, within):
        self.process.terminate()
        return self.process.wait(within)


def answer(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()
