"""Guarantees with every constant, together with their assumptions."""

from rankjax.certificates._near import NearCertificate as NearCertificate
from rankjax.certificates._near import certify_near as certify_near
from rankjax.certificates._near import verify_near as verify_near
from rankjax.certificates.any_network import DisagreementCertificate as DisagreementCertificate
from rankjax.certificates.any_network import HoldOutCertificate as HoldOutCertificate
from rankjax.certificates.any_network import Picked as Picked
from rankjax.certificates.any_network import PickedCertificate as PickedCertificate
from rankjax.certificates.any_network import Picking as Picking
from rankjax.certificates.any_network import PickState as PickState
from rankjax.certificates.any_network import certify_by as certify_by
from rankjax.certificates.any_network import hold_out as hold_out
from rankjax.certificates.any_network import pick_to_learn as pick_to_learn
from rankjax.certificates.file import CompressedCertificate as CompressedCertificate
from rankjax.certificates.file import CompressedNetwork as CompressedNetwork
from rankjax.certificates.file import Schedule as Schedule
from rankjax.certificates.file import compress as compress
from rankjax.certificates.theorem import Certificate as Certificate
from rankjax.certificates.theorem import GuardReport as GuardReport
from rankjax.certificates.theorem import LeafCode as LeafCode
from rankjax.certificates.theorem import Network as Network
from rankjax.certificates.theorem import Surrogate as Surrogate
from rankjax.certificates.theorem import certify as certify
from rankjax.certificates.theorem import surrogate as surrogate
from rankjax.certificates.theorem import trace_network as trace_network
from rankjax.certificates.theorem import verify as verify
