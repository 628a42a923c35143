"""The doctor says what is there, and nobody's name."""

import getpass
import socket

from scfm import __version__
from scfm.commands import doctor
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


def test_it_ends_with_ready_or_with_the_one_thing_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "outdated", lambda: iter(()))
    assert command("doctor").splitlines()[-1].startswith("Ready: ")
    monkeypatch.setattr(doctor, "outdated", lambda: iter([("torch>=99", "2.13.0"), ("numpy>=99", "2.4")]))
    last = command("doctor").splitlines()[-1]
    assert last == "Not ready. Do this first: pip install 'torch>=99' (installed: 2.13.0) (1 more after that)"


def test_a_package_below_its_range_is_found(monkeypatch):
    wanted = ["torch>=99", "numpy>=2.0", "nosuchpackage>=1", 'deepspeed>=99; extra == "deepspeed"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: wanted)
    assert [name for name, _ in doctor.outdated()] == ["torch>=99", "nosuchpackage>=1"]


def test_a_gpu_that_torch_does_not_see_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "outdated", lambda: iter(()))
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(doctor.torch.version, "cuda", None)
    assert "torch without CUDA" in doctor.faults()[0]
    monkeypatch.setattr(doctor.torch.version, "cuda", "13.0")
    assert "does not see the GPU" in doctor.faults()[0]
