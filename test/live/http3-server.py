"""An HTTP/3 server of NET (aioquic). Arguments: folder with cert.pem and key.pem, and the addresses to listen on."""

import asyncio
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated


class Server(QuicConnectionProtocol):
    http = None

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
        if self.http is None:
            return
        for each in self.http.handle_event(event):
            if isinstance(each, HeadersReceived):
                self.answer(each)

    def answer(self, request):
        headers = dict(request.headers)
        host = headers[b":authority"].decode()
        path = headers[b":path"].decode()
        print(f'{{"host": "{host}", "path": "{path}", "http": "3"}}', flush=True)
        count = int(path.split("n=")[1]) if "n=" in path else 0
        body = b"d" * count if count else f"the content of {host}".encode()
        fields = [(b":status", b"200"), (b"content-length", str(len(body)).encode())]
        self.http.send_headers(request.stream_id, fields)
        self.http.send_data(request.stream_id, body, end_stream=True)
        self.transmit()


async def main(folder, addresses):
    for address, retry in addresses:
        configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=False)
        configuration.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
        await serve(address, 443, configuration=configuration, create_protocol=Server, retry=retry)
    print('{"listening": "udp"}', flush=True)
    await asyncio.Future()


# an address with "retry:" before it: the server wants a Retry first (RFC 9000 8.1.2)
places = [(a.removeprefix("retry:"), a.startswith("retry:")) for a in sys.argv[2:]]
asyncio.run(main(sys.argv[1], places))
