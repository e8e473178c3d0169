"""nginx and haproxy before a gateway, as an operator may have them, each on a port of its own."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from deploy.ports import free_port
from tests.harness.waiting import until

END_S_MAX: Final = 10.0
NGINX: Final = """
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home};
  uwsgi_temp_path {home}; scgi_temp_path {home};
  upstream gateway {{ server 127.0.0.1:{target}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port}; underscores_in_headers on; client_body_timeout 2s;
    location / {{
      proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_buffering off;
    }}
  }}
}}
"""
HAPROXY: Final = """
global
  maxconn 256
defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
  timeout http-request 2s
  option http-keep-alive
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  default_backend gateways
backend gateways
  server gateway 127.0.0.1:{target}
"""
"""Connections to the gateway are kept and shared: what one client leaves on them another would meet."""


@asynccontextmanager
async def before(name: str, home: Path, target: int) -> AsyncIterator[int]:
    """The port of `name`, which passes to the port `target`. Skips the test where this machine lacks it."""
    program = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip(f"{name} is not installed (Debian: apt install {name})")
    port = free_port()
    settings = home / f"{name}.conf"
    text = (NGINX if name == "nginx" else HAPROXY).format(home=home, port=port, target=target)
    settings.write_text(text, encoding="utf-8")
    options = ["-p", str(home), "-c"] if name == "nginx" else ["-db", "-f"]
    with (home / f"{name}.out").open("wb") as output:
        process = await asyncio.create_subprocess_exec(program, *options, str(settings), stdout=output, stderr=output)
    try:
        await until(lambda: _listens(port) or process.returncode is not None, what=f"{name} listens")
        assert process.returncode is None, (home / f"{name}.out").read_text(encoding="utf-8")
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), END_S_MAX)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
