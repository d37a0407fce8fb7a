"""Guarantees for any network, unchanged: what they need is data, not structure."""

from rankjax.certificates.any_network._disagreement import (
    DisagreementCertificate as DisagreementCertificate,
)
from rankjax.certificates.any_network._disagreement import certify_by as certify_by
from rankjax.certificates.any_network._hold_out import HoldOutCertificate as HoldOutCertificate
from rankjax.certificates.any_network._hold_out import hold_out as hold_out
from rankjax.certificates.any_network._pick_to_learn import Picked as Picked
from rankjax.certificates.any_network._pick_to_learn import PickedCertificate as PickedCertificate
from rankjax.certificates.any_network._pick_to_learn import pick_to_learn as pick_to_learn
from rankjax.certificates.any_network._picking import Picking as Picking
from rankjax.certificates.any_network._picking import PickState as PickState
