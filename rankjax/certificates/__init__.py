"""Guarantees with every constant, and the assumptions they rest on."""

from rankjax.certificates.certificate import Certificate as Certificate
from rankjax.certificates.certify import certify as certify
from rankjax.certificates.file import CompressedCertificate as CompressedCertificate
from rankjax.certificates.file import CompressedNetwork as CompressedNetwork
from rankjax.certificates.file import Schedule as Schedule
from rankjax.certificates.file import compress as compress
from rankjax.certificates.near import NearCertificate as NearCertificate
from rankjax.certificates.near import certify_near as certify_near
from rankjax.certificates.recursion import Recursion as Recursion
from rankjax.certificates.recursion import trace_recursion as trace_recursion
from rankjax.certificates.surrogate import Surrogate as Surrogate
from rankjax.certificates.surrogate import surrogate as surrogate
from rankjax.certificates.verify import verify as verify
