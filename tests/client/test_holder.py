"""A dead holder of this machine is known as such, and nobody else is."""

import os
import re
import subprocess

from store.client.holder import default_holder, is_gone


def test_this_process_is_not_gone() -> None:
    mine = default_holder("nbd")
    assert mine.startswith("nbd on ") and f"process {os.getpid()} [" in mine
    assert not is_gone(mine)


def test_a_process_that_ended_is_gone() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert is_gone(re.sub(r"process \d+", f"process {ended.pid}", default_holder("nbd")))


def test_another_process_of_the_same_number_is_not_the_holder() -> None:
    assert is_gone(re.sub(r"\.\d+]$", ".1]", default_holder("nbd")))


def test_whoever_is_elsewhere_or_writes_something_else_may_be_alive() -> None:
    elsewhere = re.sub(r"\[........", "[00000000", default_holder("nbd"))
    assert not is_gone(re.sub(r"process \d+", "process 999999999", elsewhere))
    assert not is_gone("somebody") and not is_gone("")
