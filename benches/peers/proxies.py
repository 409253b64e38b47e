"""The proxies that are compared, each set up as an expert would for this job: shared/performance.md says how.

All features are on at every peer: a caller key is checked, another key is set, and an access log line is written per
request.
"""

import json
import pathlib
import resource
import shutil
import tempfile

from machine import SEARCH, await_port, free_ports, start, stop

KEY = "bench-caller-key-0123456789"
UPSTREAM_KEY = "bench-upstream-key"


class Layout:
    """What stands behind a proxy, and how much of the machine it has."""

    def __init__(self, ports, priorities=None, authority=None, workers=1, core="0", large=False, server="",
                 backend="", caller=KEY):
        self.ports = ports
        self.priorities = priorities or [1] * len(ports)
        # PEM file of whom to trust: the upstreams speak TLS as `localhost`.
        self.authority = authority
        self.workers, self.core = workers, core
        # Prompts of hundreds of kilobytes that can be sent again.
        self.large = large
        # Of Sidestep alone: lines of TOML for `server` and for each backend, and the key of its callers.
        self.server, self.backend, self.caller = server, backend, caller


class Peer:
    """One running proxy."""

    def __init__(self, folder, layout, program):
        self.layout, self.program = layout, program
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-", dir=folder))
        self.folder.chmod(0o755)
        self.port, self.admin = free_ports(2)
        command = self.command()
        with open(self.folder / "access.log", "wb") as output, open(self.folder / "error.log", "wb") as errors:
            self.process = start(command, layout.core, stdout=output, stderr=errors)
        await_port(self.port, self.process)
        self.pid = self.process.pid

    def stop(self):
        stop(self.process)


class Sidestep(Peer):
    def command(self):
        scheme = "https://localhost" if self.layout.authority else "http://127.0.0.1"
        lines = [
            "[server]", f'listen = "127.0.0.1:{self.port}"', f'admin_listen = "127.0.0.1:{self.admin}"',
            f"workers = {self.layout.workers}", self.layout.server,
            "[callers]", f'keys = [{{ name = "bench", key = "{self.layout.caller}" }}]', "",
            "[limits]", "connections = 30000", "",
        ]
        if self.layout.authority:
            lines += ["[upstream]", f'ca_file = "{self.layout.authority}"', ""]
        for index, (port, priority) in enumerate(zip(self.layout.ports, self.layout.priorities)):
            lines += [
                "[[backends]]", f'name = "backend-{index + 1}"', f'url = "{scheme}:{port}"',
                f"priority = {priority}", f'api_key = "{UPSTREAM_KEY}"', self.layout.backend,
            ]
        settings = self.folder / "sidestep.toml"
        settings.write_text("\n".join(lines))
        return [self.program, "serve", "--config", settings]


class Nginx(Peer):
    def command(self):
        servers = "\n".join(
            f"    server 127.0.0.1:{port} max_fails=1 fail_timeout=1s{' backup' if priority > 1 else ''};"
            for port, priority in zip(self.layout.ports, self.layout.priorities)
        )
        scheme, tls = "http", ""
        if self.layout.authority:
            scheme = "https"
            tls = f"""
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {self.layout.authority};
      proxy_ssl_name localhost;
      proxy_ssl_server_name on;"""
        settings = self.folder / "nginx.conf"
        settings.write_text(f"""
worker_processes {self.layout.workers};
daemon off;
pid {self.folder}/nginx.pid;
error_log {self.folder}/error.log error;
events {{ worker_connections 65536; }}
worker_rlimit_nofile 65536;
http {{
  access_log {self.folder}/access.log;
  client_body_temp_path {self.folder}/body;
  proxy_temp_path {self.folder}/proxy;
  fastcgi_temp_path {self.folder}/fastcgi;
  uwsgi_temp_path {self.folder}/uwsgi;
  scgi_temp_path {self.folder}/scgi;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  client_body_buffer_size 256k;
  client_max_body_size 64m;
  proxy_http_version 1.1;
  proxy_buffering off;
  proxy_read_timeout 600s;
  proxy_next_upstream error timeout http_429 non_idempotent;
  upstream backends {{
{servers}
    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096;
    location / {{
      if ($http_api_key != "{KEY}") {{ return 401; }}
      proxy_set_header Connection "";
      proxy_set_header api-key "{UPSTREAM_KEY}";{tls}
      proxy_pass {scheme}://backends;
    }}
  }}
}}
""")
        return [shutil.which("nginx", path=SEARCH), "-p", self.folder, "-c", settings, "-e", f"{self.folder}/error.log"]


class HAProxy(Peer):
    def command(self):
        tls = ""
        if self.layout.authority:
            tls = f" ssl verify required ca-file {self.layout.authority} sni str(localhost) verifyhost localhost"
        servers = "\n".join(
            f"  server s{index} 127.0.0.1:{port}{' backup' if priority > 1 else ''}{tls}"
            for index, (port, priority) in enumerate(zip(self.layout.ports, self.layout.priorities))
        )
        # Only what fits a buffer can be sent again, and every connection has two.
        buffers = "  tune.bufsize 262144\n" if self.layout.large else ""
        settings = self.folder / "haproxy.cfg"
        # Debian's 2.6 refuses `retry-on 429`: it stands in the rows without throttling.
        settings.write_text(f"""global
  nbthread {self.layout.workers}
  maxconn {resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 100}
  log stdout format raw local0
{buffers}defaults
  mode http
  log global
  option httplog
  http-reuse always
  option http-no-delay
  option http-buffer-request
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend callers
  bind 127.0.0.1:{self.port}
  http-request deny deny_status 401 unless {{ req.hdr(api-key) -m str {KEY} }}
  http-request set-header api-key {UPSTREAM_KEY}
  default_backend resources
backend resources
  balance roundrobin
{servers}
""")
        return [shutil.which("haproxy", path=SEARCH), "-f", settings]


class Envoy(Peer):
    def command(self):
        settings = self.folder / "envoy.json"
        settings.write_text(json.dumps({
            "admin": {"address": address(self.admin)},
            "static_resources": {"listeners": [self.listener()], "clusters": [self.cluster()]},
        }))
        # The default of 0 would let every open stream count against a limit that is not meant.
        return [self.program, "-c", settings, "--concurrency", self.layout.workers, "--log-level", "warning",
                "--use-dynamic-base-id"]

    def listener(self):
        retry = {
            "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-status-codes",
            "retriable_status_codes": [429],
            "num_retries": max(len(self.layout.ports) - 1, 1),
            "retry_host_predicate": [
                {"name": "previous", "typed_config": typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")}
            ],
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
        }
        route = {
            "match": {"prefix": "/", "headers": [{"name": "api-key", "string_match": {"exact": KEY}}]},
            "route": {"cluster": "resources", "timeout": "0s", "retry_policy": retry},
            "request_headers_to_add": [
                {"header": {"key": "api-key", "value": UPSTREAM_KEY}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            ],
        }
        most = 64 * 1024 * 1024
        filters = [
            {"name": "buffer", "typed_config": typed("extensions.filters.http.buffer.v3.Buffer", max_request_bytes=most)},
            {"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")},
        ]
        log = typed("extensions.access_loggers.file.v3.FileAccessLog", path=str(self.folder / "requests.log"))
        connections = typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="callers", access_log=[{"name": "file", "typed_config": log}], http_filters=filters,
            stream_idle_timeout="600s",
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        )
        return {
            "address": address(self.port), "per_connection_buffer_limit_bytes": most,
            "filter_chains": [{"filters": [{"name": "http", "typed_config": connections}]}],
        }

    def cluster(self):
        groups = [
            {"priority": priority - min(self.layout.priorities), "lb_endpoints": [{"endpoint": {"address": address(port)}}]}
            for port, priority in zip(self.layout.ports, self.layout.priorities)
        ]
        most = {"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536, "max_retries": 65536}
        cluster = {
            "name": "resources", "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "resources", "endpoints": groups},
            "circuit_breakers": {"thresholds": [most]},
        }
        if self.layout.authority:
            name = {"san_type": "DNS", "matcher": {"exact": "localhost"}}
            trust = {"trusted_ca": {"filename": str(self.layout.authority)}, "match_typed_subject_alt_names": [name]}
            tls = typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext", sni="localhost",
                        common_tls_context={"validation_context": trust})
            cluster["transport_socket"] = {"name": "tls", "typed_config": tls}
        return cluster


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/envoy.{name}", **fields}


KINDS = {"sidestep": Sidestep, "earlier": Sidestep, "nginx": Nginx, "haproxy": HAProxy, "envoy": Envoy}
