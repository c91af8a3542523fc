"""A client of aioquic for scripts/record-hellos: aioquic-client.py VERSION[,VERSION] NAME PORT."""
import asyncio
import ssl
import sys

from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

VERSIONS = {"1": QuicProtocolVersion.VERSION_1, "2": QuicProtocolVersion.VERSION_2}


async def main() -> None:
    versions, name, port = sys.argv[1:]
    supported = [VERSIONS[v] for v in versions.split(",")]
    config = QuicConfiguration(alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE, supported_versions=supported)
    config.original_version = supported[0]
    async with connect(name, int(port), configuration=config) as client:
        await client.ping()


asyncio.run(main())
