"""The doctor says what is there, and nobody's name."""

import getpass
import socket

from scfm import __version__
from support import command


def test_it_names_versions_attention_and_devices(tmp_path):
    text = command("doctor", f"output={tmp_path / 'doctor.txt'}")
    assert (tmp_path / "doctor.txt").read_text().strip() == text
    for word in (
        f"scfm {__version__}",
        "torch ",
        "deepspeed ",
        "cpu, float32: sdpa",
        "gloo: True",
        "cores",
        "GiB free",
    ):
        assert word in text
    assert socket.gethostname() not in text
    assert f"/{getpass.getuser()}/" not in text
