"""Exports sent to the hub: one private commit of what was written, and a whole folder whatever fails."""

import pytest
from transformers import AutoModelForMaskedLM

from scfm.published import push
from support import command


class Hub:
    """Stands for huggingface_hub: notes what it is asked."""

    def __init__(self, *, offline=False, token="t", fault=None):
        from types import SimpleNamespace

        self.constants = SimpleNamespace(HF_HUB_OFFLINE=offline)
        self.calls, self._token, self._fault = [], token, fault

    def get_token(self):
        return self._token

    def HfApi(self):
        return self

    def create_repo(self, name, **options):
        self.calls.append(("create_repo", name, options))

    def upload_folder(self, **options):
        from types import SimpleNamespace

        if self._fault is not None:
            raise self._fault
        self.calls.append(("upload_folder", options["repo_id"], options))
        return SimpleNamespace(commit_url="https://hub/commit")


class TestPush:
    @pytest.fixture
    def export(self, trained, tmp_path, monkeypatch):
        def run(hub):
            monkeypatch.setattr(push, "need", lambda *_: hub)
            out = tmp_path / "out"
            command("export", f"checkpoint={trained('mlm')}", f"output={out}", "push=me/model")

        return run

    def test_one_private_commit_of_what_was_written(self, export, tmp_path):
        hub = Hub()
        export(hub)
        (made, _, options), (sent, _, upload) = hub.calls
        assert (made, sent) == ("create_repo", "upload_folder")
        assert options["private"] is True
        assert sorted(upload["allow_patterns"]) == sorted(path.name for path in (tmp_path / "out").iterdir())

    @pytest.mark.parametrize(
        ("hub", "sentence"),
        [
            (Hub(offline=True), "HF_HUB_OFFLINE is set"),
            (Hub(token=None), "no token of the hub"),
            (Hub(fault=ConnectionError("no route to host")), "no route to host"),
        ],
    )
    def test_what_fails_leaves_a_whole_folder_and_exit_2(self, hub, sentence, export, tmp_path, caplog):
        with pytest.raises(SystemExit) as end:
            export(hub)
        assert end.value.code == 2
        assert sentence in caplog.text
        assert not any(name == "upload_folder" for name, *_ in hub.calls)
        AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
