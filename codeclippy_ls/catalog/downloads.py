"""Download models from the Hugging Face Hub into a folder of our own, and remove them from there.

Size and licence are known before anything is downloaded. What was cut off is resumed, and each large file's hash is
compared with the hub's. Everything is by the package `huggingface_hub`, which knows proxies, tokens and mirrors.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from codeclippy_ls.catalog.gguf_header import SPLIT_NAME
from codeclippy_ls.catalog.stores import find_download_folder

_NAME = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>(?:\w[\w.-]*/)*\w[\w.-]*\.gguf)|:(?P<format>\w+))?", re.ASCII
)
_TIMEOUT = 20.0  # seconds for the hub to answer
_SPARE_BYTES = 256 << 20  # that a download leaves free on the disk
_OTHER_FILES = re.compile(r"[^/]+\.(?:json|txt|jinja)|tokenizer\.model")
_WEIGHTS = (re.compile(r"model[^/]*\.safetensors"), re.compile(r"pytorch_model[^/]*\.bin"))
# Of a repository with several number formats, if the name says none: the most used ones.
_FORMATS = ("Q4_K_M", "Q4_0", "Q5_K_M", "Q8_0")
_READ_BYTES = 1 << 22

Report = Callable[[int, int], None]


class DownloadError(Exception):
    """Nothing can be downloaded or removed; the message is for the user."""


class DownloadCancelledError(Exception):
    """The user cancelled a download; it can be resumed."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository; ``sha256`` is empty if the hub does not tell it."""

    path: str
    nbytes: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """Files of the hub that make a model.

    Attributes:
        model_name: what settings call the model afterwards.
        licence: as the hub states it.
        files: the configuration last, so that no list shows a folder without its weights.
    """

    repository: str
    revision: str
    model_name: str
    licence: str
    files: tuple[RemoteFile, ...]

    @property
    def nbytes(self) -> int:
        """Size of all files."""
        return sum(file.nbytes for file in self.files)

    @property
    def folder(self) -> Path:
        """The folder that the files are put into."""
        return find_download_folder() / self.repository

    @property
    def missing_bytes(self) -> int:
        """Size of the files that are not here yet."""
        return sum(file.nbytes for file in self.files if not self._has(file))

    def _has(self, file: RemoteFile) -> bool:
        path = self.folder / file.path
        return path.is_file() and path.stat().st_size == file.nbytes


def plan_download(name: str) -> DownloadPlan:
    """Ask the hub for a model's files.

    Args:
        name: ``owner/name``, for one number format ``owner/name:Q4_K_M``, or one file, ``owner/name/file.gguf``.

    Raises:
        DownloadError: there is no such model, or the hub cannot be asked.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise DownloadError(
            f"{name!r:.120} is no name of the hub; write owner/name, owner/name:Q4_K_M or owner/name/file.gguf"
        )
    from huggingface_hub import HfApi

    repository = match["repository"]
    try:
        answer = HfApi().model_info(repository, files_metadata=True, timeout=_TIMEOUT)
    except Exception as error:  # of the network and the hub, of many types
        raise DownloadError(_explain(repository, error)) from error
    files = [_read_sibling(sibling) for sibling in answer.siblings or () if _is_inside(sibling.rfilename)]
    chosen = _choose_files(repository, files, match["file"], match["format"])
    is_gguf = chosen[0].path.endswith(".gguf")
    model_name = f"{repository}/{chosen[0].path}" if is_gguf else repository
    licence = _read_licence(answer)
    return DownloadPlan(repository, str(answer.sha), model_name, licence, tuple(chosen))


def download(plan: DownloadPlan, report: Report = lambda done, total: None) -> Path:
    """Download what is missing of a plan, and check it; return the model's file or folder.

    Args:
        report: called with the bytes that are here and the size; whatever it raises ends the download.

    Raises:
        DownloadError: the disk is full, the connection ended, or a file is not the one that the hub has.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(plan.folder / ".lock", timeout=0):
            return _download(plan, report)
    except Timeout:
        raise DownloadError(
            f"{plan.repository} is being downloaded by another program; wait until it is done"
        ) from None
    except OSError as error:
        raise DownloadError(f"{plan.folder} cannot be written: {error.strerror}") from error


def _download(plan: DownloadPlan, report: Report) -> Path:
    free = shutil.disk_usage(plan.folder).free
    if plan.missing_bytes > free - _SPARE_BYTES:
        raise DownloadError(
            f"{plan.missing_bytes / 1e9:.1f} GB are needed in {plan.folder}, and {free / 1e9:.1f} GB are free; make "
            "room, or choose a smaller model"
        )
    done = 0
    for file in plan.files:
        _download_file(plan, file, done, report)
        done += file.nbytes
        report(done, plan.nbytes)
    first = plan.folder / plan.files[0].path
    return first if first.suffix == ".gguf" else plan.folder


def remove_download(name: str) -> int:
    """Remove a model that was downloaded, by the name that lists show; return the bytes.

    Raises:
        DownloadError: it is not one of ours, or it cannot be removed.
    """
    match = _NAME.fullmatch(name)
    root = find_download_folder()
    folder = root / match["repository"] if match is not None and not match["format"] else root
    if match is None or folder == root or not folder.is_dir() or folder.is_symlink():
        raise DownloadError(f"{name!r:.120} was not downloaded by `codeclippy-ls models get`; nothing is removed")
    files = (
        _list_parts(folder / match["file"]) if match["file"] else [file for file in folder.rglob("*") if file.is_file()]
    )
    nbytes = sum(file.lstat().st_size for file in files)
    try:
        for file in files:
            file.unlink()
        if not any(folder.rglob("*.gguf")):
            shutil.rmtree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
    except OSError as error:
        raise DownloadError(f"{error.filename} cannot be removed: {error.strerror}") from error
    return nbytes


def _list_parts(file: Path) -> list[Path]:
    """Return the files of a model that are there; raise if there is none."""
    match = SPLIT_NAME.fullmatch(file.name)
    parts = sorted(file.parent.glob(f"{match[1]}-?????-of-{match[3]}.gguf")) if match is not None else [file]
    if not (found := [part for part in parts if part.is_file()]):
        raise DownloadError(f"{file} does not exist; nothing is removed")
    return found


def _is_inside(path: str) -> bool:
    """Return whether a path of the hub stays in its folder."""
    return not path.startswith(("/", "\\")) and ":" not in path and ".." not in re.split(r"[/\\]", path)


def _read_sibling(sibling: Any) -> RemoteFile:
    sha256 = getattr(sibling.lfs, "sha256", "") if sibling.lfs is not None else ""
    return RemoteFile(str(sibling.rfilename), int(sibling.size or 0), str(sha256 or ""))


def _read_licence(answer: Any) -> str:
    card = getattr(answer, "card_data", None)
    stated = getattr(card, "license_name", None) or getattr(card, "license", None)
    tags = [tag.partition(":")[2] for tag in answer.tags or () if tag.startswith("license:")]
    licence = stated if isinstance(stated, str) else next(iter(tags), "")
    return licence[:80] or "not stated"


def _choose_files(
    repository: str, files: Sequence[RemoteFile], wanted: str | None, number_format: str | None
) -> list[RemoteFile]:
    """Choose the weights and what belongs to them: a GGUF file with its parts, or a checkpoint's folder."""
    by_name = {file.path: file for file in files}
    ggufs = [file.path for file in files if file.path.endswith(".gguf") and "mmproj" not in file.path]
    if wanted:
        if wanted not in by_name:
            raise DownloadError(f"{repository} has no file {wanted}{_list_names(ggufs)}")
        return [by_name[path] for path in _find_parts(wanted, ggufs)]
    if not number_format:
        for pattern in _WEIGHTS:
            if weights := [file for file in files if pattern.fullmatch(file.path)]:
                others = [file for file in files if _OTHER_FILES.fullmatch(file.path)]
                return [*weights, *sorted(others, key=lambda file: file.path == "config.json")]
    for one in (number_format,) if number_format else _FORMATS:
        pattern = re.compile(rf"(?:^|[-._/]){re.escape(one)}(?=[-._/])", re.IGNORECASE)
        if found := [path for path in ggufs if pattern.search(path)]:
            whole = [path for path in found if SPLIT_NAME.fullmatch(PurePosixPath(path).name) is None]
            return [by_name[path] for path in _find_parts((whole or found)[0], ggufs)]
    what = f"no GGUF file in {number_format}" if number_format else "no weights that can be used"
    raise DownloadError(f"{repository} has {what}{_list_names(ggufs)}")


def _list_names(paths: Sequence[str]) -> str:
    return f"; it has {', '.join(sorted(paths)[:8])}" if paths else ""


def _find_parts(path: str, paths: Sequence[str]) -> list[str]:
    """Return a file, or all parts of a split model, the first one first."""
    match = SPLIT_NAME.fullmatch(PurePosixPath(path).name)
    if match is None:
        return [path]
    folder = path[: -len(PurePosixPath(path).name)]
    return sorted(
        one for one in paths if one.startswith(f"{folder}{match[1]}-") and one.endswith(f"-of-{match[3]}.gguf")
    )


def _download_file(plan: DownloadPlan, file: RemoteFile, done: int, report: Report) -> None:
    """Download a file, or the rest of it.

    `hf_hub_download` begins again when a process was killed (huggingface_hub 2.4); this resumes, by the function that
    it uses itself.
    """
    path = plan.folder / file.path
    if path.is_file() and path.stat().st_size == file.nbytes:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{plan.revision[:8]}.part")
    try:
        _fetch(plan, file, part, lambda count: report(done + count, plan.nbytes))
    except DownloadCancelledError:
        raise
    except Exception as error:  # of the network, the hub and the disk, of many types
        explained = _explain(plan.repository, error)
        raise DownloadError(f"{explained}; what is here is kept, run it again to resume") from error
    if file.sha256 and _hash(part) != file.sha256:
        part.unlink()
        raise DownloadError(
            f"{file.path} arrived damaged: its hash is not the one of the hub. It was removed; run it again"
        )
    part.replace(path)


def _fetch(plan: DownloadPlan, file: RemoteFile, part: Path, report: Callable[[int], None]) -> None:
    """Append what is missing of a file to the part that is here."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, logging

    logging.set_verbosity_error()  # it warns of each cut that it then resumes
    url, headers = hf_hub_url(plan.repository, file.path, revision=plan.revision), build_hf_headers()
    location = get_hf_file_metadata(url, headers=headers, timeout=_TIMEOUT).location
    if urlsplit(location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a storage's address is signed, and the token is not its business
    with part.open("ab") as stream:
        if stream.tell() > file.nbytes:
            stream.truncate(0)
        if (resume_size := stream.tell() if stream.tell() <= file.nbytes else 0) < file.nbytes:
            bar = _make_bar(report)
            http_get(
                location, stream, resume_size=resume_size, headers=headers, expected_size=file.nbytes, tqdm_class=bar
            )


def _make_bar(report: Callable[[int], None]) -> Any:
    """Make the class of a progress bar that reports its bytes, and shows nothing of its own."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self.count = int(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.count += int(n or 0)
            report(self.count)

    return Bar


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _explain(repository: str, error: Exception) -> str:
    """Say what went wrong in one clause, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repository} is only for those who accepted its licence: do so on its page of the hub, then log in with "
            "`hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repository} is not on the hub, or it is private"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repository} cannot be downloaded: the variable HF_HUB_OFFLINE is set"
    response = getattr(error, "response", None)
    if response is not None:
        return f"the hub answered with status {response.status_code} for {repository}; try later"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename} cannot be written: {error.strerror}"
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .")
    return f"{repository} cannot be downloaded ({first_line:.160}); check the network"
