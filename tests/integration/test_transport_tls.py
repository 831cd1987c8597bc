"""TLS, terminated by a proxy in front of the server: whose certificate is trusted, and whose is not."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from transport_servers import INCREMENT, Proxy, Valkey, running_valkey

from engine.transport.errors import NotSent
from engine.transport.open import open_transport
from engine.transport.wire import pack_keys


class Authority(msgspec.Struct, frozen=True):
    """A certificate authority with the one certificate it issued, for 127.0.0.1."""

    ca_path: Path
    certificate_path: Path
    key_path: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate_path, self.key_path)
        return context


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("theirs"))


@pytest.fixture
async def trusted(server: Valkey, authority: Authority) -> AsyncIterator[tuple[Proxy, Any]]:
    """A proxy with our certificate, and a transport through it that trusts it."""
    async with Proxy(server.port, tls=authority.server_context()) as proxy:
        transport = await open_transport(f"{proxy.url}?ssl_ca_certs={authority.ca_path}")
        yield proxy, transport
        await transport.aclose()


async def test_commands_travel_over_tls_when_the_authority_is_trusted(trusted: tuple[Proxy, Any]) -> None:
    _, transport = trusted
    keys = pack_keys([b"tls"])
    for n in range(1, 50):
        assert await transport.evalsha(INCREMENT, keys, []) == n
    large = b"x" * 2_000_000
    await transport.command("SET", "large", large)
    assert await transport.command("GET", "large") == large


async def test_connection_comes_back_over_tls(trusted: tuple[Proxy, Any]) -> None:
    proxy, transport = trusted
    await transport.command("PING")
    proxy.cut()
    await asyncio.sleep(0.05)
    await transport.command("PING")
    assert proxy.connection_count == 2


async def test_opening_is_refused_when_another_authority_signed_the_certificate(
    server: Valkey, authority: Authority, stranger: Authority
) -> None:
    async with Proxy(server.port, tls=stranger.server_context()) as proxy:
        with pytest.raises(NotSent, match="CERTIFICATE_VERIFY_FAILED"):
            await open_transport(f"{proxy.url}?ssl_ca_certs={authority.ca_path}")


async def test_opening_is_refused_when_no_authority_is_named(server: Valkey, authority: Authority) -> None:
    async with Proxy(server.port, tls=authority.server_context()) as proxy:
        with pytest.raises(NotSent, match="CERTIFICATE_VERIFY_FAILED"):
            await open_transport(proxy.url)


async def test_opening_is_refused_when_the_certificate_is_for_another_name(
    server: Valkey, authority: Authority
) -> None:
    async with Proxy(server.port, tls=authority.server_context()) as proxy:
        with pytest.raises(NotSent, match=r"(?i)hostname mismatch"):
            await open_transport(f"rediss://localhost:{proxy.port}?ssl_ca_certs={authority.ca_path}")


async def test_opening_is_refused_when_the_server_speaks_no_tls(server: Valkey, authority: Authority) -> None:
    with pytest.raises(NotSent, match="cannot connect"):
        await open_transport(
            f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={authority.ca_path}", connect_timeout_s=0.5
        )


@pytest.mark.parametrize("option", ["ssl_ca_certs=/missing.pem", "ssl_cert_reqs=perhaps", "ssl_ciphers=none-such"])
async def test_opening_with_a_bad_tls_option_is_a_value_error(option: str) -> None:
    with pytest.raises(ValueError, match="ssl_ option"):
        await open_transport(f"rediss://127.0.0.1:1?{option}")


def make_authority(directory: Path) -> Authority:
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority in {directory.name}")])
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), is_ca=True).sign(ca_key, hashes.SHA256())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    certificate = _certificate(name, ca_name, key.public_key(), is_ca=False).sign(ca_key, hashes.SHA256())
    made = Authority(
        ca_path=directory / "ca.pem", certificate_path=directory / "server.pem", key_path=directory / "key.pem"
    )
    made.ca_path.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    made.certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def _certificate(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, *, is_ca: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
