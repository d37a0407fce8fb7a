"""The theorem behind certificates of a trained network itself."""

from rankjax.certificates.theorem._certificate import Certificate as Certificate
from rankjax.certificates.theorem._certificate import GuardReport as GuardReport
from rankjax.certificates.theorem._certify import certify as certify
from rankjax.certificates.theorem._lattice import LeafCode as LeafCode
from rankjax.certificates.theorem._network import Network as Network
from rankjax.certificates.theorem._network import trace_network as trace_network
from rankjax.certificates.theorem._surrogate import Surrogate as Surrogate
from rankjax.certificates.theorem._surrogate import surrogate as surrogate
from rankjax.certificates.theorem._verify import verify as verify
