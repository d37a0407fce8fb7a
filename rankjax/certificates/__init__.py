"""Guarantees below 1: certificates of trained networks, every constant counted."""

from rankjax.certificates.compressed import CompressedCertificate as CompressedCertificate
from rankjax.certificates.compressed import CompressedNetwork as CompressedNetwork
from rankjax.certificates.compressed import compress as compress
from rankjax.certificates.finetune import Schedule as Schedule
