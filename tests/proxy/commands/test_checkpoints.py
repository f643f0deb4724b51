"""Checkpoints on disk: listing, verification, and downloads after confirmation."""

import json
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from typer.testing import CliRunner

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.compression.models.errors import CheckpointError
from clara_proxy.proxy.commands import checkpoints, models
from clara_proxy.tests.compression.clara.tiny import make_checkpoint, make_pisco_checkpoint

CHECKPOINT = "clara/compression-4"


class FakeHub:
    """A hub with repositories in folders and a cache in another; `downloads` lists the downloaded ones."""

    def __init__(self, cache: Path, remote: dict[str, Path]) -> None:
        self.cache, self.remote, self.downloads = cache, remote, list[str]()

    def find_cached(self, repo: str, files: Sequence[str]) -> Path | None:
        folder = self.cache / repo.replace("/", "--")
        return folder if folder.is_dir() else None

    def read_sizes(self, repo: str, files: Sequence[str]) -> dict[str, int]:
        return {name: path.stat().st_size for name, path in self._matching(repo, files).items()}

    def download(self, repo: str, files: Sequence[str]) -> Path:
        self.downloads.append(repo)
        folder = self.cache / repo.replace("/", "--")
        for name, path in self._matching(repo, files).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
        return folder

    def _matching(self, repo: str, files: Sequence[str]) -> dict[str, Path]:
        if repo not in self.remote:
            raise CheckpointError(f"{repo}: cannot be downloaded from the hub (404)")
        top = self.remote[repo]
        names = {str(path.relative_to(top)): path for path in top.rglob("*") if path.is_file()}
        return {name: path for name, path in names.items() if any(fnmatchcase(name, file) for file in files)}


@pytest.fixture(scope="module")
def complete_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def tiny(complete_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete_checkpoint, tmp_path / "tiny"))


@pytest.fixture
def hub(complete_checkpoint: Path, tmp_path: Path) -> FakeHub:
    return FakeHub(
        tmp_path / "cache",
        {"apple/tiny": complete_checkpoint / "clara", checkpoints.BASE_REPO: complete_checkpoint / "base"},
    )


def verify(tiny: Path) -> checkpoints.CheckpointFinding:
    return checkpoints.verify_checkpoint(tiny / "clara", base=tiny / "base")[-1]


def test_complete_checkpoint_is_ok(tiny: Path) -> None:
    findings = checkpoints.verify_checkpoint(tiny / "clara", "compression-4", tiny / "base")
    assert [finding.name for finding in findings] == [
        "checkpoint",
        "adapters.pth",
        "decoder_first_last_layers.pth",
        "base model",
        "base weights",
        "tokenizer",
        "adapters",
    ]
    assert all(finding.is_ok for finding in findings)
    assert "query_reasoner_adapter" in findings[-1].result


def test_golden_checkpoints_are_ok() -> None:
    golden = Path(__file__).parents[4] / "shared" / "clara-format"
    if not golden.is_dir():
        pytest.skip("the golden folder ../shared/clara-format is not here")
    for folder in sorted((golden / "checkpoints").glob("CLaRa-tiny-*")):
        assert all(
            finding.is_ok for finding in checkpoints.verify_checkpoint(folder, base=golden / "base" / "tiny-mistral")
        ), folder


@pytest.mark.parametrize(
    "file",
    [f"{CHECKPOINT}/config.json", f"{CHECKPOINT}/adapters.pth", f"{CHECKPOINT}/decoder_first_last_layers.pth"]
    + [f"base/{name}" for name in ("config.json", "tokenizer.json", "model.safetensors")],
)
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "nonsense"])
def test_damaged_file_is_named(tiny: Path, file: str, damage: str) -> None:
    path = tiny / file
    raw = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"cut": raw[: len(raw) // 2], "empty": b"", "nonsense": b"nonsense " * 50}[damage])
    finding = verify(tiny)
    assert not finding.is_ok
    assert path.name in finding.result


@pytest.mark.parametrize("file", ["adapters.pth", "decoder_first_last_layers.pth"])
def test_flipped_bit_in_a_tensor_is_detected(tiny: Path, file: str) -> None:
    path = tiny / CHECKPOINT / file
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = next(entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
    head = struct.unpack_from("<26xHH", raw, record.header_offset)  # the lengths of the name and of its padding
    raw[record.header_offset + 30 + sum(head)] ^= 1
    path.write_bytes(raw)
    finding = verify(tiny)
    assert not finding.is_ok
    assert file in finding.result


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("file", "values", "name"),
    [
        (f"{CHECKPOINT}/config.json", {"compr_rate": 8}, "model.embed_tokens.weight"),
        (f"{CHECKPOINT}/config.json", {"lora_r": 8}, "adapters.pth"),
        (f"{CHECKPOINT}/config.json", {"compr_rate": 0}, "config.json"),
        ("base/config.json", {"num_hidden_layers": 3}, "model.layers.2"),
        ("base/config.json", {"intermediate_size": 64}, "gate_proj"),
        ("base/config.json", {"model_type": "llama"}, "model_type"),
    ],
)
def test_mismatch_with_the_config_is_named(tiny: Path, file: str, values: dict[str, object], name: str) -> None:
    change(tiny / file, **values)
    finding = verify(tiny)
    assert not finding.is_ok
    assert name in finding.result


def test_pickled_code_is_not_executed(tiny: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"decoder_adapter": Trap(str(tmp_path / "run"))}, tiny / CHECKPOINT / "adapters.pth")
    assert not verify(tiny).is_ok
    assert not (tmp_path / "run").exists()


class Trap:
    """Unpickling it would create a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (Path(self.path),)


def test_header_of_absurd_length_is_rejected(tiny: Path) -> None:
    (tiny / "base" / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    assert "model.safetensors" in verify(tiny).result


def test_sharded_weights_are_located_by_their_index(tiny: Path) -> None:
    base = tiny / "base"
    with (base / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    names = {name: "model-00001-of-00001.safetensors" for name in header if name != "__metadata__"}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert verify(tiny).is_ok
    names["model.norm.weight"] = "model-00002-of-00002.safetensors"
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert "model-00002-of-00002.safetensors" in verify(tiny).result


def test_list_marks_complete_local_checkpoints(complete_checkpoint: Path, tmp_path: Path) -> None:
    hub = FakeHub(tmp_path / "cache", {})
    folder = tmp_path / "cache" / "apple--CLaRa-7B-E2E"
    shutil.copytree(complete_checkpoint / CHECKPOINT, folder / "compression-16")
    shutil.copytree(complete_checkpoint / CHECKPOINT, folder / "compression-128")
    (folder / "compression-128" / "adapters.pth").unlink()
    nano, *entries = checkpoints.list_checkpoints(hub)
    assert nano.repo == "clara-nano"
    assert len({(entry.repo, entry.subfolder) for entry in entries}) == 7
    assert [entry.local for entry in entries if entry.local] == [folder / "compression-16"]
    assert all("research only" in entry.licence for entry in entries if entry.repo.startswith("apple/"))
    assert all(entry.purpose for entry in (nano, *entries))
    (pisco,) = [entry for entry in entries if entry.repo == "naver/pisco-mistral"]
    assert (pisco.subfolder, "non-commercial" in pisco.licence) == ("", True)
    assert pisco.size_bytes == 2 * 83_886_080 + 2 * 32_011 * 4096 * 2
    by_name = {(entry.repo.rpartition("-")[2], entry.subfolder): entry.size_bytes for entry in entries}
    assert by_name["E2E", "compression-128"] == 3 * 83_886_080 + 2 * 32_005 * 4096 * 2
    assert [checkpoints.format_size(count) for count in (999, 512_000, 776_000_000, 14_483_464_192)] == [
        "999 B",
        "512 kB",
        "776 MB",
        "14.5 GB",
    ]


def test_pull_confirms_first_and_verifies_afterwards(hub: FakeHub) -> None:
    summaries: list[str] = []

    def reject(text: str) -> bool:
        summaries.append(text)
        return False

    assert checkpoints.pull_checkpoint("apple/tiny", "compression-4", None, reject, hub) is None
    assert not hub.downloads
    (text,) = summaries
    assert "apple/tiny" in text
    assert "research only" in text
    assert "apache-2.0" in text
    assert "kB" in text
    findings = checkpoints.pull_checkpoint("apple/tiny", "compression-4", None, lambda _: True, hub)
    assert hub.downloads == ["apple/tiny", checkpoints.BASE_REPO]
    assert findings is not None
    # The tiny checkpoint names another base model, so the location of its base must be given.
    assert findings[-1].result.startswith("the base model")
    assert checkpoints.verify_checkpoint("apple/tiny", "compression-4", checkpoints.BASE_REPO, hub)[-1].is_ok


def test_pisco_is_pulled_from_the_top_of_its_repository(tmp_path: Path) -> None:
    checkpoint = make_pisco_checkpoint(tmp_path)
    hub = FakeHub(tmp_path / "cache", {"naver/tiny": checkpoint / "pisco", checkpoints.BASE_REPO: checkpoint / "base"})
    summaries: list[str] = []

    def accept(text: str) -> bool:
        summaries.append(text)
        return True

    findings = checkpoints.pull_checkpoint("naver/tiny", None, None, accept, hub)
    assert "non-commercial use only" in summaries[0]
    assert findings is not None
    assert findings[-1].is_ok, findings
    assert "16x, 8 memory tokens" in findings[0].result
    (tmp_path / "cache" / "naver--tiny" / "adapters.pth").unlink()
    assert "adapters.pth is missing" in checkpoints.verify_checkpoint("naver/tiny", hub=hub)[-1].result


def test_base_in_a_folder_is_not_downloaded(hub: FakeHub, complete_checkpoint: Path) -> None:
    findings = checkpoints.pull_checkpoint(
        "apple/tiny", "compression-4", complete_checkpoint / "base", lambda _: True, hub
    )
    assert hub.downloads == ["apple/tiny"]
    assert findings is not None
    assert findings[-1].is_ok


def test_missing_files_are_reported_before_confirmation(hub: FakeHub) -> None:
    def fail(text: str) -> bool:
        raise AssertionError(text)

    with pytest.raises(CheckpointError, match="apple/other"):
        checkpoints.pull_checkpoint("apple/other", None, None, fail, hub)
    with pytest.raises(CheckpointError, match=r"compression-99/config\.json"):
        checkpoints.pull_checkpoint("apple/tiny", "compression-99", None, fail, hub)


def test_incomplete_download_is_named(hub: FakeHub, complete_checkpoint: Path) -> None:
    assert (
        "models pull" in checkpoints.verify_checkpoint("apple/tiny", None, complete_checkpoint / "base", hub)[-1].result
    )
    hub.download("apple/tiny", ["compression-4/config.json", "compression-4/adapters.pth"])
    finding = checkpoints.verify_checkpoint("apple/tiny", "compression-4", complete_checkpoint / "base", hub)[-1]
    assert not finding.is_ok
    assert "decoder_first_last_layers.pth" in finding.result


def test_missing_path_to_the_published_base_is_mapped(hub: FakeHub, tiny: Path) -> None:
    change(tiny / CHECKPOINT / "config.json", decoder_model_name="/mnt/gone/Mistral-7B-Instruct-v0.2")
    assert checkpoints.BASE_REPO in checkpoints.verify_checkpoint(tiny / "clara", hub=hub)[-1].result
    hub.download(checkpoints.BASE_REPO, checkpoints.BASE_PATTERNS)
    assert checkpoints.verify_checkpoint(tiny / "clara", hub=hub)[-1].is_ok


def test_hub_cache_is_read_without_a_network(
    tmp_path: Path, complete_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub = checkpoints.HuggingFace()
    assert hub.find_cached("apple/CLaRa-7B-E2E", ["*"]) is None
    assert hub.find_cached("not a name", ["*"]) is None
    repo = tmp_path / "models--apple--CLaRa-7B-E2E"
    shutil.copytree(complete_checkpoint / CHECKPOINT, repo / "snapshots" / "0123abcd" / "compression-16")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abcd")
    local = [entry for entry in checkpoints.list_checkpoints(hub)[1:] if entry.local]
    assert [(entry.repo, entry.subfolder) for entry in local] == [("apple/CLaRa-7B-E2E", "compression-16")]


def test_listing_does_not_import_torch() -> None:
    code = (
        "import sys; from clara_proxy.proxy.commands import checkpoints; "
        "checkpoints.list_checkpoints(); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_sizes_are_read_from_the_hub() -> None:
    files = [{"rfilename": "compression-16/config.json", "size": 12}, {"rfilename": "README.md", "size": 3}]
    with respx.mock(assert_all_called=False) as mocked:
        hub: Any = mocked
        hub.route().mock(return_value=httpx.Response(200, json={"id": "apple/X", "siblings": files}))
        assert checkpoints.HuggingFace().read_sizes("apple/X", ["compression-16/*"]) == {
            "compression-16/config.json": 12
        }
        assert any(call.request.url.path == "/api/models/apple/X" for call in hub.calls)


@pytest.mark.parametrize("error", [httpx.ConnectError("no network"), httpx.ReadTimeout("too slow")])
def test_pull_without_a_network_ends_with_a_message(error: httpx.TransportError) -> None:
    with respx.mock(assert_all_called=False) as mocked:
        hub: Any = mocked
        hub.route().mock(side_effect=error)
        result = CliRunner().invoke(models.app, ["pull", "apple/X", "--yes"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)  # a message, not a traceback
    assert result.output.count("\n") == 1
    assert f"apple/X: the hub cannot be reached ({type(error).__name__}: {error})" in result.output


def test_rejection_by_the_hub_names_the_repository() -> None:
    with respx.mock(assert_all_called=False) as mocked:
        hub: Any = mocked
        hub.route().mock(return_value=httpx.Response(401, json={"error": "this model is gated"}))
        with pytest.raises(CheckpointError, match="apple/X: cannot be downloaded"):
            checkpoints.HuggingFace().read_sizes("apple/X", ["*"])
