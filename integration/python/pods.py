"""What a kubelet does for one pod, as far as the server notices: files from ConfigMaps, its environment, its end.

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

    def process(self, container, index=0):
        """The arguments and the environment of a container; both may name variables from before."""
        known = {}

        def expanded(text):
            text = re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), text)
            return text.replace(HOME, str(self.folder))

        for variable in container.get("env", []):
            known[variable["name"]] = expanded(variable["value"]) if "value" in variable else str(index)
        return [expanded(argument) for argument in container["args"]], known


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
        try:
            while (line := self.lines.get(timeout=within)) is not None:
                self.log.append(line)
                if line.startswith("{") and (entry := json.loads(line))["message"] == message:
                    return entry
        except queue.Empty:
            pass
        raise AssertionError(f"no {message!r} in the log:\n" + "".join(self.log))

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
