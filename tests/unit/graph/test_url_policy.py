"""URLs that callers supply: which are called, and that the connection goes where the check looked."""

import asyncio
import datetime
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core.errors import UrlRefused
from core.outbound_urls import CheckedTransport, UrlPolicy, is_public, redacted
from tests.unit.graph.storage import Storage, answers

PUBLIC = "93.184.215.14"
LISTED = UrlPolicy(hosts=("storage.example.com", "*.amazonaws.com", "xn--mller-kva.de"), ports=(443, 9000))


class Names:
    """A name service that answers what the test says, one answer per question and the last one for ever."""

    def __init__(self, *found: Sequence[str]) -> None:
        self._found = list(found)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self._found.pop(0) if len(self._found) > 1 else self._found[0]


@pytest.mark.parametrize(
    "url",
    [
        "https://storage.example.com/a?b=c",
        "https://STORAGE.example.com./a",
        "https://storage.example.com:443/a",
        "https://storage.example.com:9000/a",
        "https://bucket.s3.eu-central-1.amazonaws.com/key",
        "https://müller.de/a",
        "https://@storage.example.com/a",
    ],
)
def test_listed_hosts_and_ports_are_called(url: str) -> None:
    assert LISTED.check(url).scheme == "https"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a",
        "https://amazonaws.com/a",
        "https://notamazonaws.com/a",
        "https://storage.example.com.evil.com/a",
        "https://sub.storage.example.com/a",
        "https://storage.example.com:8443/a",
        "https://storage.example.com:22/a",
        "https://storage.example.com@evil.com/a",
        "https://evil.com#@storage.example.com/a",
        "https://evil.com/storage.example.com",
        "https://evil.com\\@storage.example.com/",
        "https://localhost/a",
        f"https://{PUBLIC}/a",
    ],
)
def test_other_hosts_and_ports_are_not(url: str) -> None:
    with pytest.raises(UrlRefused):
        LISTED.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a",
        "http://localhost/a",
        "http://127.0.0.1/a",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "gopher://example.com/",
        "s3://bucket/key",
        "//example.com/a",
        "example.com/a",
        "https:///a",
        "https://",
        "",
        " ",
        "https://exa mple.com/",
        "https://example.com/a\r\nX-Header: b",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://[::1",
        "https://user@example.com/a",
        "https://user:password@example.com/a",
        "https://" + "a" * 70000,
    ],
)
def test_what_is_not_plainly_https_is_refused_without_repeating_its_secrets(url: str) -> None:
    with pytest.raises(UrlRefused) as caught:
        UrlPolicy().check(url + "?token=secret" if url.startswith("https://user") else url)
    assert "secret" not in caught.value.text
    assert "password" not in str(caught.value).removesuffix("with a user or password.")


PRIVATE = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:5ef5:79fd:0:59d:a0e5:ba1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_no_private_address_is_called_by_number_or_by_name(address: str) -> None:
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(UrlRefused):
        UrlPolicy().check(f"https://{host}/a")

    async def run() -> None:
        for found in ([address], [PUBLIC, address], [address, PUBLIC]):
            with pytest.raises(UrlRefused):
                await UrlPolicy().addresses("https://inside.example.com/a", Names(found))

    asyncio.run(run())


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::6810:84e5", "64:ff9b::5db8:d70e"])
def test_public_addresses_are_called(address: str) -> None:
    names = Names([address])
    assert asyncio.run(UrlPolicy(ports=(8443,)).addresses("https://example.com:8443/a", names)) == [address]
    assert names.asked == [("example.com", 8443)]


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "localhost."])
def test_other_spellings_of_this_machine_are_refused_once_resolved(host: str) -> None:
    with pytest.raises((UrlRefused, OSError)):
        asyncio.run(UrlPolicy().addresses(f"https://{host}/"))


@pytest.mark.parametrize(
    "url", ["http://localhost:8080/a", "http://127.0.0.1/a", "http://[::1]:9/a", "https://localhost/"]
)
def test_this_machine_is_called_only_when_allowed(url: str) -> None:
    assert UrlPolicy(loopback=True, hosts=("storage.example.com",)).check(url)
    if url.startswith("http://"):
        with pytest.raises(UrlRefused):
            UrlPolicy().check(url)


@pytest.mark.parametrize("url", ["http://example.com/", "http://10.0.0.1/", "http://127.0.0.1.example.com/"])
def test_allowing_this_machine_allows_no_other(url: str) -> None:
    with pytest.raises(UrlRefused):
        UrlPolicy(loopback=True).check(url)


def test_allowing_this_machine_allows_no_other_name_of_it() -> None:
    async def run() -> None:
        with pytest.raises(UrlRefused):
            await UrlPolicy(loopback=True).addresses("https://inside.example.com/", Names(["127.0.0.1"]))
        with pytest.raises(UrlRefused):
            await UrlPolicy(loopback=True).addresses("http://localhost/", Names(["127.0.0.1", PUBLIC]))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://b.s3.com/a%20b/c.json?X-Amz-Signature=secret", "https://b.s3.com/a%20b/c.json"),
        ("https://user:secret@b.s3.com:9000/a#secret", "https://b.s3.com:9000/a"),
        ("https://b.s3.com", "https://b.s3.com"),
        ("https://[2606:4700::1]/a?secret", "https://[2606:4700::1]/a"),
        ("https://b.s3.com/a b?secret\n", "an unreadable URL"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown


async def get(transport: CheckedTransport, url: str) -> int:
    async with httpx.AsyncClient(transport=transport, timeout=5, trust_env=False) as client:
        return (await client.get(url)).status_code


def test_a_name_that_resolves_elsewhere_after_the_check_is_not_connected_to() -> None:
    async def run() -> None:
        async with Storage() as storage:
            names = Names([PUBLIC], ["127.0.0.1"])
            policy = UrlPolicy(ports=(storage.port,))
            url = f"https://rebinding.example.com:{storage.port}/"
            assert await policy.addresses(url, names) == [PUBLIC]
            with pytest.raises(UrlRefused):
                await get(CheckedTransport(policy, resolve=names), url)
            assert len(names.asked) == 2

    asyncio.run(run())


def test_the_connection_goes_to_the_address_that_was_checked_and_the_request_names_the_host() -> None:
    """`localhost` is 127.0.0.1 to everybody but this name service, and nobody listens there."""

    async def run() -> None:
        async with Storage(answers(200), answers(200), host="127.0.0.2") as storage:
            names = Names(["127.0.0.3", "127.0.0.2"])
            transport = CheckedTransport(UrlPolicy(loopback=True), resolve=names)
            async with httpx.AsyncClient(transport=transport) as client:
                for _ in range(2):
                    await client.get(f"http://localhost:{storage.port}/a?b=%2F")
        assert [request.header("host") for request in storage.received] == [f"localhost:{storage.port}"] * 2
        assert storage.received[0].target == "/a?b=%2F"
        assert len(names.asked) == 2  # each request is checked for itself

    asyncio.run(run())


def asked_of_a_server_that_keeps_connections(names: Names, hosts: Sequence[str]) -> int:
    """Asks a server on this machine by these names, one after the other; how many connections it took."""
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = CheckedTransport(UrlPolicy(loopback=True), resolve=names)
        async with server, httpx.AsyncClient(transport=transport) as client:
            for host in hosts:
                assert (await client.get(f"http://{host}:{port}/")).text == "ok"

    asyncio.run(run())
    return len(connections)


def test_a_connection_is_kept_for_its_name_and_serves_no_other() -> None:
    hosts = ["localhost", "127.0.0.1", "localhost", "127.0.0.1", "localhost"]
    assert asked_of_a_server_that_keeps_connections(Names(["127.0.0.1"]), hosts) == 2


def test_a_connection_that_is_kept_is_not_used_once_its_name_is_somewhere_else() -> None:
    with pytest.raises(UrlRefused):
        asked_of_a_server_that_keeps_connections(Names(["127.0.0.1"], ["10.0.0.1"]), ["localhost", "localhost"])


def test_a_name_that_can_not_be_resolved_is_a_failed_connection() -> None:
    async def nobody(host: str, port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    async def run(names: Names | None) -> None:
        with pytest.raises(httpx.ConnectError):
            await get(CheckedTransport(UrlPolicy(), resolve=names or nobody), "https://nowhere.example.com/?secret")

    asyncio.run(run(None))
    asyncio.run(run(Names([])))


def test_a_redirect_inside_is_refused_even_if_a_client_follows_it() -> None:
    async def run() -> None:
        async with Storage(answers(302, ["Location: http://169.254.169.254/latest"])) as storage:
            transport = CheckedTransport(UrlPolicy(loopback=True))
            async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
                with pytest.raises(UrlRefused):
                    await client.get(f"http://127.0.0.1:{storage.port}/")

    asyncio.run(run())


def certified(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of this name presents, and a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_pem.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem, key_pem)
    return server, ssl.create_default_context(cafile=str(pem))


@pytest.mark.parametrize("name", ["localhost", "other.example.com"])
def test_the_certificate_must_be_the_names_not_the_address(name: str, tmp_path: Path) -> None:
    server, client = certified(name, tmp_path)

    async def run() -> None:
        async with Storage(answers(200), tls=server) as storage:
            transport = CheckedTransport(UrlPolicy(loopback=True), resolve=Names(["127.0.0.1"]), ssl_context=client)
            url = f"https://localhost:{storage.port}/"
            if name == "localhost":
                assert await get(transport, url) == 200
            else:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await get(transport, url)

    asyncio.run(run())
