"""Runs the fake upstream and the load."""

import json
import socket
import subprocess

from machine import await_port, free_ports, start
from proxies import KEY

LOAD_CORE = "1"


class Tool:
    """The fake upstream and the load: benches/peers/load.rs."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def upstream(self, count, throttled=0, retry_after_ms=1000, tls=False, core=LOAD_CORE):
        ports = free_ports(count)
        command = [self.program, "upstream", "--ports", ",".join(map(str, ports)), "--seconds", "3600"]
        if throttled:
            command += ["--throttled", ",".join(map(str, ports[:throttled])), "--retry-after-ms", str(retry_after_ms)]
        if tls:
            command += ["--tls", self.folder / "tls"]
        process = start(command, core)
        await_port(ports[-1], process)
        return ports

    def authority(self):
        return self.folder / "tls" / "authority.pem"

    def counters(self, port):
        with socket.create_connection(("127.0.0.1", port), 5) as stream:
            stream.sendall(b"GET /counters HTTP/1.1\r\nhost: x\r\n\r\n")
            data = b""
            while part := stream.recv(4096):
                data += part
        return json.loads(data.split(b"\r\n\r\n", 1)[1])

    def run(self, mode, port, seconds, core=LOAD_CORE, **options):
        command = [*(["taskset", "-c", core] if core else []), self.program, mode, "--port", str(port)]
        for name, value in {"seconds": seconds, "key": KEY, **options}.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
        return json.loads(done.stdout.splitlines()[-1])
