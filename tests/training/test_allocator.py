"""Memory that a step frees is not given back to the system."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

MEASURE = """
import resource, sys
import torch
from qseq.training.allocator import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()

def step():
    torch.ones(10 * 2**20)  # more than glibc ever keeps by itself

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_repeated_step_takes_no_new_pages() -> None:
    def faults(how: str) -> int:
        result = subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=True)
        return int(result.stdout)

    pages_of_a_step = 4 * 10 * 2**20 // resource.getpagesize()
    assert faults("give back") > 5 * pages_of_a_step
    assert faults("keep") < 3 * pages_of_a_step
