"""A network in a file of few bits, and its certificate: what the file holds is the whole network.

``_coder`` and ``_symbols`` write integers, ``_format`` a network of them; ``_initial`` and
``_training`` find the integers, ``_compress`` puts both together, ``_network`` certifies.
"""

from rankjax.certificates.file._compress import compress as compress
from rankjax.certificates.file._errors import count_errors as count_errors
from rankjax.certificates.file._network import CompressedCertificate as CompressedCertificate
from rankjax.certificates.file._network import CompressedNetwork as CompressedNetwork
from rankjax.certificates.file._training import Schedule as Schedule
