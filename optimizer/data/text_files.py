"""Text files as decoded lines, whatever program saved them: UTF-8, UTF-16 with its mark, or an encoding that is named.

An unmarked file that is not UTF-8 is refused, with the encoding that it most likely has: a wrong guess would turn
letters into others without a sign, so a person confirms it.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path

from optimizer.errors import ConfigError, DataError, did_you_mean

SAMPLE_BYTES = 200_000
MAX_NAME_CHARS = 200
_TYPED = "\u20ac\u00a3\u00b0\u00a7\u00ab\u00bb\u2013\u2014\u2018\u2019\u201c\u201d\u201e\u2026\u00a0\u00bf\u00a1\u2022"
# Longer marks first: UTF-32's begins like UTF-16's. A mark leaves no doubt, so these need no setting.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def is_utf8(path: Path) -> bool:
    """Whether all of a file can be read as UTF-8; then no other encoding has to be named for it."""
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return True


def read_lines(path: Path, name: str, encoding: str | None = None) -> Iterator[str]:
    """Yield decoded lines with their ends; a byte order mark is dropped.

    Args:
        name: what messages call the file.
        encoding: as Python names it; None for UTF-8, or what the file's mark says.

    Raises:
        DataError: while walking: the file cannot be read, or is not text in this encoding.
    """
    used = encoding
    try:
        used = marked_encoding(path) or encoding or "utf-8"
        with path.open(encoding=used, newline="") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise DataError(
                        f"{name}:{number}: holds a NUL byte, so it is a binary or UTF-16 file; "
                        "expected UTF-8 text; save it again as UTF-8"
                    )
                yield line
    except UnicodeError:
        if encoding is not None:
            raise DataError(
                f"{name}: is not text in {encoding!r}, which data.encoding names; save it as UTF-8, or name another"
            ) from None
        raise DataError(_bad_byte(path, name)) from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}; check the file's permissions") from None


def marked_encoding(path: Path) -> str | None:
    """Return the encoding that the file's byte order mark names, or None."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def guess_encoding(path: Path) -> str | None:
    """Return the encoding to name for a file, or None when none need be named or none fits.

    Western European text is Windows-1252 far more often than any of its relatives, which differ in a few letters.
    """
    if marked_encoding(path):
        return None
    sample = _sample(path)
    if _decodes(sample, "utf-8") or _is_damaged_utf8(sample):
        return None
    if _decodes(sample, "cp1252") and _reads_western(sample.decode("cp1252")):
        return "cp1252"
    for encoding in ("cp932", "euc_jp"):  # short Japanese texts are taken for Korean otherwise
        if _decodes(sample, encoding) and _share_of_kana(sample.decode(encoding)) > 0.2:
            return encoding
    from charset_normalizer import from_bytes  # slow to import, and needed for few files

    best = from_bytes(sample).best()
    return best.encoding if best is not None else None


def _sample(path: Path) -> bytes:
    with path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
    return sample[: sample.rfind(b"\n") + 1] or sample


def _is_damaged_utf8(sample: bytes) -> bool:
    """Whether most of what is not ASCII is proper UTF-8, which text in another encoding hardly ever is by chance."""
    text = sample.decode(errors="replace")
    n_bad = text.count("\ufffd")
    return sum(ord(char) > 127 for char in text) - n_bad > 2 * n_bad


def _reads_western(text: str) -> bool:
    """Most letters are plain ones, and nearly all others are letters or marks that people write."""
    letters = [char for char in text if char.isalpha()]
    other = [char for char in text if ord(char) > 127]
    n_usual = sum(char.isalpha() or char in _TYPED for char in other)
    return sum(ord(char) > 127 for char in letters) < 0.25 * len(letters) and n_usual >= 0.9 * len(other)


def _share_of_kana(text: str) -> float:
    return sum("\u3040" <= char <= "\u30ff" for char in text) / max(1, len(text))


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        return "\0" not in sample.decode(encoding)
    except UnicodeError:
        return False


def _bad_byte(path: Path, name: str) -> str:
    """Find the first byte that is no UTF-8; the decoder's own offset counts from its last buffer."""
    offset = 0
    with path.open("rb") as file:
        head = file.read(4096)
        if b"\0" in head:
            return f"{name}:1: is a binary or UTF-16 file; expected UTF-8 text; save it again as UTF-8"
        file.seek(0)
        for number, line in enumerate(file, 1):
            if (start := _first_bad(line)) is not None:
                place = f"{name}:{number}: byte 0x{line[start]:02x} at offset {offset + start} of the file is not UTF-8"
                if _is_damaged_utf8(_sample(path)):
                    return (
                        f"{place}, though most of the file is: it is damaged here; mend this line, or leave such bytes "
                        f"out with `iconv -c -f UTF-8 -t UTF-8 {path.name} > utf8-{path.name}`"
                    )
                guess = guess_encoding(path) or "cp1252"
                return (
                    f"{place}; it looks like {guess}: set data.encoding: {guess}, or save it as UTF-8, for example "
                    f"with `iconv -f {guess} -t UTF-8 {path.name} > utf8-{path.name}`"
                )
            offset += len(line)
    return f"{name}: changed while it was read; try again"


def _first_bad(line: bytes) -> int | None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def text_of(words: str | None) -> str:
    """Return the text, or that of the file that `@FILE` names.

    Raises:
        ConfigError: the file cannot be read, or the text is the name of one.
    """
    if not words or not words.startswith("@"):
        if words and not re.search(r"\s", words) and len(words) < MAX_NAME_CHARS and Path(words).is_file():
            raise ConfigError(f"{words!r} is a file, not a prompt; give @{words} for what it holds")
        return words or ""
    name = words[1:]
    if not name.strip():
        raise ConfigError("'@' names no file; give its name after the @, such as @prompt.txt")
    try:
        path = Path(name).expanduser()
        return path.read_text(encoding=marked_encoding(path) or "utf-8")
    except FileNotFoundError:
        raise ConfigError(not_found(path)) from None
    except IsADirectoryError:
        raise ConfigError(f"{name!r} is a folder; name the file with the text") from None
    except UnicodeError:
        raise ConfigError(f"{name!r} is not UTF-8 text; save it again as UTF-8") from None
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a NUL in it, an unknown ~user
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"the file {name[:60]!r} cannot be read: {why}; after an @ comes the name of a file"
        ) from None


def not_found(path: Path, suffixes: tuple[str, ...] = ("",)) -> str:
    """Say where a file was looked for, and what there is called nearly so or, of these kinds, lies there."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"no file {str(path)!r}: there is no folder {str(folder)!r}"
    names = sorted(os.listdir(folder)) if os.access(folder, os.R_OK) else []
    names = [name for name in names if name.lower().endswith(suffixes)]
    there = "" if "" in suffixes or not names else f" Files there: {', '.join(names[:5])}"
    stems: dict[str, str] = {}
    for name in names:  # an ending in common makes no two names alike
        if not path.suffix or Path(name).suffix.lower() == path.suffix.lower():
            stems.setdefault(Path(name).stem, name)
    hint = did_you_mean(path.stem, stems)
    hint = hint or next((f" Did you mean {stem!r}?" for stem in stems if stem in path.stem.split()), "")
    for stem, name in stems.items():
        hint = hint.replace(f" {stem!r}?", f" {name!r}?")
    return f"no file {path.name!r} in {str(folder)!r}.{hint or there}"
