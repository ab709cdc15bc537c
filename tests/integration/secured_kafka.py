"""One broker of Apache Kafka with a listener of every kind, and the files to meet them with."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.local import KafkaRelease
from deploy.local.ports import HOST, free_ports
from tests.kafka_cluster import RunningCluster

KINDS = ("SASL_PLAINTEXT", "SSL", "SASL_SSL", "MTLS")
PASSWORD = "a-secret"


@dataclass(frozen=True)
class SecuredKafka:
    """Where each kind of listener is; MTLS is SSL that wants a certificate of its clients.

    Whoever comes without a login may do anything; user alice may do nothing but log in.
    """

    cluster: RunningCluster
    servers: dict[str, str]
    ca_path: Path
    other_ca_path: Path


def secured_kafka(directory: Path, release: KafkaRelease) -> SecuredKafka:
    """Return a broker that is not started yet."""
    ca_path, server_path = _certificates(directory)
    other_ca_path, _ = _certificates(directory / "other")
    cluster = RunningCluster(directory / "kafka", release)
    ports = cluster.nodes[0].ports
    kinds = dict(zip(KINDS, free_ports(len(KINDS)), strict=True))
    addresses = {"PLAINTEXT": f"{HOST}:{ports['main']}"}
    addresses |= {kind: f"{HOST}:{port}" for kind, port in kinds.items()}
    users = f'user_admin="{PASSWORD}" user_alice="{PASSWORD}"'
    login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
    cluster.properties = {
        "listeners": ",".join(
            [f"{kind}://{where}" for kind, where in addresses.items()] + [f"CONTROLLER://{HOST}:{ports['controller']}"]
        ),
        "advertised.listeners": ",".join(f"{kind}://{where}" for kind, where in addresses.items()),
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,MTLS:SSL"
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": login,
        "listener.name.sasl_ssl.plain.sasl.jaas.config": login,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(server_path),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ca_path),
        "listener.name.mtls.ssl.client.auth": "required",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
    }
    return SecuredKafka(cluster, addresses, ca_path, other_ca_path)


def _certificates(directory: Path) -> tuple[Path, Path]:
    """Make an authority and a server's key with its certificate; return the paths of both."""
    directory.mkdir(parents=True, exist_ok=True)
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {directory.name}")])
    ca = _certificate(ca_name, ca_name, ca_key, ca_key, is_ca=True)
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    server = _certificate(server_name, ca_name, server_key, ca_key, is_ca=False)
    ca_path, server_path = directory / "ca.pem", directory / "server.pem"
    pem = serialization.Encoding.PEM
    ca_path.write_bytes(ca.public_bytes(pem))
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    server_path.write_bytes(key + server.public_bytes(pem) + ca.public_bytes(pem))
    return ca_path, server_path


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signed_by: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if not is_ca:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signed_by, hashes.SHA256())
