"""What a trained run gives you: act, save, load."""

from qseq.observations import Observation
from qseq.policies.base import Policy
from qseq.policies.files import write_description
from qseq.policies.locate import locate_policy, read_description
from qseq.policies.token_policy import TokenPolicy
from qseq.policies.token_policy_spec import TokenPolicySpec
from qseq.policies.watching import DecisionValues

__all__ = [
    "DecisionValues",
    "Observation",
    "Policy",
    "TokenPolicy",
    "TokenPolicySpec",
    "locate_policy",
    "read_description",
    "write_description",
]
