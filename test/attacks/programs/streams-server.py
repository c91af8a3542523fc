"""Servers of Python whose log is the judge: streams-server.py KIND FOLDER ADDRESS...

KIND: http (http.server on port 80, ssl on 443) or quic (aioquic). A line of JSON for each request and for each server name.
"""

import asyncio
import http.server
import json
import socket
import socketserver
import ssl
import sys
import threading

kind, folder, *addresses = sys.argv[1:]
lock = threading.Lock()


def say(**what):
    with lock:
        print(json.dumps(what), flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def answer(self):
        if self.command in ("POST", "PUT", "PATCH"):
            self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b"" if self.command == "HEAD" else b"answered"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_OPTIONS = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_request(self, code="-", size="-"):
        headers = getattr(self, "headers", None)
        hosts = headers.get_all("host") if headers else None
        say(port=self.client_address[1], target=getattr(self, "path", ""), status=str(int(code)), hosts=hosts or [])

    def log_error(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "server", self.server_address[1]

    def handle_error(self, request, client_address):
        pass


class Server6(Server):
    address_family = socket.AF_INET6


class Tls:
    """Finishes each handshake in the thread of its connection."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def finish_request(self, request, client_address):
        request.settimeout(20)
        with self.context.wrap_socket(request, server_side=True) as wrapped:
            self.RequestHandlerClass(wrapped, client_address, self)


class TlsServer(Tls, Server):
    pass


class TlsServer6(Tls, Server6):
    pass


def serve_http():
    def named(wrapped, name, _context):
        try:
            port = wrapped.getpeername()[1]
        except OSError:
            port = 0
        say(port=port, sni=name or "")

    Tls.context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
    Tls.context.sni_callback = named
    for address in addresses:
        six = ":" in address
        for port, classes in ((80, (Server, Server6)), (443, (TlsServer, TlsServer6))):
            server = classes[six]((address, port), Handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
    say(listening=True)
    threading.Event().wait()


async def serve_quic():
    from aioquic import tls
    from aioquic.asyncio import QuicConnectionProtocol, serve
    from aioquic.h3.connection import H3_ALPN
    from aioquic.quic.configuration import QuicConfiguration

    read = tls.pull_client_hello

    def pull(buf):
        hello = read(buf)
        name = hello.server_name
        say(port=0, sni=name.decode("latin-1") if isinstance(name, bytes) else name or "")
        return hello

    tls.pull_client_hello = pull
    for address in addresses:
        configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=False)
        configuration.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
        await serve(address, 443, configuration=configuration, create_protocol=QuicConnectionProtocol)
    say(listening=True)
    await asyncio.Future()


if kind == "quic":
    asyncio.run(serve_quic())
else:
    serve_http()
